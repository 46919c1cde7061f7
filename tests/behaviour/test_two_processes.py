"""Two commands at once on one folder: one of them works in it, and nothing is mixed.

The first is held at a chosen change of its files while the second runs from beginning to end, or
both run freely, the second a chosen time after the first. Iterations are those of an earlier run.
"""

import os
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from cryorefine.cli import run_display
from cryorefine.cli.main import main
from cryorefine.errors import InputError
from cryorefine.events import IterationBegun, read_events
from tests.crash_points import begun_apart, ended_apart, killed_at, met_at
from tests.robustness.judged import Ended, case_count, ended_here, problem_of_command

from .canned import Canned
from .test_full_disk import arguments_of
from .test_kill_points import again, assert_same

PAIRS = (
    ("refine", "refine"), ("refine", "resume"), ("resume", "resume"), ("resume", "overwrite"),
    ("overwrite", "resume"), ("overwrite", "overwrite"),
)  # fmt: skip
"""The first command, and the one beside it."""
REFUSED = 2
IN_THE_WAY = ("works in the folder", "--overwrite", "no run to resume", "before its first")
"""What a command may be refused with where another came first."""


@pytest.fixture(scope="module")
def canned(canned) -> Iterator[Canned]:
    with canned.in_use(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_display, "write_report", lambda run: None)  # its pictures take longest
        yield canned


def arguments(canned: Canned, command: str, run: Path) -> list[str]:
    if command == "resume":
        return ["resume", str(run)]
    refine = [str(a) for a in arguments_of(canned, run)]
    return [*refine, "--overwrite"] if command == "overwrite" else refine


def prepare(canned: Canned, command: str, run: Path) -> None:
    """Fill a folder with what is there before a command."""
    if command != "refine":
        shutil.copytree(canned.folder, run)
    if command == "resume":
        shutil.rmtree(run / "iteration_002")


def problem_of_both(canned: Canned, run: Path, both: tuple[Ended, Ended]) -> str:
    """Return what is wrong with how two commands ended, and with what they left."""
    for ended in both:
        problem = problem_of_command(ended)
        if problem or ended.code not in (0, REFUSED):
            return problem or f"{ended.code}: {ended.error[-300:]}"
        if ended.code and not any(part in ended.error for part in IN_THE_WAY):
            return f"refused otherwise: {ended.error[-300:]}"
    if all(ended.code for ended in both):
        return f"neither worked: {both[0].error[-200:]}; {both[1].error[-200:]}"
    begun = [e.iteration for e in read_events(run / "events.jsonl")
             if isinstance(e, IterationBegun)]  # fmt: skip
    if begun not in ([1, 2], [1, 2, 2]):  # again where the second one was removed before
        return f"iterations began {begun}"
    try:
        again(run, canned)
        assert_same(run, canned)
    except (AssertionError, InputError) as error:
        return f"{type(error).__name__}: {str(error)[:300]}"
    return ""


@pytest.mark.parametrize("pair", PAIRS, ids="-".join)
def test_of_two_commands_on_one_folder_one_is_held_at_any_point_and_nothing_is_mixed(
    canned, tmp_path, pair
):
    first, second = pair
    prepare(canned, first, tmp_path / "counted")
    with killed_at(0) as counted, pytest.raises(SystemExit):
        main(arguments(canned, first, tmp_path / "counted"))
    problems, run, error = [], tmp_path / "run", tmp_path / "error"
    for point in np.linspace(1, counted.n, case_count(2, share=400)).round().astype(int).tolist():
        prepare(canned, first, run)

        def held(point: int = point) -> None:
            with met_at(point, lambda: os.kill(os.getpid(), signal.SIGSTOP)):
                main(arguments(canned, first, run))

        child = begun_apart(held, error)
        assert os.WIFSTOPPED(os.waitpid(child, os.WUNTRACED)[1])
        beside = ended_here(arguments(canned, second, run))
        os.kill(child, signal.SIGCONT)
        ended = Ended(ended_apart(child), error.read_text())
        problem = problem_of_both(canned, run, (ended, beside))
        if problem:
            problems.append(f"{pair}, held at {point} of {counted.n}: {problem}")
        shutil.rmtree(run)
    assert not problems, "\n".join(problems)


@pytest.mark.slow  # where one is held at a point of the other, what happens is the same each time
@pytest.mark.parametrize("pair", PAIRS, ids="-".join)
def test_of_two_commands_on_one_folder_that_run_freely_nothing_is_mixed(canned, tmp_path, pair):
    first = pair[0]
    prepare(canned, first, tmp_path / "timed")
    began = time.monotonic()
    assert ended_here(arguments(canned, first, tmp_path / "timed")).code == 0
    takes_s = time.monotonic() - began
    problems, run = [], tmp_path / "run"
    for after_s in np.linspace(0.0, 1.2 * takes_s, case_count(1, share=400)).tolist():
        prepare(canned, first, run)
        children = []
        for i, command in enumerate(pair):
            time.sleep(i * after_s)
            children.append(
                begun_apart(
                    lambda command=command: main(arguments(canned, command, run)),
                    tmp_path / f"error{i}",
                )
            )
        ended = [
            Ended(ended_apart(child), (tmp_path / f"error{i}").read_text())
            for i, child in enumerate(children)
        ]
        problem = problem_of_both(canned, run, (ended[0], ended[1]))
        if problem:
            problems.append(f"{pair}, after {after_s:.3f} s: {problem}")
        shutil.rmtree(run)
    assert not problems, "\n".join(problems)
