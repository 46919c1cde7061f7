"""Run many commands quickly, each in a process of its own that may die.

    python -m tests.robustness.serve < CASES > RESULTS

Each line of standard input is a JSON object with ``arguments`` of the command line and a
``limit_s``; each line of standard output says with which ``code`` the command ended (negative: by
which signal; null: not within its time) and what it wrote to standard ``error``. Modules are loaded
once; a child is forked for each command. One with ``stays`` runs in this process instead, so that
all children after it find the kernels loaded.
"""

import json
import os
import signal
import sys
import tempfile
import time
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path

__all__ = ["main"]


def _run(arguments: list[str], error: Path) -> None:
    """Be the child: run a command, with its errors to a file, and end."""
    from cryorefine.cli.main import main as command

    descriptor = os.open(error, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 0)
    os.dup2(nothing, 1)
    os.dup2(descriptor, 2)
    code = 70  # what no command ends with
    try:
        command(arguments)
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 0
    except BaseException:
        import traceback

        traceback.print_exc()
    sys.stderr.flush()
    os._exit(code)


def _wait(child: int, limit_s: float) -> int | None:
    """Return the code that a child ends with; end it, and return None, when its time is over."""
    end = time.monotonic() + limit_s
    while time.monotonic() < end:
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None


def _stayed(arguments: list[str]) -> int:
    """Run a command in this process, with nothing said; returns its code."""
    from cryorefine.cli.main import main as command

    with redirect_stdout(StringIO()), redirect_stderr(StringIO()):
        try:
            command(arguments)
        except SystemExit as end:
            return end.code if isinstance(end.code, int) else 0
    return 0


def main() -> None:
    """Serve until standard input ends."""
    from cryorefine.cli.environment import prepare_environment

    prepare_environment()
    import cryorefine.run.loop  # noqa: F401 - loaded once, for all children

    with tempfile.TemporaryDirectory() as folder:
        error = Path(folder) / "error"
        for line in sys.stdin:
            case = json.loads(line)
            if case["stays"]:
                print(json.dumps({"code": _stayed(case["arguments"]), "error": ""}), flush=True)
                continue
            child = os.fork()
            if child == 0:
                _run(case["arguments"], error)
            code = _wait(child, case["limit_s"])
            text = error.read_text(errors="replace") if error.exists() else ""
            print(json.dumps({"code": code, "error": text}), flush=True)


if __name__ == "__main__":
    main()
