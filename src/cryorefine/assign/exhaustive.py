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

_BLOCK_BYTES, _DEVICE_BYTES = 48 << 20, 1 << 30


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
    One matrix product of ``(b t) × 2p`` by ``2p × q``: ``4 b t p q`` operations.
    """
    b, q, t = len(x), search.slices.shape[1], len(search.shifts_px)
    xc = x[:, search.first : search.last] * c[:, search.first : search.last]
    c2 = c[:, search.first : search.last].square()
    best = torch.empty(b, q, device=x.device)
    best_shift = torch.empty(b, q, dtype=torch.int64, device=x.device)
    block = max(1, (_BLOCK_BYTES if x.device.type == "cpu" else _DEVICE_BYTES) // (4 * t * q))
    for start in range(0, b, block):
        stop = min(start + block, b)
        # Moving the content by s multiplies the image by the ramp.
        shifted = xc[start:stop, None, :] * search.ramps[None]
        packed = torch.cat([shifted.real, shifted.imag], -1)
        cross = (packed.flatten(0, 1) @ search.slices).view(stop - start, t, q)
        top, where = cross.max(1)
        norm = c2[start:stop] @ search.power
        if any_scale:
            score = top.clamp_min(0).square() / norm.clamp_min(1e-20)
        else:
            score = 2 * top - norm
        best[start:stop], best_shift[start:stop] = score, where
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
    shift = torch.gather(best_shift, 1, index.clamp_min(0))
    return index, shift, score
