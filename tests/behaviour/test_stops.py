"""Commands stopped at chosen system calls by real signals, and gone on with.

Each command runs in a process of its own, forked from this one, that sends itself ``kill -9``,
SIGTERM or SIGINT right before a call that opens, fills, renames or removes a file. Iterations are
those of an earlier run (``canned.py``), so that hundreds of stops take minutes. Wherever a command
is stopped, going on gives the bits of one that nobody stopped.
"""

import os
import shutil
import signal
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from cryorefine.cli import run_display
from cryorefine.cli.main import main
from cryorefine.errors import InputError
from cryorefine.io.atomic import write_text
from cryorefine.run.loop import resume
from cryorefine.storage.layout import committed_iterations
from tests.crash_points import assert_whole, begun_apart, ended_apart, killed_at, met_at
from tests.robustness.judged import Ended, case_count, problem_of_command

from .canned import Canned
from .test_full_disk import arguments_of
from .test_kill_points import again, assert_same

SHARES = {"a new run": 13, "publishing": 27, "overwriting": 27, "a report": 60}
"""By kind of command, so large a part of ``CRYOREFINE_FUZZ`` is tried: of 2000 are 301 kills, and
those of a report."""
KINDS = [
    "a new run",
    *(pytest.param(k, marks=pytest.mark.slow) for k in SHARES if k != "a new run"),
]
"""Kills while a run publishes or overwrites: also in ``test_kill_points.py``."""
SIGNALS = (signal.SIGTERM, signal.SIGINT)
PAGE = "report.html"
STOPPED_EARLY = 3
"""The code of a command that a signal has stopped."""


@pytest.fixture(scope="module")
def canned(canned) -> Iterator[Canned]:
    with canned.in_use(), pytest.MonkeyPatch.context() as patch:
        # Pictures cost more than all else: only the command for the report draws them.
        patch.setattr(run_display, "write_report", lambda run: write_text(run / PAGE, "<html>"))
        yield canned


def main_ended(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert not stop.value.code


def prepared(canned: Canned, kind: str, run: Path) -> list[str]:
    """Fill a folder with what is there before a command, and return its arguments."""
    refine = [str(a) for a in arguments_of(canned, run)]
    if kind == "a new run":
        return refine
    shutil.copytree(canned.folder, run)
    if kind == "publishing":
        shutil.rmtree(run / "iteration_002")
    return {
        "publishing": ["resume", str(run)],
        "overwriting": [*refine, "--overwrite"],
        "a report": ["report", str(run)],
    }[kind]


def points(n: int, count: int) -> list[int]:
    return np.unique(np.linspace(1, n, min(n, count)).round().astype(int)).tolist()


def stopped_at(arguments: list[str], point: int, number: int, error: Path) -> Ended:
    """Run a command in a process that sends itself a signal before a change of its files."""

    def act() -> None:
        with met_at(point, lambda: os.kill(os.getpid(), number)):
            main(arguments)

    code = ended_apart(begun_apart(act, error))
    return Ended(code, error.read_text())


def problem_of_stop(
    canned: Canned, kind: str, folder: Path, point: int, number: signal.Signals
) -> str:
    """Stop a command, and go on; return what is wrong with how it ended."""
    run = folder / "run"
    arguments = prepared(canned, kind, run)
    ended = stopped_at(arguments, point, number, folder / "error")
    if number == signal.SIGKILL:
        if ended.code != -signal.SIGKILL:
            return f"not killed: {ended.code}: {ended.error[-300:]}"
    else:  # a signal that comes last of all may find nothing more to stop
        problem = problem_of_command(ended)
        if problem or ended.code not in (0, STOPPED_EARLY):
            return f"{problem or ended.code}: {ended.error[-300:]}"
        if ended.code and "stopped by" not in ended.error:
            return f"does not say what stopped it: {ended.error[-300:]}"
    if kind == "overwriting":
        with suppress(InputError):  # the old run, or none
            assert resume(run)["iterations"] == 2
            assert_same(run, canned)
    if kind == "publishing":
        assert committed_iterations(run)[:2] == [0, 1]
    again(run, canned)
    assert_same(run, canned)
    assert_whole(run)
    if (run / PAGE).exists() and kind == "a report":
        assert (run / PAGE).read_text().rstrip().endswith("</html>")
    return ""


def problems_of_stops(
    canned: Canned, kind: str, folder: Path, count: int, numbers: tuple[signal.Signals, ...]
) -> list[str]:
    arguments = prepared(canned, kind, folder / "counted")
    for _ in range(2 if kind == "a report" else 1):  # the first report sets up what draws it
        with killed_at(0) as counted:
            main_ended(arguments)
    assert counted.n > (2 if kind == "a report" else 60)
    problems = []
    for i, point in enumerate(points(counted.n, count)):
        number = numbers[i % len(numbers)]
        try:
            problem = problem_of_stop(canned, kind, folder, point, number)
        except (AssertionError, InputError) as error:
            problem = f"{type(error).__name__}: {str(error)[:500]}"
        if problem:
            problems.append(f"{kind}, {number.name} at {point} of {counted.n}: {problem}")
        shutil.rmtree(folder / "run", ignore_errors=True)
    return problems


@pytest.mark.parametrize("kind", KINDS)
def test_a_command_killed_at_a_system_call_goes_on_to_the_bits_of_one_that_was_not(
    canned, tmp_path, kind
):
    count = case_count(2, share=SHARES[kind])
    problems = problems_of_stops(canned, kind, tmp_path, count, (signal.SIGKILL,))
    assert not problems, "\n".join(problems)


@pytest.mark.parametrize("kind", KINDS)
def test_a_command_that_gets_a_signal_at_a_system_call_stops_cleanly_and_goes_on(
    canned, tmp_path, kind
):
    count = case_count(2, share=3 * SHARES[kind])
    problems = problems_of_stops(canned, kind, tmp_path, count, SIGNALS)
    assert not problems, "\n".join(problems)
