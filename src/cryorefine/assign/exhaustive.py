"""Score every direction, in-plane angle and shift at low resolution, all at once."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Complex, Float, Int
from torch import Tensor

from cryorefine.geometry.symmetry import SymmetryGroup
from cryorefine.kernels.dispatch import extract_slices, pick_separated
from cryorefine.kernels.grid import SliceGrid
from cryorefine.model.observe import GroupBand

__all__ = ["CoarseSearch", "make_coarse_search", "search_coarse", "shift_grid"]

_TILE, _DEVICE_TILE = (1024, 512), (1 << 14, 1 << 13)
"""Rows and columns of the product that are made, and searched, at once: on CPUs 2 MB, which stay in
the cache from one to the other (95 GFLOP/s; 60 with 16 MB)."""

_PART_BYTES, _DEVICE_PART_BYTES = 16 << 20, 128 << 20
"""Most for the images searched at once, at all shifts, and for their scores."""


@dataclass(frozen=True, eq=False)
class CoarseSearch:
    """A reference's slices on a grid of orientations, ready to be compared with images.

    Attributes
    ----------
    rotations
        (q, 3, 3) grid of poses, about ``step_rad`` apart.
    slices
        (2 p, q): real parts above imaginary parts of the slices at the band's first p points.
    power
        (p, q): their squared moduli.
    shifts_px
        (t, 2) grid of shifts in image pixels.
    ramps
        (t, p) phase factors that centre an image shifted so.
    first, last
        The points used are ``first:last`` of the group's band (the zero frequency is left out).
    """

    rotations: Float[Tensor, "q 3 3"]
    slices: Float[Tensor, "pp q"]
    power: Float[Tensor, "p q"]
    shifts_px: Float[Tensor, "t 2"]
    ramps: Complex[Tensor, "t p"]
    first: int
    last: int
    step_rad: float


def shift_grid(max_shift_px: float, step_px: float) -> Float[Tensor, "t 2"]:
    """Return shifts (x, y) on a square grid within a disc, the centre first."""
    reach = int(max_shift_px / step_px + 1e-9)
    axis = torch.arange(-reach, reach + 1, dtype=torch.float64) * step_px
    x, y = torch.meshgrid(axis, axis, indexing="ij")
    points = torch.stack([x.flatten(), y.flatten()], -1)
    points = points[points.norm(dim=1) <= max_shift_px + 1e-9]
    return points[points.norm(dim=1).argsort(stable=True)]


def make_coarse_search(
    grid: SliceGrid,
    view: GroupBand,
    rotations: Float[Tensor, "q 3 3"],
    *,
    step_rad: float,
    max_shell: int,
    max_shift_px: float,
    shift_step_px: float,
) -> CoarseSearch:
    """Take the reference's slices at all orientations of a grid, for shells 1 to ``max_shell``."""
    first, last = view.band.prefix(0), view.band.prefix(max_shell)
    slices = extract_slices(grid, rotations, view.points[first:last])
    shifts = shift_grid(max_shift_px, shift_step_px).to(rotations.device)
    k = view.k_px()[first:last].double()
    angle = (shifts @ k.T) * (-2 * math.pi / view.band.size_px)
    return CoarseSearch(
        rotations=rotations,
        slices=torch.cat([slices.real, slices.imag], 1).T.contiguous(),
        power=(slices.real.square() + slices.imag.square()).T.contiguous(),
        shifts_px=shifts,
        ramps=torch.polar(torch.ones_like(angle), angle).to(torch.complex64),
        first=first,
        last=last,
        step_rad=step_rad,
    )


def search_coarse(
    search: CoarseSearch,
    x: Complex[Tensor, "b p"],
    c: Float[Tensor, "b p"],
    group: SymmetryGroup,
    *,
    keep: int,
    window: float,
    any_scale: bool,
) -> tuple[Int[Tensor, "b k"], Int[Tensor, "b k"], Float[Tensor, "b k"]]:
    """Compare images with every pose of the grid; return the best that stand apart.

    Parameters
    ----------
    x, c
        Whitened coefficients and contrast transfer; see
        :class:`~cryorefine.kernels.poses.PoseProblem`.
    keep
        Most candidates per image.
    window
        Candidates whose log-likelihood is more than this below the best are dropped.
    any_scale
        Score with the best non-negative amplitude of each pose instead of 1: for a reference
        whose grey scale is not known yet.

    Returns
    -------
    rotation, shift, score
        Indices into the search's grids, best first; -1 where an image has fewer candidates.
        Candidates are at least one grid step apart, modulo symmetry: neighbours on the grid lead
        to the same maximum.

    Notes
    -----
    One matrix product of ``(b t) × 2p`` by ``2p × q``: ``4 b t p q`` operations. Which shift is the
    best is asked again for the candidates that are kept: the largest value alone is found four
    times as fast.
    """
    is_cpu = x.device.type == "cpu"
    b, q, t = len(x), search.slices.shape[1], len(search.shifts_px)
    most = _PART_BYTES if is_cpu else _DEVICE_PART_BYTES
    most = max(1, most // max(8 * t * (search.last - search.first), 4 * q))
    if b > most:
        parts = [
            search_coarse(
                search, x[i : i + most], c[i : i + most], group,
                keep=keep, window=window, any_scale=any_scale,
            )
            for i in range(0, b, most)
        ]  # fmt: skip
        index, shift, score = (torch.cat(part) for part in zip(*parts, strict=True))
        return index, shift, score
    xc = x[:, search.first : search.last] * c[:, search.first : search.last]
    # Moving the content by s multiplies the image by the ramp.
    shifted = xc[:, None, :] * search.ramps
    packed = torch.cat([shifted.real, shifted.imag], -1)
    norm = c[:, search.first : search.last].square() @ search.power
    top = torch.empty(b, q, device=x.device)
    rows, columns = _TILE if is_cpu else _DEVICE_TILE
    images = max(1, rows // t)
    cross = torch.empty(min(images, b) * t * min(columns, q), device=x.device)
    for left in range(0, q, columns):
        slices = search.slices[:, left : left + columns]
        for start in range(0, b, images):
            part = packed[start : start + images].flatten(0, 1)
            tile = cross[: len(part) * slices.shape[1]].view(len(part), -1)
            torch.mm(part, slices, out=tile)
            at_best = top[start : start + images, left : left + columns]
            torch.amax(tile.view(-1, t, slices.shape[1]), 1, out=at_best)
    best = top.clamp_min(0).square() / norm.clamp_min(1e-20) if any_scale else 2 * top - norm
    pool = min(q, max(16 * keep, 64))
    top_score, top_index = best.topk(pool, dim=1)
    index, score = pick_separated(
        top_index,
        top_score,
        search.rotations,
        group.matrices,
        cos_apart=math.cos(0.99 * search.step_rad),
        keep=keep,
        window=window,
    )
    chosen = search.slices.T[index.clamp_min(0)]
    shift = (packed @ chosen.mT).argmax(1)
    return index, shift, score
