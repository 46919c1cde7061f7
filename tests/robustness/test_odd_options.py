"""All options of all commands with odd values: used, or refused in one line."""

import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.robustness.judged import case_count, ended_here, problem_of_command
from tests.robustness.odd_options import make_odd_places, odd_commands
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
}


def test_no_option_of_any_command_makes_a_traceback_of_an_odd_value(places):
    cases = list(odd_commands(BASES))
    random = np.random.default_rng(5)
    problems = []
    for i in random.permutation(len(cases))[: case_count(150, share=1)]:
        case = cases[i]
        before = sorted(places.rglob("*"))
        problem = problem_of_command(ended_here(case.arguments))
        if not problem and sorted(places.rglob("*")) != before:
            problem = "left something behind"
        if problem:
            problems.append(f"{case.odd}: {problem}")
    assert not problems, f"{len(problems)}\n" + "\n".join(problems)
