"""Run a command and say what it cost, by the kernel's own count.

    python benchmarks/measured.py COST.json COMMAND ...

Only the standard library: each rank of an MPI program runs under it.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

_RSS_UNIT = 1 if sys.platform == "darwin" else 1024


@dataclass(frozen=True)
class Cost:
    """What a process and its finished children used; ``peak_bytes`` is of the largest one."""

    cpu_s: float
    wall_s: float
    peak_bytes: int


def measure(command: Sequence[object], log: Path | None = None) -> tuple[int, Cost]:
    """Return exit status and cost of a command; its output goes to ``log``, if given."""
    begin = time.perf_counter()
    output = log.open("wb") if log else None
    try:
        process = subprocess.Popen([*map(str, command)], stdout=output, stderr=output)
    finally:
        if output:
            output.close()
    # wait4 counts this child alone: RUSAGE_CHILDREN sums over all that ever ran.
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    cost = Cost(
        cpu_s=usage.ru_utime + usage.ru_stime,
        wall_s=time.perf_counter() - begin,
        peak_bytes=usage.ru_maxrss * _RSS_UNIT,
    )
    return process.returncode, cost


if __name__ == "__main__":
    code, used = measure(sys.argv[2:])
    Path(sys.argv[1]).write_text(json.dumps(asdict(used)))
    sys.exit(code)
