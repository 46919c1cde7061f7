"""All options of all commands with odd values: used, or refused in one line."""

import re
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.robustness.judged import Ended, case_count, ended_here, problem_of_command
from tests.robustness.odd_options import OddCommand, command_names, make_odd_places, odd_commands
from tests.robustness.small_set import valid_set


@pytest.fixture
def places(tmp_path, monkeypatch) -> Iterator[Path]:
    """A folder to be in, with a set and odd things beside it; all threads are done afterwards."""
    valid_set().write(tmp_path / "data")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").write_text("mine")
    make_odd_places(tmp_path)
    monkeypatch.chdir(tmp_path)
    before = threading.active_count()
    yield tmp_path
    (tmp_path / "closed").chmod(0o700)
    assert threading.active_count() == before


BASES = {
    # Each ends before it computes: a map is missing, a folder holds something, there is no run.
    "refine": ("data/particles.star", "--output", "run", "--reference", "gone.mrc"),
    "reconstruct": ("data/particles.star", "--output", "run", "--mask", "gone.mrc"),
    "resume": ("gone",),
    "simulate": ("gone.pdb", "--output", "simulated"),
    "report": ("gone",),
    "fsc": ("data/reference.mrc", "gone.mrc", "--output", "fsc.star"),
    "demo": ("--output", "full", "--symmetry", "none"),
    "relion-job": ("--o", "job", "--in_parts", "data/particles.star", "--in_3dref", "gone.mrc"),
    "export": ("gone", "--for", "cryodrgn", "--output", "exported"),
    "inspect": ("gone.star",),
    "restore": ("data/reference.mrc", "gone.mrc", "--output", "restored"),
    "helical-search": ("data/reference.mrc", "gone.mrc", "--output", "found"),
    "convert": ("gone.star", "new.star", "--to", "relion"),
    "symmetry convert": ("gone.mrc", "--from", "i2", "--to", "i1", "--output", "turned.mrc"),
    "symmetry find": ("data/reference.mrc", "gone.mrc"),
}

FAILED = "RELION_JOB_EXIT_FAILURE"
"""What a job of RELION's leaves in its folder, which it makes, whatever else it is given."""


def is_outside(case: OddCommand) -> bool:
    """Tell whether a case would mark a folder as a failed job that is not one of the test's."""
    folders = [b for a, b in zip(case.arguments, case.arguments[1:], strict=False) if a == "--o"]
    return bool(folders) and folders[-1].startswith(("/", ".."))


def problem_of(ended: Ended) -> str:
    """Return what is wrong with how a command ended; ``inspect`` shows what it finds wrong."""
    why = re.search(r'^error: +\S.*\n|"errors": \[\n +"', ended.output, re.MULTILINE)
    if ended.code == 2 and not ended.error and why:
        return ""
    return problem_of_command(ended)


def left_behind(before: set[Path], after: set[Path]) -> set[Path]:
    """Return what is new, or gone, besides marks of failed jobs and the folders for them."""
    marks = {path for path in after if path.name == FAILED}
    return (before ^ after) - marks - {folder for path in marks for folder in path.parents}


def test_every_command_is_tried():
    assert sorted(BASES) == sorted(command_names())


def test_what_a_job_of_relion_leaves_is_its_mark_and_nothing_else(tmp_path):
    before, mark = {tmp_path}, tmp_path / "job" / FAILED
    assert not left_behind(before, {tmp_path, mark.parent, mark})
    assert left_behind(before, {tmp_path, mark.parent, mark, mark.parent / "run"})
    assert left_behind(before, {tmp_path, mark.parent})


def test_no_option_of_any_command_makes_a_traceback_of_an_odd_value(places):
    cases = [case for case in odd_commands(BASES) if not is_outside(case)]
    random = np.random.default_rng(5)
    problems = []
    for i in random.permutation(len(cases))[: case_count(150, share=1)]:
        case = cases[i]
        before = set(places.rglob("*"))
        problem = problem_of(ended_here(case.arguments))
        if not problem and left_behind(before, set(places.rglob("*"))):
            problem = "left something behind"
        if problem:
            problems.append(f"{case.odd}: {problem}")
    assert not problems, f"{len(problems)}\n" + "\n".join(problems)
