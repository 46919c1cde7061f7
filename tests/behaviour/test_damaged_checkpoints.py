"""Checkpoints with damaged files: refused in one line, or read as they were, to the bit.

What is read and is not what was written would change all that follows, and nobody would know.
"""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from cryorefine.errors import InputError
from cryorefine.run.checkpoint import load_state
from tests.builders import make_state
from tests.robustness.damage import damaged_checkpoint
from tests.robustness.judged import case_count, problem_of_call
from tests.run.test_checkpoint import assert_bit_equal, rewritten, save


@pytest.fixture
def run(tmp_path) -> Path:
    """A folder with two checkpoints."""
    (tmp_path / "run").mkdir()
    for iteration in (1, 2):
        save(tmp_path / "run", make_state(iteration))
    return tmp_path / "run"


def problem_of_reading(run: Path) -> str:
    """Read the second checkpoint; return what is wrong with how that ends."""
    problem = problem_of_call(lambda: load_state(run, 2))
    if problem:
        return problem
    try:
        assert_bit_equal(load_state(run, 2).state, make_state(2))
    except InputError:
        return ""
    except AssertionError:
        return "is read, and is not what was written"
    return ""


def test_damaged_checkpoints_are_refused_or_read_as_they_were(run, tmp_path):
    random, problems = np.random.default_rng(11), []
    n_refused = 0
    whole = Path(shutil.copytree(run, tmp_path / "whole"))
    count = case_count(60, share=4)
    for i in range(count):
        how = damaged_checkpoint(run / "iteration_002", run / "iteration_001", random)
        problem = problem_of_reading(run)
        if problem:
            problems.append(f"case {i}: {how}: {problem}")
        try:
            load_state(run, 2)
        except InputError:
            n_refused += 1
        shutil.rmtree(run)
        shutil.copytree(whole, run)
    assert not problems, "\n".join(problems)
    assert n_refused > count / 2


NUMBERS = (np.nan, np.inf, -np.inf, 1e308, -1e308, 1e20, 5e-324)


@pytest.mark.slow
def test_odd_numbers_in_every_array_of_a_checkpoint_are_refused_or_can_be_computed_with(run):
    path = run / "iteration_002" / "state.npz"
    whole = path.read_bytes()
    with np.load(path, allow_pickle=False) as file:
        names = [k for k in file.files if file[k].dtype.kind == "f" and file[k].size]
    problems = []
    for name, value in ((name, value) for name in names for value in NUMBERS):

        def change(arrays: dict[str, np.ndarray], name: str = name, value: float = value) -> None:
            with np.errstate(over="ignore"):
                arrays[name].flat[arrays[name].size // 2] = value

        rewritten(path, change)
        problem = problem_of_call(lambda: load_state(run, 2))
        try:
            poses = load_state(run, 2).state.poses
            assert poses is not None
            if not all(torch.isfinite(t).all() for t in (poses.rotations, poses.shift_A)):
                problem = problem or "poses that are no numbers are read"
        except InputError:
            pass
        if problem:
            problems.append(f"{name} = {value}: {problem}")
        path.write_bytes(whole)
    assert len(names) * len(NUMBERS) >= 100
    assert not problems, "\n".join(problems)


@pytest.mark.parametrize("version", [-1, 2, 99, 2**62])
def test_a_checkpoint_of_a_version_that_is_not_known_is_refused(run, version):
    rewritten(
        run / "iteration_002" / "state.npz",
        lambda arrays: arrays.update(version=np.array(version)),
    )
    with pytest.raises(InputError, match=r"state\.npz: .*format"):
        load_state(run, 2)
