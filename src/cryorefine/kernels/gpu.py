"""The kernels for GPUs: the same calls and results as ``reference``, the loops in Triton."""

from functools import lru_cache, partial
from typing import Any

import torch
import triton
from jaxtyping import Complex, Float
from torch import Tensor

from cryorefine.kernels import triton_kernels as kernels
from cryorefine.kernels.grid import Accumulator, SliceGrid, add_halo, open_table
from cryorefine.kernels.poses import LevenbergMarquardt, PoseProblem, PoseResult
from cryorefine.kernels.reference import refine

__all__ = ["extract_slices", "insert_slices", "permute_grid", "refine_poses", "rotate_grid"]

_BLOCK = 128
"""Samples of a program: four warps. Not measured on a GPU."""

_CHUNK = 1024  # points that one program of the likelihood sums in single precision


def _launch(kernel: Any, programs: tuple[int, ...], *arguments: Any, **constants: int) -> None:
    with torch.cuda.device_of(arguments[0]):
        kernel[programs](*arguments, BLOCK=_BLOCK, enable_fp_fusion=True, **constants)


@lru_cache(maxsize=8)
def _tables(step: float, device: torch.device) -> tuple[Tensor, Tensor]:
    weights, slopes = (torch.from_numpy(t).to(device) for t in open_table(step))
    return weights, slopes


def _reals(values: Tensor) -> Tensor:
    """Return complex values as pairs of floats."""
    return torch.view_as_real(values.to(torch.complex64).contiguous())


def _floats(values: Tensor) -> Tensor:
    return values.to(torch.float32).contiguous()


def extract_slices(
    grid: SliceGrid, rotations: Float[Tensor, "n 3 3"], points: Float[Tensor, "p 2"]
) -> Complex[Tensor, "n p"]:
    """Read central slices; see :func:`cryorefine.kernels.reference.extract_slices`."""
    n, p = len(rotations), len(points)
    out = grid.values.new_empty((n, p))
    if out.numel() == 0:
        return out
    _, side, length = grid.values.shape
    _launch(
        kernels.extract_slices, (n, triton.cdiv(p, _BLOCK)),
        _reals(grid.values), grid.centre, side, length, grid.step, _floats(rotations),
        _floats(points), _tables(grid.step, out.device)[0], torch.view_as_real(out), p,
    )  # fmt: skip
    return out


def insert_slices(
    acc: Accumulator,
    rotations: Float[Tensor, "n 3 3"],
    points: Float[Tensor, "p 2"],
    values: Complex[Tensor, "n p"],
    weights: Float[Tensor, "n p"],
) -> None:
    """Add slices to the sums; see :func:`cryorefine.kernels.reference.insert_slices`.

    Additions are atomic, in no fixed order: sums differ in their last bits from run to run.
    """
    n, p = values.shape
    if n * p == 0:
        return
    _, side, length = acc.weights.shape
    _launch(
        kernels.insert_slices, (n, triton.cdiv(p, _BLOCK)),
        torch.view_as_real(acc.values), acc.weights, acc.centre, side, length, acc.step,
        _floats(rotations), _floats(points), _reals(values), _floats(weights),
        _tables(acc.step, acc.values.device)[0], p,
    )  # fmt: skip


def rotate_grid(
    values: Complex[Tensor, "z y x"],
    weights: Float[Tensor, "z y x"],
    centre: int,
    step: float,
    rotations: Float[Tensor, "g 3 3"],
) -> tuple[Complex[Tensor, "z y x"], Float[Tensor, "z y x"]]:
    """Sum a grid over rotations; see :func:`cryorefine.kernels.reference.rotate_grid`."""
    values, weights = add_halo(values), add_halo(weights)
    _, side, length = values.shape
    shape = (side, side, centre + 1)
    out_values, out_weights = values.new_zeros(shape), weights.new_zeros(shape)
    _launch(
        kernels.rotate_grid, (triton.cdiv(out_weights.numel(), _BLOCK),),
        _reals(values), _floats(weights), centre, side, length,
        _floats(rotations.to(values.device)), len(rotations), _tables(step, values.device)[0],
        torch.view_as_real(out_values), out_weights,
    )  # fmt: skip
    return out_values, out_weights


def permute_grid(
    values: Complex[Tensor, "z y x"],
    weights: Float[Tensor, "z y x"],
    centre: int,
    rotations: Float[Tensor, "g 3 3"],
) -> tuple[Complex[Tensor, "z y x"], Float[Tensor, "z y x"]]:
    """Sum a grid over exact rotations; see :func:`cryorefine.kernels.reference.permute_grid`."""
    out_values, out_weights = values.new_zeros(values.shape), weights.new_zeros(weights.shape)
    whole = rotations.round().to(values.device, torch.int32).contiguous()
    _launch(
        kernels.permute_grid, (triton.cdiv(out_weights.numel(), _BLOCK),),
        _reals(values), _floats(weights), centre, values.shape[1], whole, len(whole),
        torch.view_as_real(out_values), out_weights,
    )  # fmt: skip
    return out_values, out_weights


def _normal_equations(
    grid: SliceGrid, problem: PoseProblem
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return log-likelihood and model power (m,), gradient (m, 5) and matrix (m, 5, 5)."""
    m, p, device = len(problem.rotations), len(problem.points), grid.values.device
    _, side, length = grid.values.shape
    chunks = triton.cdiv(p, _CHUNK)
    parts = torch.empty((m, chunks, kernels.N_SUMS), device=device)
    if parts.numel():
        _launch(
            kernels.normal_equations, (m, chunks),
            _reals(grid.values), grid.centre, side, length, grid.step, _floats(problem.points),
            problem.k_px.to(torch.int32).contiguous(), 1 / problem.image_size_px,
            _reals(problem.x), _floats(problem.c), problem.image_of.contiguous(),
            _floats(problem.rotations), _floats(problem.shifts_px), *_tables(grid.step, device),
            parts, p,
            CHUNK=_CHUNK,
        )  # fmt: skip
    sums = parts.double().sum(1)
    score, power, g = 2 * sums[:, 0] - sums[:, 1], sums[:, 1], 2 * sums[:, 2:7]
    h = sums.new_empty((m, 5, 5))
    a, b = torch.triu_indices(5, 5, device=h.device)
    h[:, a, b] = 2 * sums[:, 7:]
    h[:, b, a] = 2 * sums[:, 7:]
    return score, power, g, h


def refine_poses(grid: SliceGrid, problem: PoseProblem, options: LevenbergMarquardt) -> PoseResult:
    """Refine to maxima of the likelihood; see :func:`cryorefine.kernels.reference.refine_poses`."""
    return refine(partial(_normal_equations, grid), problem, options)
