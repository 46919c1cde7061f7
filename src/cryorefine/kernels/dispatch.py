"""One call for each kernel, for tensors of any device: numba, Triton, or the reference."""

from functools import lru_cache
from typing import Any

import numpy as np
import torch
from jaxtyping import Complex, Float, Int
from torch import Tensor

from cryorefine.compiled import array_of, in_threads
from cryorefine.kernels import cpu, cpu_refinement, cpu_symmetry, reference
from cryorefine.kernels.grid import (
    HALO,
    TABLE_SIZE,
    WIDTH,
    Accumulator,
    SliceGrid,
    packed_table,
)
from cryorefine.kernels.poses import LevenbergMarquardt, PoseProblem, PoseResult

__all__ = [
    "extract_slices",
    "insert_slices",
    "permute_grid",
    "pick_separated",
    "refine_poses",
    "rotate_grid",
]


_ORTHONORMAL = 1e-4
"""By what the products of a rotation's rows may be off: grid points of boxes of a thousand pixels
stay within half a grid point of their sphere then."""


@lru_cache(maxsize=4)
def _twin(device_type: str) -> Any:
    """Return the module whose functions serve a device that is not the CPU."""
    if device_type == "cuda":
        try:
            from cryorefine.kernels import gpu
        except ImportError:  # a build of torch that brings no Triton
            return reference
        return gpu
    return reference


def _reach(points: Float[Tensor, "p 2"]) -> float:
    """Return the largest distance of a point from the origin; NaN if one has none."""
    return float(points.square().sum(1).max().sqrt()) if len(points) else 0.0


def extract_slices(
    grid: SliceGrid, rotations: Float[Tensor, "n 3 3"], points: Float[Tensor, "p 2"]
) -> Complex[Tensor, "n p"]:
    """Read central slices; see :func:`cryorefine.kernels.reference.extract_slices`."""
    if grid.values.device.type != "cpu":
        return _twin(grid.values.device.type).extract_slices(grid, rotations, points)
    out = np.empty((len(rotations), len(points)), np.complex64)
    in_threads(
        cpu.extract_slices,
        len(rotations),
        array_of(grid.values, torch.complex64),
        grid.centre,
        float(grid.step),
        array_of(rotations, torch.float32),
        array_of(points, torch.float32),
        _reach(points),
        packed_table(grid.step),
        out,
    )
    return torch.from_numpy(out)


def insert_slices(
    acc: Accumulator,
    rotations: Float[Tensor, "n 3 3"],
    points: Float[Tensor, "p 2"],
    values: Complex[Tensor, "n p"],
    weights: Float[Tensor, "n p"],
) -> None:
    """Add slices to the sums; see :func:`cryorefine.kernels.reference.insert_slices`."""
    if acc.values.device.type != "cpu":
        _twin(acc.values.device.type).insert_slices(acc, rotations, points, values, weights)
        return
    cpu.insert_slices(
        0,
        len(rotations),
        acc.values.numpy(),
        acc.weights.numpy(),
        acc.centre,
        float(acc.step),
        array_of(rotations, torch.float32),
        array_of(points, torch.float32),
        _reach(points),
        array_of(values, torch.complex64),
        array_of(weights, torch.float32),
        packed_table(acc.step),
    )


def refine_poses(grid: SliceGrid, problem: PoseProblem, options: LevenbergMarquardt) -> PoseResult:
    """Refine to maxima of the likelihood; see :func:`cryorefine.kernels.reference.refine_poses`."""
    if grid.values.device.type != "cpu":
        return _twin(grid.values.device.type).refine_poses(grid, problem, options)
    m = len(problem.image_of)
    rotations = problem.rotations.double().contiguous().clone().numpy()
    shifts = problem.shifts_px.double().contiguous().clone().numpy()
    scores, powers, information = np.empty(m), np.empty(m), np.empty((m, 5, 5))
    in_threads(
        cpu_refinement.refine_poses,
        m,
        array_of(grid.values, torch.complex64),
        grid.centre,
        float(grid.step),
        array_of(problem.points, torch.float32),
        _reach(problem.points),
        array_of(problem.k_px, torch.int32),
        2 * np.pi / problem.image_size_px,
        array_of(problem.x, torch.complex64),
        array_of(problem.c, torch.float32),
        array_of(problem.image_of, torch.int64),
        rotations,
        shifts,
        array_of(problem.prior_shift_px, torch.float64),
        float(problem.prior_precision),
        np.empty((0, 22)) if problem.own is None else array_of(problem.own.packed(), torch.float64),
        array_of(problem.floors, torch.float64),
        options.max_evaluations,
        float(options.max_shift_px),
        float(options.max_turn_rad),
        float(options.max_move_px),
        float(options.tolerance),
        float(options.initial_damping),
        bool(options.informs),
        packed_table(grid.step),
        scores,
        powers,
        information,
    )
    at_edge = np.linalg.norm(shifts, axis=1) > options.max_shift_px * (1 - 1e-6)
    return PoseResult(
        torch.from_numpy(rotations),
        torch.from_numpy(shifts),
        torch.from_numpy(scores),
        torch.from_numpy(powers),
        torch.from_numpy(information),
        torch.from_numpy(at_edge),
    )


def rotate_grid(
    values: Complex[Tensor, "z y x"],
    weights: Float[Tensor, "z y x"],
    centre: int,
    step: float,
    rotations: Float[Tensor, "g 3 3"],
    exact: Float[Tensor, "e 3 3"],
) -> tuple[Complex[Tensor, "z y x"], Float[Tensor, "z y x"]]:
    """Sum a grid over rotations; see :func:`cryorefine.kernels.reference.rotate_grid`.

    The grids must be, and their sums will be, the same after each of the group of rotations
    ``exact``, which permute grid points: on the CPU one point of each orbit is read.

    Raises
    ------
    ValueError
        On the CPU, if a matrix is no rotation: it would lead out of the grid.
    """
    if values.device.type != "cpu":
        return _twin(values.device.type).rotate_grid(values, weights, centre, step, rotations)
    _require_permutations(exact)
    table = packed_table(step)
    products = rotations.double() @ rotations.double().mT
    if not bool(((products - torch.eye(3)).abs() < _ORTHONORMAL).all()):
        raise ValueError("a matrix is no rotation")
    # Rotations about z leave samples in planes of the grid, where all have the same weights
    # along z: these are applied once, to the grid.
    is_in_plane = bool((rotations[:, 2, 2].abs() == 1).all())
    taps = table[TABLE_SIZE // 2, :WIDTH] if is_in_plane else np.array([0, 1, 0], np.float32)
    padded = _zeros((*values.shape[:2], centre + 1 + HALO))
    out = _zeros((*values.shape[:2], centre + 1))
    rows = (2 * centre + 1) ** 2
    arrays = array_of(values, torch.complex64), array_of(weights, torch.float32)
    in_threads(cpu_symmetry.add_halo, rows, *arrays, centre, taps, *padded)
    in_threads(cpu_symmetry.mirror_halo, rows, centre, *padded)
    in_threads(
        cpu_symmetry.rotate_grid,
        rows,
        *padded,
        centre,
        array_of(rotations, torch.float64),
        array_of(exact.round(), torch.int64),
        is_in_plane,
        table,
        out[0].reshape(-1),
        out[1].reshape(-1),
    )
    return torch.from_numpy(out[0]), torch.from_numpy(out[1])


def _require_permutations(rotations: Float[Tensor, "e 3 3"]) -> None:
    """Refuse rotations that do not permute grid points: they would lead out of the grid."""
    whole = rotations.round().abs()
    if not bool(((whole.sum(1) == 1) & (whole.sum(2) == 1)).all()):
        raise ValueError("a rotation does not permute grid points")


def _zeros(shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Return empty values and weights."""
    return np.zeros(shape, np.complex64), np.zeros(shape, np.float32)


def permute_grid(
    values: Complex[Tensor, "z y x"],
    weights: Float[Tensor, "z y x"],
    centre: int,
    rotations: Float[Tensor, "g 3 3"],
) -> tuple[Complex[Tensor, "z y x"], Float[Tensor, "z y x"]]:
    """Sum a grid over exact rotations; see :func:`cryorefine.kernels.reference.permute_grid`."""
    _require_permutations(rotations)
    if values.device.type != "cpu":
        return _twin(values.device.type).permute_grid(values, weights, centre, rotations)
    out_values, out_weights = _zeros(tuple(values.shape))
    in_threads(
        cpu_symmetry.permute_grid,
        (2 * centre + 1) ** 2,
        array_of(values, torch.complex64).reshape(-1),
        array_of(weights, torch.float32).reshape(-1),
        centre,
        array_of(rotations.round(), torch.int64),
        out_values.reshape(-1),
        out_weights.reshape(-1),
    )
    return torch.from_numpy(out_values), torch.from_numpy(out_weights)


def pick_separated(
    index: Int[Tensor, "b n"],
    score: Float[Tensor, "b n"],
    rotations: Float[Tensor, "q 3 3"],
    symmetry: Float[Tensor, "g 3 3"],
    *,
    cos_apart: float,
    keep: int,
    window: float,
) -> tuple[Int[Tensor, "b k"], Float[Tensor, "b k"]]:
    """Keep candidates that stand apart; see :func:`cryorefine.kernels.reference.pick_separated`."""
    if index.device.type != "cpu":
        # A few rounds of small products over all images at once: nothing for a kernel to gain.
        return reference.pick_separated(
            index, score, rotations, symmetry, cos_apart=cos_apart, keep=keep, window=window
        )
    chosen = np.full((len(index), keep), -1, np.int64)
    chosen_score = np.full((len(index), keep), -np.inf, np.float32)
    in_threads(
        cpu.pick_separated,
        len(index),
        array_of(index, torch.int64),
        array_of(score, torch.float32),
        array_of(rotations, torch.float64),
        array_of(symmetry, torch.float64),
        float(cos_apart),
        float(window),
        chosen,
        chosen_score,
    )
    return torch.from_numpy(chosen), torch.from_numpy(chosen_score)
