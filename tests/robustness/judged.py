"""What odd inputs may do: be used or be refused, in one line that says where; nothing else."""

import json
import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

from cryorefine.cli.main import main
from cryorefine.errors import InputError

__all__ = [
    "Ended",
    "Served",
    "case_count",
    "ended_here",
    "problem_of_call",
    "problem_of_command",
    "served",
    "within",
]

_ROOT = Path(__file__).parents[2]
_LIMIT_S = 300.0
"""For a command; alone it takes a few seconds."""


def case_count(few: int, *, share: int = 1) -> int:
    """Return how many cases to try: a few, or one in ``share`` of ``CRYOREFINE_FUZZ`` if set."""
    many = os.environ.get("CRYOREFINE_FUZZ")
    return few if many is None else max(few, int(many) // share)


def problem_of_call(call: Callable[[], object]) -> str:
    """Return what is wrong with how a call ends: nothing where it returns or refuses its input."""
    try:
        call()
    except InputError as error:
        if len(str(error).splitlines()) != 1 or not error.do:
            return f"bad message: {error}"
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""


@contextmanager
def within(limit_s: int) -> Iterator[None]:
    """End the test with an error where this takes so long that it may never end."""

    def stop(*_: object) -> None:
        raise KeyboardInterrupt(f"not done after {limit_s} s")  # which no code takes for another

    earlier = signal.signal(signal.SIGALRM, stop)
    signal.alarm(limit_s)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, earlier)


@dataclass(frozen=True)
class Ended:
    """How a command ended; see ``serve``. What it wrote to standard output is known in part."""

    code: int | None
    error: str
    output: str = ""


def problem_of_command(ended: Ended) -> str:
    """Return what is wrong with how a command ended, whatever it was given."""
    if ended.code is None:
        return "did not end"
    if ended.code < 0:
        return f"died of signal {-ended.code}"
    if ended.code not in (0, 1, 2, 3) or "Traceback" in ended.error:
        return f"code {ended.code}: {ended.error[-1500:]}"
    complaints = [k for k in ended.error.splitlines() if k.startswith("cryorefine: ")]
    if ended.code > 0 and len(complaints) != 1:
        return f"code {ended.code} without one message: {ended.error[-500:]}"
    return ""


def ended_here(arguments: Sequence[str]) -> Ended:
    """Return how a command ends in this process: quickly, for those that fork no other."""
    error, output = StringIO(), StringIO()
    code = 0
    with redirect_stderr(error), redirect_stdout(output):
        try:
            main(arguments)
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 0
        except BaseException:
            traceback.print_exc(file=error)
            code = 70  # what no command ends with
    return Ended(code, error.getvalue(), output.getvalue())


class Served:
    """Runs commands one after the other."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process

    def run(self, *arguments: object, limit_s: float = _LIMIT_S, stays: bool = False) -> Ended:
        """Return how ``cryorefine`` ends with these arguments; ``stays`` as ``serve`` has it."""
        case = {"arguments": [str(a) for a in arguments], "limit_s": limit_s, "stays": stays}
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(case) + "\n")
        self._process.stdin.flush()
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return Ended(answer["code"], answer["error"])


@contextmanager
def served() -> Iterator[Served]:
    """Start ``serve`` and end it."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(_ROOT), *sys.path])}
    environment |= {"NUMBA_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}  # threads are not forked
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.robustness.serve"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment,
    )  # fmt: skip
    try:
        yield Served(process)
    finally:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.close()
        process.wait()
        process.stdout.close()
