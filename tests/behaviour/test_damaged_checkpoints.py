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
from cryorefine.run.loop import resume
from tests.robustness.damage import damaged_checkpoint
from tests.robustness.judged import case_count, problem_of_call
from tests.run.test_checkpoint import assert_bit_equal, rewritten

from .canned import Canned
from .test_kill_points import REPRODUCED


def problem_of_damage(canned: Canned, run: Path, number: int) -> str:
    """Read a damaged checkpoint, resume its run, and return what is wrong with how that ends."""
    for call in (lambda: load_state(run, number), lambda: resume(run)):
        problem = problem_of_call(call)
        if problem:
            return problem
        try:
            call()
        except InputError:
            continue
        try:
            assert_bit_equal(load_state(run, number).state, canned.states[number])
        except AssertionError:
            return "is read, and is not what was written"
    for name in (*REPRODUCED, "half1.mrc", "half2.mrc", "mask.mrc"):  # shown, and not damaged
        skipped = 1024 if name.endswith(".mrc") else 0  # the header, which has the time
        if (run / name).read_bytes()[skipped:] != (canned.folder / name).read_bytes()[skipped:]:
            return f"{name} is another now"
    return ""


def test_damaged_checkpoints_are_refused_or_read_as_they_were(canned, tmp_path):
    random, problems = np.random.default_rng(11), []
    n_refused = 0
    for i in range(case_count(16, share=8)):
        run = tmp_path / "run"
        shutil.copytree(canned.folder, run)
        how = damaged_checkpoint(run / "iteration_002", run / "iteration_001", random)
        with canned.in_use():  # where the state is gone, its iteration is made again
            problem = problem_of_damage(canned, run, 2)
        if problem:
            problems.append(f"case {i}: {how}: {problem}")
        try:
            load_state(run, 2)
        except InputError:
            n_refused += 1
        shutil.rmtree(run)
    assert not problems, "\n".join(problems)
    assert n_refused > 5


NUMBERS = (np.nan, np.inf, -np.inf, 1e308, -1e308, 1e20, 5e-324)


def test_odd_numbers_in_every_array_of_a_checkpoint_are_refused_or_can_be_computed_with(
    canned, tmp_path
):
    run = tmp_path / "run"
    shutil.copytree(canned.folder, run)
    path = run / "iteration_002" / "state.npz"
    whole = path.read_bytes()
    with np.load(path, allow_pickle=False) as file:
        names = [k for k in file.files if file[k].dtype.kind == "f" and file[k].size]
    cases = [(name, value) for name in names for value in NUMBERS]
    count = min(len(cases), case_count(14, share=10))
    problems = []
    for i in range(count):
        name, value = cases[len(cases) * i // count]

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
        problem = problem or problem_of_call(lambda: resume(run))
        if problem:
            problems.append(f"{name} = {value}: {problem}")
        path.write_bytes(whole)
    assert not problems, "\n".join(problems)


@pytest.mark.parametrize("version", [-1, 2, 99, 2**62])
def test_a_checkpoint_of_a_version_that_is_not_known_is_refused(canned, tmp_path, version):
    run = tmp_path / "run"
    shutil.copytree(canned.folder, run)
    rewritten(
        run / "iteration_002" / "state.npz",
        lambda arrays: arrays.update(version=np.array(version)),
    )
    for call in (lambda: load_state(run, 2), lambda: resume(run)):
        with pytest.raises(InputError, match=r"state\.npz: .*format"):
            call()
