"""Kernels given rotations, points and shifts that are no numbers, or far too large."""

import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from cryorefine.geometry.symmetry import parse_symmetry
from cryorefine.kernels import dispatch, reference
from cryorefine.kernels.grid import (
    HALO,
    OUTSIDE,
    fold_accumulator,
    make_accumulator,
    make_slice_grid,
)
from cryorefine.kernels.poses import LevenbergMarquardt, PoseProblem
from cryorefine.reconstruct.symmetrise import coset_representatives

from .problems import ball_of_noise, poses_and_points, relative_error

ODD = [math.nan, math.inf, -math.inf, 1e30, -1e30, 1e37, 1e9, -1e9, 40.0]
SIZE_PX = 16


def odd_poses(value: float) -> tuple[Tensor, Tensor]:
    """Rotations of which two hold a value, and points of which the first does."""
    rotations, points = poses_and_points(SIZE_PX, 4)
    rotations, points = rotations.clone(), points.clone()
    rotations[1, 0, 0] = value
    rotations[2, 0] = value
    points[0, 1] = value
    return rotations, points


def assert_alike(fast: Tensor, slow: Tensor) -> None:
    """NaN in the same places, and the same elsewhere but for single precision."""
    is_nan = torch.isnan(slow.abs())
    assert torch.equal(torch.isnan(fast.abs()), is_nan)
    assert relative_error(fast[~is_nan], slow[~is_nan]) < 1e-4


@pytest.mark.parametrize("value", ODD)
def test_samples_that_are_not_in_the_grid_are_nan_and_the_others_as_ever(value):
    rotations, points = odd_poses(value)
    grid = make_slice_grid(ball_of_noise(SIZE_PX), SIZE_PX / 2)
    found = dispatch.extract_slices(grid, rotations, points)
    assert_alike(found, reference.extract_slices(grid, rotations, points))
    assert torch.isnan(found[2].abs()[1:]).any()
    assert not torch.isnan(found[0].abs()[1:]).any()


@pytest.mark.parametrize("value", ODD)
def test_what_is_inserted_nowhere_makes_the_first_points_of_the_sums_nan(value):
    rotations, points = odd_poses(value)
    generator = torch.Generator().manual_seed(3)
    shape = len(rotations), len(points)
    values = torch.randn(*shape, dtype=torch.complex64, generator=generator)
    weights = torch.rand(*shape, generator=generator)
    fast, slow = (make_accumulator(SIZE_PX, SIZE_PX / 2) for _ in range(2))
    dispatch.insert_slices(fast, rotations, points, values, weights)
    reference.insert_slices(slow, rotations, points, values, weights)
    assert_alike(fast.values, slow.values)
    assert_alike(fast.weights, slow.weights)
    assert torch.isnan(fast.weights[:3, :3, :3]).all()
    assert torch.isfinite(fast.weights[3:]).all()


@pytest.mark.parametrize("where", ["rotation", "shift", "image", "transfer", "prior"])
@pytest.mark.parametrize("value", [math.nan, math.inf, 1e30, -1e30])
def test_a_start_that_is_no_number_disturbs_no_other(where, value):
    rotations, points = poses_and_points(SIZE_PX, 3)
    grid = make_slice_grid(ball_of_noise(SIZE_PX), SIZE_PX / 2)
    x = reference.extract_slices(grid, rotations, points).to(torch.complex64)
    shifts = torch.zeros(3, 2, dtype=torch.float64)
    problem = PoseProblem(
        x=x.clone(), c=torch.ones(x.shape), points=points, k_px=points.long(),
        image_size_px=SIZE_PX, image_of=torch.arange(3), rotations=rotations.clone(),
        shifts_px=shifts, prior_shift_px=torch.zeros(3, 2, dtype=torch.float64),
        prior_precision=0.1,
    )  # fmt: skip
    options = LevenbergMarquardt(5, 4.0, 0.1, 1.0)
    undisturbed = dispatch.refine_poses(grid, problem, options)
    target = {
        "rotation": problem.rotations, "shift": problem.shifts_px, "image": problem.x,
        "transfer": problem.c, "prior": problem.prior_shift_px,
    }[where]  # fmt: skip
    target[1] = value
    found = dispatch.refine_poses(grid, problem, options)
    slow = reference.refine_poses(grid, problem, options)
    others = torch.tensor([0, 2])
    assert torch.equal(found.rotations[others], undisturbed.rotations[others])
    assert torch.equal(found.score[others], undisturbed.score[others])
    assert torch.allclose(slow.score[others], found.score[others], rtol=1e-3)
    if math.isnan(value) and where != "prior":
        assert torch.isnan(found.score[1])
        assert torch.isnan(slow.score[1])


@pytest.mark.parametrize("value", [math.nan, 2.0])
def test_rotations_that_do_not_permute_grid_points_are_not_taken_for_such(value):
    acc = make_accumulator(SIZE_PX, SIZE_PX / 2)
    values, weights = fold_accumulator(acc)
    turns, exact = coset_representatives(parse_symmetry("d2"))
    exact = exact.clone()
    exact[1, 0, 0] = value
    with pytest.raises(ValueError, match="does not permute"):
        dispatch.permute_grid(values, weights, acc.centre, exact)
    with pytest.raises(ValueError, match="does not permute"):
        dispatch.rotate_grid(values, weights, acc.centre, acc.step, turns, exact)


@pytest.mark.parametrize("value", [math.nan, 2.0, 1e30])
def test_a_grid_is_not_rotated_by_what_is_no_rotation(value):
    acc = make_accumulator(SIZE_PX, SIZE_PX / 2)
    values, weights = fold_accumulator(acc)
    turns = torch.eye(3, dtype=torch.float64)[None].clone()
    turns[0, 1, 1] = value
    with pytest.raises(ValueError, match="no rotation"):
        dispatch.rotate_grid(values, weights, acc.centre, acc.step, turns, turns[:0])


def test_candidates_that_are_no_rows_are_passed_over():
    rotations, _ = poses_and_points(SIZE_PX, 3)
    index = torch.tensor([[-1, 0, 7, 2]])
    score = torch.tensor([[4.0, math.nan, 2.0, 1.0]])
    chosen, _ = dispatch.pick_separated(
        index, score, rotations.double(), torch.eye(3, dtype=torch.float64)[None],
        cos_apart=2.0, keep=3, window=10.0,
    )  # fmt: skip
    assert chosen.tolist() == [[0, 2, -1]]


def test_a_sample_rounded_to_a_whole_step_from_its_neighbour_reads_the_table_within_it():
    grid = make_slice_grid(ball_of_noise(SIZE_PX), SIZE_PX / 2)
    rotation = torch.eye(3, dtype=torch.float64)[None]
    just_below = torch.nextafter(torch.tensor(-0.5), torch.tensor(-1.0)).item() / grid.step
    points = torch.tensor([[2.0, just_below]])
    found = dispatch.extract_slices(grid, rotation, points)
    assert_alike(found, reference.extract_slices(grid, rotation, points))


@pytest.mark.slow
def test_all_kernels_stay_within_their_arrays_when_every_index_is_checked(tmp_path):
    """numba checks what it compiles itself; the vector loads of ``taps`` are not among it."""
    code = """
from cryorefine.kernels import dispatch
from cryorefine.kernels.grid import make_slice_grid
from tests.kernels import compile_orders
from tests.kernels.problems import ball_of_noise
from tests.kernels.test_odd_coordinates import ODD, SIZE_PX, odd_poses
grid = make_slice_grid(ball_of_noise(SIZE_PX), SIZE_PX / 2)
for value in ODD:
    dispatch.extract_slices(grid, *odd_poses(value))
kernels = compile_orders.kernels()
for name, problem in compile_orders.problems().items():
    problem(kernels[name])
print("done")
"""
    environment = {
        **os.environ, "NUMBA_BOUNDSCHECK": "1", "NUMBA_CACHE_DIR": str(tmp_path),
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2]), *sys.path]),
    }  # fmt: skip
    ended = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    assert (ended.returncode, ended.stdout) == (0, "done\n"), ended.stderr


@pytest.mark.parametrize("value", ODD)
def test_the_last_element_that_any_sample_reads_is_in_the_array(value):
    """Of the places that ``locate`` gives; see ``taps`` for what is read about them."""
    from tests.kernels.places import places

    rotations, points = odd_poses(value)
    grid = make_slice_grid(ball_of_noise(SIZE_PX), SIZE_PX / 2)
    n_z, n_y, n_x = grid.values.shape
    corner = grid.centre - 1.0
    far = torch.tensor([[corner, corner, corner]]) / grid.step
    for rotation in [*rotations, torch.cat([far, far, far])]:
        at, tables = places(grid, rotation, torch.cat([points, torch.tensor([[1.0, 0.0]])]))
        assert at.min() >= 0
        assert at.max() + 2 * n_y * n_x + 2 * n_x + 3 < n_z * n_y * n_x
        assert tables.min() >= 0
        assert tables.max() <= OUTSIDE
    assert n_x == grid.centre + 1 + HALO
