"""Score every direction, in-plane angle and shift at low resolution, all at once."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Complex, Float, Int
from torch import Tensor

from cryorefine.kernels.dispatch import extract_slices
from cryorefine.kernels.grid import SliceGrid
from cryorefine.model.observe import GroupBand

__all__ = [
    "Candidates",
    "CoarseSearch",
    "GridPosterior",
    "PoseGrid",
    "Pruning",
    "best_amplitude",
    "grid_posterior",
    "make_coarse_search",
    "search_coarse",
    "shift_grid",
    "within_mass",
]

_TILE, _DEVICE_TILE = (1024, 512), (1 << 14, 1 << 13)
"""Rows and columns of the product that are made, and searched, at once: on CPUs 2 MB, which stay in
the cache from one to the other (95 GFLOP/s; 60 with 16 MB)."""

_LEFT_OUT, _WORTH_TERMS = 0.003, 0.8
"""Power that slices may lose where they are told in fewer terms, a hundredth of what the grid's
steps lose; more terms than four fifths of the points are not worth the change."""

_PART_BYTES, _DEVICE_PART_BYTES = 16 << 20, 128 << 20
"""Most for the images searched at once, at all shifts, and for their scores."""


@dataclass(frozen=True, eq=False)
class PoseGrid:
    """Poses that a search looks at: each rotation with each shift.

    Attributes
    ----------
    rotations
        (q, 3, 3) rotations, about ``step_rad`` apart.
    step_rad
        Angle between neighbours.
    shifts_px
        (t, 2) shifts in image pixels; see :func:`shift_grid`.
    is_within
        (t, q): with which shifts each rotation is looked at, one at least; None: with all.
    """

    rotations: Float[Tensor, "q 3 3"]
    step_rad: float
    shifts_px: Float[Tensor, "t 2"]
    is_within: Bool[Tensor, "t q"] | None = None


@dataclass(frozen=True, eq=False)
class CoarseSearch:
    """A reference's slices on a grid of orientations, ready to be compared with images.

    Attributes
    ----------
    rotations
        (q, 3, 3) grid of poses, about ``step_rad`` apart.
    slices
        (r, q): the slices in terms of the basis.
    basis
        (2 p, r): what turns images, real parts beside imaginary ones, into those terms. None: the
        terms are the points themselves, real parts above imaginary ones, r = 2 p.
    power
        (p, q): their squared moduli.
    shifts_px
        (t, 2) grid of shifts in image pixels.
    ramps
        (t, p) phase factors that centre an image shifted so.
    is_beyond
        (t, q): with which shifts each rotation is not looked at; None: all are.
    first, last
        The points used are ``first:last`` of the group's band (the zero frequency is left out).
    """

    rotations: Float[Tensor, "q 3 3"]
    slices: Float[Tensor, "r q"]
    basis: Float[Tensor, "pp r"] | None
    power: Float[Tensor, "p q"]
    shifts_px: Float[Tensor, "t 2"]
    ramps: Complex[Tensor, "t p"]
    first: int
    last: int
    step_rad: float
    is_beyond: Bool[Tensor, "t q"] | None = None


@dataclass(frozen=True)
class Pruning:
    """Which candidates a level of the search keeps.

    Attributes
    ----------
    mass_lost
        Candidates are kept, best first, until the others hold no more than this share of the
        posterior: by Bayes' rule the share of particles that a level loses.
    allowance
        Candidates this share of the model's power below the last of these are kept, too: a pose
        between two points of the grid scores less at the nearest one than where it is.
    most
        No image keeps more. Where that many share the posterior no search can decide between them.
    """

    mass_lost: float
    allowance: float
    most: int


@dataclass(frozen=True, eq=False)
class Candidates:
    """Poses that a level of the search keeps, of all images of a batch.

    Attributes
    ----------
    image_of
        (m,) image of each candidate, ascending; best first within an image.
    rotation, shift
        (m,) indices into the search's grids.
    score
        (m,) log-likelihood, prior included.
    """

    image_of: Int[Tensor, "m"]
    rotation: Int[Tensor, "m"]
    shift: Int[Tensor, "m"]
    score: Float[Tensor, "m"]


@dataclass(frozen=True, eq=False)
class GridPosterior:
    """What all poses of a grid say together, weighted by their posterior, for several amplitudes.

    Attributes
    ----------
    log_evidence
        (b, a) logarithm of the likelihood's mean over the grid.
    squared_shift_px2
        (b, a) posterior mean of ``|shift|²``.
    """

    log_evidence: Float[Tensor, "b a"]
    squared_shift_px2: Float[Tensor, "b a"]


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
    poses: PoseGrid,
    *,
    max_shell: int,
    weight: Float[Tensor, "p"] | None = None,
) -> CoarseSearch:
    """Take the reference's slices at all orientations of a grid, for shells 1 to ``max_shell``.

    Parameters
    ----------
    weight
        Contrast transfer over the noise's standard deviation at each sample of the band, of a
        typical image. Slices are then told in as few terms as leave 0.3 % of the power by which
        such images tell them apart: half as many, and half the operations. None: in all.
    """
    first, last = view.band.prefix(0), view.band.prefix(max_shell)
    slices = extract_slices(grid, poses.rotations, view.points[first:last])
    shifts = poses.shifts_px.to(poses.rotations.device)
    k = view.k_px()[first:last].double()
    angle = (shifts @ k.T) * (-2 * math.pi / view.band.size_px)
    stacked = torch.cat([slices.real, slices.imag], 1).T.contiguous()
    terms, basis = stacked, None
    if weight is not None:
        terms, basis = _in_few_terms(stacked, weight[first:last].repeat(2))
    return CoarseSearch(
        rotations=poses.rotations,
        slices=terms,
        basis=basis,
        power=(slices.real.square() + slices.imag.square()).T.contiguous(),
        shifts_px=shifts,
        ramps=torch.polar(torch.ones_like(angle), angle).to(torch.complex64),
        first=first,
        last=last,
        step_rad=poses.step_rad,
        is_beyond=None if poses.is_within is None else ~poses.is_within,
    )


def _in_few_terms(
    slices: Float[Tensor, "pp q"], weight: Float[Tensor, "pp"]
) -> tuple[Float[Tensor, "r q"], Float[Tensor, "pp r"] | None]:
    """Return slices in terms of their principal components, and what turns images into them.

    Components are those of the slices times ``weight``, which images see, and as many as leave
    ``_LEFT_OUT`` of the power that differs between slices: ``xᵀ S ≈ (xᵀ W⁻¹ U) (Uᵀ W S)``. Costs
    ``4 p² q`` operations for the covariance and ``2 p r q`` for the terms.
    """
    size, count = slices.shape
    # Where images tell nothing, slices need no term.
    weight = weight.clamp_min(1e-3 * weight.max().clamp_min(1e-30))
    weighted = slices * weight[:, None]
    mean = weighted.mean(1).double()
    covariance = (weighted @ weighted.T).double()
    values, vectors = torch.linalg.eigh(covariance)
    differing = covariance.trace() - count * mean.square().sum()
    left_out = values.clamp_min(0).cumsum(0)
    rank = size - int((left_out <= _LEFT_OUT * differing).sum())
    if rank > _WORTH_TERMS * size or rank == 0:
        return slices, None
    kept = vectors[:, size - rank :].float()
    return kept.T @ weighted, (kept / weight[:, None]).contiguous()


def _packed(search: CoarseSearch, x: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    """Return images times contrast transfer at all shifts, and the models' power at all poses.

    The former in the terms of the slices, (b, t, r); (b, q).
    """
    c = c[:, search.first : search.last]
    # Moving the content by s multiplies the image by the ramp.
    shifted = (x[:, search.first : search.last] * c)[:, None, :] * search.ramps
    packed = torch.cat([shifted.real, shifted.imag], -1)
    if search.basis is not None:
        packed = packed @ search.basis
    return packed, c.square() @ search.power


def search_coarse(
    search: CoarseSearch,
    x: Complex[Tensor, "b p"],
    c: Float[Tensor, "b p"],
    pruning: Pruning,
    *,
    shift_precision: float = 0.0,
    allowed: Bool[Tensor, "b q"] | None = None,
) -> Candidates:
    """Compare images with every pose of the grid; return those that the data do not rule out.

    Parameters
    ----------
    x, c
        Whitened coefficients and contrast transfer; see
        :class:`~cryorefine.kernels.poses.PoseProblem`.
    shift_precision
        Inverse variance (1/px²) of the prior on shifts about the centre.
    allowed
        Which rotations each image may have, one at least; None: all.

    Returns
    -------
    Candidates, each rotation once, at its best shift.

    Notes
    -----
    One matrix product of ``(b t) × r`` by ``r × q``: ``2 b t r q`` operations. Which shift is the
    best is asked again for the candidates that are kept: the largest value alone is found four
    times as fast.
    """
    is_cpu = x.device.type == "cpu"
    b, q, t = len(x), search.slices.shape[1], len(search.shifts_px)
    p = search.last - search.first
    kept = min(q, pruning.most)
    most = _PART_BYTES if is_cpu else _DEVICE_PART_BYTES
    most = max(1, most // (8 * t * p + 4 * q + 8 * kept * (p + t)))
    if b > most:
        parts = [
            search_coarse(
                search,
                x[i : i + most],
                c[i : i + most],
                pruning,
                shift_precision=shift_precision,
                allowed=None if allowed is None else allowed[i : i + most],
            )
            for i in range(0, b, most)
        ]
        return _joined(parts, most)
    packed, norm = _packed(search, x, c)
    prior = (0.5 * shift_precision * search.shifts_px.square().sum(1)).float()
    score = torch.empty(b, q, device=x.device)
    rows, columns = _TILE if is_cpu else _DEVICE_TILE
    images = max(1, rows // t)
    cross = torch.empty(min(images, b) * t * min(columns, q), device=x.device)
    for left in range(0, q, columns):
        slices = search.slices[:, left : left + columns]
        for start in range(0, b, images):
            part = packed[start : start + images].flatten(0, 1)
            tile = cross[: len(part) * slices.shape[1]].view(len(part), -1)
            torch.mm(part, slices, out=tile)
            tile = tile.view(-1, t, slices.shape[1])
            if shift_precision > 0:
                tile.sub_(0.5 * prior[:, None])
            if search.is_beyond is not None:
                tile.masked_fill_(search.is_beyond[:, left : left + columns], -torch.inf)
            at_best = score[start : start + images, left : left + columns]
            torch.amax(tile, 1, out=at_best)
    score.mul_(2).sub_(norm)
    if allowed is not None:
        score.masked_fill_(~allowed, -torch.inf)
    top, index = score.topk(kept, dim=1)
    power = norm.gather(1, index[:, :1])[:, 0]
    is_kept = within_mass(top, torch.logsumexp(score, 1), power, pruning)
    image_of = torch.nonzero(is_kept)[:, 0]
    # The best shift of those that are kept, each image's padded to as many as any keeps.
    width = int(is_kept.sum(1).max())
    shift = _best_shifts(search, packed, prior, index[:, :width])
    is_kept = is_kept[:, :width]
    return Candidates(image_of, index[:, :width][is_kept], shift[is_kept], top[:, :width][is_kept])


def _joined(parts: list[Candidates], size: int) -> Candidates:
    """Return the candidates of batches of so many images, one after the other."""
    return Candidates(
        torch.cat([part.image_of + i * size for i, part in enumerate(parts)]),
        *(
            torch.cat([getattr(part, name) for part in parts])
            for name in ("rotation", "shift", "score")
        ),
    )


def _best_shifts(
    search: CoarseSearch,
    packed: Float[Tensor, "b t r"],
    prior: Float[Tensor, "t"],
    index: Int[Tensor, "b k"],
) -> Int[Tensor, "b k"]:
    """Return the best shift of images at some rotations each."""
    at_shifts = 2 * (packed @ search.slices.T[index].mT) - prior[:, None]
    if search.is_beyond is not None:
        at_shifts.masked_fill_(search.is_beyond.T[index].mT, -torch.inf)
    return at_shifts.argmax(1)


def within_mass(
    score: Float[Tensor, "b k"],
    log_total: Float[Tensor, "b"],
    power: Float[Tensor, "b"],
    pruning: Pruning,
) -> Bool[Tensor, "b k"]:
    """Tell which candidates to keep: best first along each row, -inf where there is none.

    Parameters
    ----------
    score
        Log-likelihoods, descending.
    log_total
        Logarithm of the sum of likelihoods of all candidates, those not given included.
    power
        Of each image's best model.
    """
    p = (score.double() - log_total.double()[:, None]).exp()
    # What is missing before a candidate: it is kept while that is too much.
    is_kept = 1 - (p.cumsum(1) - p) > pruning.mass_lost
    is_kept[:, 0] = True
    is_kept &= score > -torch.inf
    last = torch.where(is_kept, score, torch.inf).amin(1)
    is_kept |= score >= (last - pruning.allowance * power)[:, None]
    is_kept &= score > -torch.inf
    is_kept[:, pruning.most :] = False
    return is_kept


def grid_posterior(
    search: CoarseSearch,
    x: Complex[Tensor, "b p"],
    c: Float[Tensor, "b p"],
    amplitudes: Float[Tensor, "a"],
    *,
    shift_precision: float = 0.0,
) -> GridPosterior:
    """Sum the likelihood over a grid of poses, with the reference times each amplitude.

    Images one by one: ``t q`` values and as many exponentials for each amplitude.
    """
    squared = search.shifts_px.square().sum(1).float()
    prior = 0.5 * shift_precision * squared
    prior = prior + torch.logsumexp(-prior, 0)
    evidence = torch.empty(len(x), len(amplitudes), dtype=torch.float64)
    moved = torch.empty_like(evidence)
    count = search.slices.shape[1]
    for i in range(len(x)):
        packed, norm = _packed(search, x[i : i + 1], c[i : i + 1])
        cross = packed[0] @ search.slices
        for j, a in enumerate(amplitudes.tolist()):
            score = (2 * a * cross - a * a * norm) - prior[:, None]
            top = score.amax()
            by_shift = score.sub_(top).exp_().sum(1)
            total = by_shift.sum()
            evidence[i, j] = float(top + total.log()) - math.log(count)
            moved[i, j] = float((by_shift * squared).sum() / total)
    return GridPosterior(evidence, moved)


def best_amplitude(
    search: CoarseSearch, x: Complex[Tensor, "b p"], c: Float[Tensor, "b p"]
) -> float:
    """Return the mean amplitude at each image's best pose, each pose at its own amplitude.

    Noise makes it too large: it is where to look from.
    """
    cross, power = 0.0, 0.0
    for i in range(len(x)):
        packed, norm = _packed(search, x[i : i + 1], c[i : i + 1])
        at, norm = (packed[0] @ search.slices).amax(0).clamp_min(0), norm[0].clamp_min(1e-20)
        best = int((at.square() / norm).argmax())
        cross, power = cross + float(at[best]), power + float(norm[best])
    return cross / max(power, 1e-30)
