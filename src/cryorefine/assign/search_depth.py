"""How deep a search must go: what the data can tell apart, and what telling it apart costs.

Up to a shell, images see the reference with a power P that depends on the orientation (in units of
the noise: nats). Against what an empty image scores, the true pose's log-likelihood is normal with
mean P and variance 2 P, that of an unrelated pose normal with mean -P and variance 2 P
(``docs/mathematics.md``). All that is predicted here follows from these two lines.
"""

import math
from dataclasses import dataclass, replace
from itertools import product

import torch
from jaxtyping import Float
from torch import Tensor

from cryorefine.assign.exhaustive import CoarseSearch, Pruning
from cryorefine.fourier.band import Band
from cryorefine.geometry.rotation import random_rotations
from cryorefine.kernels.dispatch import extract_slices
from cryorefine.kernels.grid import SliceGrid
from cryorefine.model.observe import GroupBand

__all__ = [
    "GRID_LOSS",
    "Search",
    "SearchDepth",
    "SearchSpace",
    "decidable",
    "discriminating_power",
    "expected_candidates",
    "plan_depth",
    "recall_among",
    "refinement_shells",
]

_VIEWS = 128
"""Random slices that the reference's power is measured by: 9 % in a coefficient, 1 % in a shell."""

_STEP_FACTOR = 1.3
"""Grid steps in units of the turn that moves the particle's rim by half a resolution. 1.0 takes
2.2 times as many poses and found one in 500 particles more (C1, SNR 0.02)."""

_SHIFTS_PER_RESOLUTION = 3.5
"""Steps of a grid of shifts in one resolution: with them the shift costs as much of the score at
the nearest point as the angle does (``GRID_LOSS``)."""

_TERMS = 0.45
"""Terms of a search's slices for each number that they have (measured: 0.42 to 0.47)."""

_REFINEMENT_OPERATIONS = 3000.0
"""What a sample of a refinement's evaluation costs in operations of a matrix product: 38 ns at 80
GFLOP/s."""

_FIRST_REFINEMENT, _LATER_REFINEMENTS = 1.5, 2.0
"""Factors on the shells from one level of refinements to the next, at the first two levels and
later: a pose known to a step of the grid stays on its slope at one and a half times the resolution,
and one that has been refined twice at two times. Not measured one by one; what a search loses is
(``docs/decisions.md``, "The search goes as deep as the information asks")."""

_FIRST_EVALUATIONS, _LATER_EVALUATIONS, _LAST_EVALUATIONS = 1.5, 2.0, 3.5
"""What a candidate takes at the first level of refinements, at each later one, and to its maximum
at the full band (measured, by its time over that of one evaluation)."""

_THINNED, _THINNED_TO, _THINNED_LOSS = 1.2, 0.5, 0.006
"""Of candidates within so many steps of each other only the best may be refined. That leaves at
most half (a quarter to 0.4 for apoferritin, 0.6 for C1), and loses true poses that stand beside a
better one of noise (measured: 0.5 % at C1, SNR 0.01, 0.8 % at 0.005)."""

GRID_LOSS, _REFINEMENT_LOSS = 0.2, 0.05
"""Share of the model's power by which the true pose scores less at the nearest point of the grid
(measured: 0.19 for shells 6 to 12, half by the angle and half by the shift), and after a refinement
of one step at 1.5 times the resolution."""

_MASS_LOST = 0.001
"""Share of the posterior that a level gives up: levels lose few particles more than their noise
does."""

_PRICE_OF_LOSS = 5e10
"""Operations worth spending on each image for the share of the images that is lost otherwise: one
particle in a hundred is worth 5e8 for each, about what their search costs."""

_MAX_CANDIDATES = (64, 128, 256, 512, 1024)
"""Numbers of candidates that plans are compared for, a factor of two apart: the cost of a plan is
flat about its minimum. More than 1,024 take more than 110 ms an image (C1, SNR 0.003:
``benchmarks/RESULTS.md``)."""

_DECIDABLE, _MAX_OF_DECIDABLE = 0.9, 192
"""Where so many images can be decided none is cut short of so many candidates, if the grid has
them: the mean is a tenth of that, but with 64 one image in 300 lost its pose (C1, SNR 0.02)."""

_MAX_SAMPLES = 1.2e7
"""Coefficients of all slices of a grid: 12 bytes each."""

_SELECTIVE = 4
"""Orientations of a grid for each that may be kept. A search that keeps nearly all has left the
choice to the refinements, and takes each at the one shift that so few coefficients prefer."""

_ALIKE = 3.0
"""Poses of a grid for each that is independent of the others: neighbours score alike. C1 at SNR
0.005: 81 % of the particles decidable by the full count, 85 % by a third of it, 84 % measured."""

_QUANTILES = 17
"""Values that stand for a normal distribution where an average over noise is taken: an odd number,
so that the median is one of them. Not measured."""


@dataclass(frozen=True)
class SearchSpace:
    """Where poses may lie, and what grids over them look like.

    Attributes
    ----------
    radius_px, box_px
        Of the particle, and of its image.
    group_order, tilt_fraction
        The point group divides the orientations; tilts leave this share of the sphere.
    max_shift_px, shift_sigma_px
        Limit of shifts, and the standard deviation of their prior.
    """

    radius_px: float
    box_px: int
    group_order: int
    tilt_fraction: float
    max_shift_px: float
    shift_sigma_px: float

    def step_rad(self, shell: float, factor: float = _STEP_FACTOR) -> float:
        """Return the angle between neighbours of a grid for coefficients up to a shell."""
        return min(math.radians(30), factor * self.box_px / (shell * 2 * self.radius_px))

    def shift_step_px(self, shell: float) -> float:
        """Return the distance between neighbours of a grid of shifts."""
        return self.box_px / shell / _SHIFTS_PER_RESOLUTION

    def n_rotations(self, shell: float, factor: float = _STEP_FACTOR) -> float:
        """Return how many orientations a grid has."""
        step = self.step_rad(shell, factor)
        return max(1.0, 8 * math.pi**2 / step**3 / self.group_order * self.tilt_fraction)

    def n_shifts(self, shell: float) -> float:
        """Return how many shifts a grid has."""
        return math.pi * (self.max_shift_px / self.shift_step_px(shell)) ** 2 + 1

    def n_likely_shifts(self, shell: float) -> float:
        """Return how many of them the prior leaves: the exponential of its entropy."""
        spread = 2 * math.pi * math.e * (self.shift_sigma_px / self.shift_step_px(shell)) ** 2
        return min(self.n_shifts(shell), spread + 1)

    def n_independent(self, shell: float, n_rotations: float | None = None) -> float:
        """Return how many poses compete with the true one: of a grid, or of all that there are."""
        n = self.n_rotations(shell) if n_rotations is None else n_rotations
        return max(1.0, n * self.n_likely_shifts(shell) / _ALIKE)


@dataclass(frozen=True)
class SearchDepth:
    """A search as planned, and what it is expected to do.

    Attributes
    ----------
    max_shell, step_rad, shift_step_px
        Of the exhaustive search's band and grid.
    most
        Candidates that an image may keep at any level.
    apart_rad
        Those of the grid that are refined are no nearer to each other; 0: all are.
    candidates
        Expected mean number that leaves the exhaustive search.
    recall
        Share of the images whose true pose is expected to be found.
    decidable
        Share of the images whose true pose would win at the full band if every pose was looked at.
    operations
        Expected floating-point operations for each image.
    """

    max_shell: int
    step_rad: float
    shift_step_px: float
    most: int
    apart_rad: float
    candidates: float
    recall: float
    decidable: float
    operations: float

    @property
    def on_grid(self) -> Pruning:
        """What leaves the exhaustive search."""
        return Pruning(_MASS_LOST, GRID_LOSS, self.most)

    @property
    def after_refinement(self) -> Pruning:
        """What leaves a refinement."""
        return Pruning(_MASS_LOST, _REFINEMENT_LOSS, self.most)


@dataclass(frozen=True, eq=False)
class Search:
    """A search over all orientations and shifts, ready for images.

    Attributes
    ----------
    table
        The reference's slices at all poses of a grid.
    depth
        The plan that the table was made by: what is kept of the grid, and what is refined.
    """

    table: CoarseSearch
    depth: SearchDepth


def refinement_shells(shell: int, end: int) -> list[int]:
    """Return the last shells of the refinements after a search up to a shell; ``end`` is the last.

    Each looks at one and a half times to twice the resolution of the one before, so that a pose is
    known well enough to be on the right slope.
    """
    shells, at = [], math.ceil(_FIRST_REFINEMENT * shell)
    while at < end:
        shells.append(at)
        at = math.ceil((_FIRST_REFINEMENT if len(shells) < 2 else _LATER_REFINEMENTS) * at)
    return [*shells, end]


def discriminating_power(
    grid: SliceGrid, view: GroupBand, c: Float[Tensor, "m p"]
) -> Float[Tensor, "m s"]:
    """Return the power by which images tell orientations apart, summed up to each shell.

    The variance of the reference's slices over orientations, through each image's whitened
    contrast transfer ``c``. What all views have in common (a particle's blob) tells nothing.
    """
    generator = torch.Generator().manual_seed(0)
    rotations = random_rotations(_VIEWS, generator).to(view.points.device)
    first = view.band.prefix(0)
    slices = extract_slices(grid, rotations, view.points[first:])
    common = slices.mean(0).abs().square()
    varying = (slices.abs().square().mean(0) - common) * (_VIEWS / (_VIEWS - 1))
    shell = view.band.shell[first:].long()
    by_shell = torch.zeros(len(c), view.band.n_shells, dtype=torch.float64, device=c.device)
    by_shell.index_add_(1, shell, (c[:, first:].square() * varying.clamp_min(0)).double())
    return by_shell.cumsum(1).cpu()


def _normal_quantiles(like: Tensor) -> Tensor:
    """Return evenly likely values of a standard normal variable."""
    p = (torch.arange(_QUANTILES, dtype=torch.float64) + 0.5) / _QUANTILES
    return torch.special.ndtri(p).to(like.device)


def decidable(power: Float[Tensor, "m"], n_poses: float) -> Float[Tensor, "m"]:
    """Return the probability that the true pose is the most likely of so many.

    ``mean over z of Φ(√(2 P) + z)^n``, z normal.
    """
    z = _normal_quantiles(power)
    reach = (2 * power.double().clamp_min(0)).sqrt()[:, None] + z
    return (n_poses * torch.special.log_ndtr(reach)).exp().mean(1)


def recall_among(
    power: Float[Tensor, "*m"], n_poses: float, kept: float | Float[Tensor, "*#m"]
) -> Float[Tensor, "*m"]:
    """Return the probability that the true pose is among the ``kept`` most likely of so many."""
    z = _normal_quantiles(power)
    reach = (2 * power.double().clamp_min(0)).sqrt()[..., None] + z
    better = n_poses * torch.special.log_ndtr(-reach).exp()
    # So many better ones on average: fewer than kept with the probability of a Poisson variable.
    kept = torch.as_tensor(kept, dtype=torch.float64, device=power.device).clamp_min(1.0)
    return torch.special.gammaincc(kept[..., None].expand_as(better), better).mean(-1)


def expected_candidates(
    power: Float[Tensor, "*m"],
    n_poses: float | Float[Tensor, "*m"],
    pruning: Pruning,
    *,
    most: float | Float[Tensor, "*#m"],
) -> Float[Tensor, "*m"]:
    """Return how many of so many poses an image is expected to keep, ``most`` at the most.

    Of n unrelated poses, those that score less than t hold ``n Φ((t - P) / √(2 P))`` in units of
    the likelihood of an empty image.
    """
    p = power.double().clamp_min(1e-6)[..., None]
    n = torch.as_tensor(n_poses, dtype=torch.float64, device=power.device).clamp_min(1.0)
    n = n[..., None]
    log_n, width = n.log(), (2 * p).sqrt()
    truth = p + width * _normal_quantiles(power)
    best = -p + width * (2 * log_n).sqrt()
    wrong = log_n + torch.special.log_ndtr((best - p) / width)
    share = math.log(pruning.mass_lost) + torch.logaddexp(truth, wrong) - log_n
    z = torch.special.ndtri(share.clamp(-700, -1e-12).exp())
    threshold = torch.minimum(p + width * z, truth) - pruning.allowance * p
    above = n * torch.special.log_ndtr(-(threshold + p) / width).exp()
    most = torch.as_tensor(most, dtype=torch.float64, device=power.device)[..., None]
    return (1 + above).minimum(most).mean(-1)


def _samples(band: Band, shell: int) -> int:
    return band.prefix(min(shell, band.n_shells - 1)) - band.prefix(0)


def plan_depth(
    power: Float[Tensor, "m s"],
    band: Band,
    space: SearchSpace,
    *,
    finer: float = 1.0,
    least: int = 0,
    worth: float = 1.0,
) -> SearchDepth:
    """Choose the search that costs least, lost images counted at their price.

    Parameters
    ----------
    power
        From :func:`discriminating_power`, of a sample of the images.
    finer
        Divides the steps of both grids.
    least
        Candidates that an image may keep at least.
    worth
        Of a pose, in units of that in an iteration over all particles.
    """
    end = band.n_shells - 1
    can_win = decidable(power[:, end], space.n_independent(end))
    is_decidable = float(can_win.mean()) > _DECIDABLE
    factor = _STEP_FACTOR / finer
    best: tuple[float, SearchDepth] | None = None
    for shell in range(min(3, end), end + 1):
        q = space.n_rotations(shell, factor)
        samples = _samples(band, shell)
        if best is not None and q * samples > _MAX_SAMPLES:
            break
        t = space.n_shifts(shell) * finer**2
        step = space.step_rad(shell, factor)
        depths = [
            SearchDepth(
                shell, step, space.shift_step_px(shell) / finer, most, apart * step,
                0.0, 0.0, float(can_win.mean()), 4 * t * samples * q * _TERMS,
            )
            for most, apart in product(_MAX_CANDIDATES, (0.0, _THINNED))
            if most >= min(least, _MAX_CANDIDATES[-1])
            and (_SELECTIVE * most <= q or shell == end)
            and not (is_decidable and most < _MAX_OF_DECIDABLE and 2 * _SELECTIVE * most <= q)
        ]  # fmt: skip
        for depth in _predicted(depths, power, can_win, band, space, q) if depths else ():
            # Where few poses can be decided the references will be better next time.
            price = worth * depth.decidable * _PRICE_OF_LOSS
            cost = depth.operations + price * (depth.decidable - depth.recall)
            if best is None or cost < best[0]:
                best = cost, depth
    if best is None:
        raise AssertionError("a band has at least one shell")
    return best[1]


def _predicted(
    depths: list[SearchDepth],
    power: Float[Tensor, "m s"],
    can_win: Float[Tensor, "m"],
    band: Band,
    space: SearchSpace,
    n_rotations: float,
) -> list[SearchDepth]:
    """Fill in what searches of one grid are expected to keep, to find and to take, level by level.

    All are worked out together: the arrays are small, so that calls are what takes time.
    """
    first, end = depths[0], band.n_shells - 1

    def column(values: list[float]) -> Float[Tensor, "d 1"]:
        return torch.tensor(values, dtype=torch.float64)[:, None]

    most = column([min(float(depth.most), n_rotations) for depth in depths])
    is_thinned = [depth.apart_rad > 0 for depth in depths]
    n_poses = space.n_independent(first.max_shell, n_rotations)
    at = power[:, first.max_shell].expand(len(depths), -1) * (1 - GRID_LOSS)
    count = expected_candidates(at, n_poses, first.on_grid, most=most)
    found = recall_among(at, n_poses, most) * (1 - _MASS_LOST)
    candidates, operations = count.mean(1), column([depth.operations for depth in depths])[:, 0]
    count = count * column([_THINNED_TO if thinned else 1.0 for thinned in is_thinned])
    found = found * column([1 - _THINNED_LOSS if thinned else 1.0 for thinned in is_thinned])
    for i, shell in enumerate(refinement_shells(first.max_shell, end)):
        evaluations = _FIRST_EVALUATIONS if i == 0 else _LATER_EVALUATIONS
        if shell == end:
            evaluations = _LAST_EVALUATIONS
        refined = _samples(band, shell) * evaluations * _REFINEMENT_OPERATIONS
        operations = operations + count.mean(1) * refined
        if shell < end:
            n_poses = space.n_independent(shell)
            before, at = at, power[:, shell].expand(len(depths), -1)
            # Of all poses there are as many; of those that are left, if they were alike so far, as
            # the new shells leave. Their geometric mean is what is found (C1, SNR 0.005: 61
            # candidates, then 31, 12 and 7; 42, 29, 29 by the one and 15, 5, 4 by the other).
            of_all = expected_candidates(at, n_poses, first.after_refinement, most=most)
            of_left = expected_candidates(at - before, count, first.after_refinement, most=most)
            count = torch.minimum(count, (of_all * of_left).sqrt())
            found = torch.minimum(found, recall_among(at, n_poses, most)) * (1 - _MASS_LOST)
    # What decides at the full band is mostly beyond the band of the search.
    recall = (can_win * found).mean(1)
    numbers = (values.tolist() for values in (candidates, recall, operations))
    return [
        replace(depth, candidates=c, recall=r, operations=o)
        for depth, c, r, o in zip(depths, *numbers, strict=True)
    ]
