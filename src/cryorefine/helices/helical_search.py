"""Find a map's helix: a landscape over twist and rise, its peaks refined, and how sure it is."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from jaxtyping import Float
from scipy import ndimage, optimize
from torch import Tensor

from cryorefine.compiled import in_threads
from cryorefine.errors import InputError
from cryorefine.fourier.crop import resize_volume
from cryorefine.fourier.fft import fast_even_length, volume_from_half, volume_to_half
from cryorefine.fourier.filter import filter_volume, interpolate_shells, raised_cosine
from cryorefine.fourier.shell import shell_power
from cryorefine.geometry.helix import Helix
from cryorefine.helices.filament import FilamentAxis
from cryorefine.helices.helical_correlation import (
    HelicalCorrelation,
    measure_correlation,
    peak_sum,
    significance,
)
from cryorefine.helices.helical_symmetry import central_window, impose_helix
from cryorefine.helices.two_fold import TwoFold
from cryorefine.masks.cylinder import cylinder_mask

__all__ = [
    "EVERY",
    "Candidate",
    "HelicalRanges",
    "HelicalSearch",
    "Landscape",
    "average_of",
    "prepared_map",
    "score_of",
    "screws",
    "search_helix",
]

Progress = Callable[[int, int], None]

EVERY = "every "
"""How the names of relations begin that are steps of the same helix."""

_FIRST_STEPS = 32
"""Largest number of steps whose copies the landscape counts. Its grid is as fine as the farthest
copy asks for, and its cost grows as the cube; the refinement takes the others in, doubling."""

_GRID_SHARE = 3
"""Points of the grid within the resolution, at the farthest copy: the nearest is then at most a
sixth of the resolution away, where a peak is still nine tenths of its height."""

_REACH = 4.0
"""Points of the grid, of each stage, that the refinement may go: a peak is three of them wide."""

_PEAK_REACH = 2
"""Points about a peak within which no other counts: it is three wide."""

_MAX_CANDIDATES = 40
"""Peaks of the landscape that are refined. The true one is among the first few where a map shows
it at all; every other subunit, and every third, are peaks, too."""

_TRIALS, _COVERAGE = 8, 2.31
"""Maps with noise put on anew, and Student's factor of 95 % for so many."""

_NULL_TRIALS, _NULL_ROWS = 8, 4
"""Landscapes of turned rows, and that one row of the grid in so many is worked out for them."""

_CHANCE = 0.01
"""Probability that a map without a helix passes for one."""

_LAYER_DEG = 20.0
"""Turn of a double step below which its subunits are said to lie in layers, nearly above each
other. It names what is found, and decides nothing; layers of amyloids turn by 1 to 5°."""

_CONTINUOUS = 0.8
"""Correlation halfway between neighbouring copies, of that at the copies, from which a map is alike
all along its screw. A fibril with layers 4.7 Å apart has 1.000 to 1.004 in maps of 4.5 to 8 Å, and
0.30 to 0.42 in maps of 4 Å that show the layers; other helices have 0.01 and less."""

_VOXELS = 3.0
"""Voxels of the working copy within the resolution."""


@dataclass(frozen=True, kw_only=True)
class HelicalRanges:
    """What to search, and in what part of a map.

    Attributes
    ----------
    twist_deg, rise_A
        Lowest and highest. Twists of a full turn divided by ``fold`` or more are all twists.
    fold
        Order of the axis along z.
    radius_A
        Of the cylinder that holds the filament.
    resolution_A
        Detail to use.
    fraction
        Part of the box along z, the middle.
    """

    twist_deg: tuple[float, float] = (-180.0, 180.0)
    rise_A: tuple[float, float] = (1.0, 40.0)
    fold: int = 1
    radius_A: float
    resolution_A: float
    fraction: float = 0.9

    @property
    def is_all_round(self) -> bool:
        """Whether all twists are searched, so that their range has no border."""
        return self.twist_deg[1] - self.twist_deg[0] >= 360 / self.fold - 1e-6


@dataclass(frozen=True, eq=False)
class Landscape:
    """Score of each twist and rise, in standard deviations of copies at wrong places."""

    twist_deg: Float[np.ndarray, "t"]
    rise_A: Float[np.ndarray, "r"]
    score: Float[np.ndarray, "r t"]


@dataclass(frozen=True)
class Candidate:
    """A helix, its score over all steps, the mean correlation of its copies, and what it is."""

    helix: Helix
    score: float
    correlation: float
    relation: str = ""


@dataclass(frozen=True, eq=False)
class HelicalSearch:
    """What a search found.

    Attributes
    ----------
    best
        Of the map, or of the average of both halves.
    twist_uncertainty_deg, rise_uncertainty_A
        Half widths of the range that holds the truth in 95 of 100 cases.
    halves
        What each half shows alone; empty where there is one map.
    runners_up
        Other peaks of the landscape, best first.
    alternatives
        Half and double pitch, half steps, the other hand, other axes along z; and every second and
        third subunit, which are steps of the best helix, too, and how others may write it.
    landscape
        Of the first steps.
    threshold
        Score that a map without a helix reaches in one case of a hundred, and the landscape's
        highest, which is above it.
    ranges
        What was searched.
    two_fold
        The axis across that agrees best; None where it was not looked for.
    axis
        Where the filament's axis was in the map, which was moved so that it is z.
    """

    best: Candidate
    twist_uncertainty_deg: float
    rise_uncertainty_A: float
    halves: tuple[Candidate, ...]
    runners_up: tuple[Candidate, ...]
    alternatives: tuple[Candidate, ...]
    landscape: Landscape
    threshold: float
    ranges: HelicalRanges = field(repr=False)
    two_fold: TwoFold | None = field(default=None, repr=False)
    axis: FilamentAxis = field(default_factory=FilamentAxis)


def prepared_map(
    volume: Float[Tensor, "z y x"],
    *,
    voxel_A: float,
    resolution_A: float,
    fsc: Float[Tensor, "s"] | None = None,
) -> tuple[Float[Tensor, "w u v"], float]:
    """Return a map with even power up to the resolution, on voxels of a third of it or less.

    Strong low frequencies would hide the fine ones, which tell twist and rise.

    Parameters
    ----------
    fsc
        Of half maps, per shell: amplitudes are weighted by what it expects of the average's
        correlation with the truth.
    """
    n = volume.shape[-1]
    size = min(n, fast_even_length(n * voxel_A / (resolution_A / _VOXELS)))
    if size % 2 != n % 2 and size < n:
        size += 1  # an even box's origin lies half a voxel beside an odd one's
    small = resize_volume(volume, size)
    step_A = voxel_A * n / size
    power = ndimage.gaussian_filter1d(
        shell_power(volume_to_half(small), size).numpy(), 1.0, mode="nearest"
    )
    amplitude = torch.from_numpy(1 / np.sqrt(power + 1e-6 * power.max() + 1e-30))
    if fsc is not None:
        trust = (2 * fsc.clamp(0, 1) / (1 + fsc.clamp(0, 1))).sqrt()
        amplitude = amplitude * interpolate_shells(trust, torch.arange(len(power)).double())
    cutoff = size * step_A / resolution_A

    def weight(k: Tensor) -> Tensor:
        return interpolate_shells(amplitude, k) * raised_cosine(k, cutoff, 0.1 * cutoff)

    return filter_volume(small, weight).float(), step_A


def average_of(maps: Sequence[Float[Tensor, "z y x"]]) -> Float[Tensor, "z y x"]:
    """Return the average of two half maps, or the one map there is."""
    return maps[0] if len(maps) == 1 else (maps[0] + maps[1]).div_(2)


def search_helix(
    maps: Sequence[Float[Tensor, "z y x"]],
    ranges: HelicalRanges,
    *,
    voxel_A: float,
    fsc: Float[Tensor, "s"] | None = None,
    seed: int = 0,
    progress: Progress = lambda done, total: None,
) -> HelicalSearch:
    """Find twist and rise of a map, or of two half maps, whose axis is z through the origin.

    Parameters
    ----------
    maps
        One, or two halves: then each is searched alone, too, and the result is the average's.
    fsc
        Of the halves; see :func:`prepared_map`.
    seed
        Of random numbers for the test and the uncertainties.
    progress
        Is told (done, total).

    Raises
    ------
    InputError
        If the map is no helix, or the best twist or rise is at the border of its range, or cannot
        be told from others, or the map does not resolve copies; or if the ranges leave nothing to
        search.

    Notes
    -----
    The score of a helix is the sum of the map's correlations with its copies at all steps but 0,
    in standard deviations of as many copies at wrong places; copies nearer than the resolution do
    not count. A map without a helix has high scores, too, where many are tried: how high is
    measured on landscapes of the same correlations with each of their rows (lags along z) turned by
    a random angle, and extrapolated to one case in a hundred by Gumbel's law.

    Uncertainties come from maps that have the helix found and the noise that was left, with random
    phases; with half maps they are at least half the difference between both.
    """
    _require_room(maps[0].shape[-1] * voxel_A, ranges)
    rng = np.random.default_rng(seed)
    n_works = (len(maps) if len(maps) > 1 else 0) + 2 + _TRIALS
    works = iter(range(1, n_works + 1))

    def prepared(volume: Tensor) -> tuple[Tensor, HelicalCorrelation]:
        small, step_A = prepared_map(
            volume, voxel_A=voxel_A, resolution_A=ranges.resolution_A, fsc=fsc
        )
        return small, _correlate(small, step_A, ranges)

    halves = []
    for half in maps if len(maps) > 1 else ():
        correlation = prepared(half)[1]
        halves.append(_candidates(correlation, _landscape(correlation, ranges), ranges)[0])
        progress(next(works), n_works)
    small, correlation = prepared(average_of(maps))
    landscape = _landscape(correlation, ranges)
    candidates = _candidates(correlation, landscape, ranges)
    progress(next(works), n_works)
    threshold = _threshold(correlation, ranges, rng)
    progress(next(works), n_works)
    _require_helix(landscape, threshold)
    best = candidates[0]
    _require_inside(best, correlation, ranges)
    _require_resolved(best.helix, correlation)
    step_A = voxel_A * maps[0].shape[-1] / small.shape[-1]
    errors = []
    for trial in _with_new_noise(small, step_A, best.helix, ranges, rng):
        found = _refined(_correlate(trial, step_A, ranges), best.helix)
        errors.append(_difference(found, best.helix))
        progress(next(works), n_works)
    twist_deg, rise_A = _COVERAGE * np.sqrt(np.mean(np.square(errors), 0))
    if len(halves) == 2:
        apart = np.abs(_difference(halves[0].helix, halves[1].helix)) / 2
        twist_deg, rise_A = max(twist_deg, apart[0]), max(rise_A, apart[1])
    _require_told(best.helix, twist_deg, rise_A, correlation)
    return HelicalSearch(
        best=best,
        twist_uncertainty_deg=float(twist_deg),
        rise_uncertainty_A=float(rise_A),
        halves=tuple(halves),
        runners_up=tuple(candidates[1:]),
        alternatives=_alternatives(correlation, best.helix),
        landscape=landscape,
        threshold=threshold,
        ranges=ranges,
    )


def screws(small: Float[Tensor, "w u v"], step_A: float, ranges: HelicalRanges) -> list[Candidate]:
    """Return the helices that a prepared map's axis z shows best, whether or not it has any.

    Parameters
    ----------
    small, step_A
        From :func:`prepared_map`.
    """
    correlation = _correlate(small, step_A, ranges)
    return _candidates(correlation, _landscape(correlation, ranges), ranges)


def score_of(
    small: Float[Tensor, "w u v"], step_A: float, helix: Helix, ranges: HelicalRanges
) -> float:
    """Return the score that a helix has in a prepared map."""
    return _scored(_correlate(small, step_A, ranges), helix).score


def _require_room(box_A: float, ranges: HelicalRanges) -> None:
    (low, high), (least, most) = ranges.twist_deg, ranges.rise_A
    if not low < high:
        raise InputError(f"no twists from {low:g} to {high:g}°", do="give the lower one first")
    if not 0 < least < most:
        raise InputError(
            f"no rises from {least:g} to {most:g} Å", do="give positive ones, the lower one first"
        )
    if most > box_A * ranges.fraction / 2:
        raise InputError(
            f"a rise of {most:g} Å does not repeat within the central "
            f"{box_A * ranges.fraction:.0f} Å of the map",
            do="give a smaller one, or a longer map",
        )


def _correlate(small: Tensor, step_A: float, ranges: HelicalRanges) -> HelicalCorrelation:
    return measure_correlation(
        small,
        voxel_A=step_A,
        radius_A=ranges.radius_A,
        resolution_A=ranges.resolution_A,
        fraction=ranges.fraction,
    )


def _grid(correlation: HelicalCorrelation, ranges: HelicalRanges) -> tuple[np.ndarray, np.ndarray]:
    """Return twists in degrees and rises in Å, fine enough for the farthest copy that is used."""
    finest = correlation.resolution_A / (_GRID_SHARE * _FIRST_STEPS)
    low, high = ranges.twist_deg
    if ranges.is_all_round:
        low, high = -180 / ranges.fold, 180 / ranges.fold
    step_deg = math.degrees(finest / correlation.radius_A)
    n_twists = max(math.ceil((high - low) / step_deg) + 1, 5)
    least, most = ranges.rise_A
    n_rises = max(math.ceil((most - least) / finest) + 1, 5)
    twists = np.linspace(low, high, n_twists, endpoint=not ranges.is_all_round)
    return twists, np.linspace(least, most, n_rises)


def _landscape(correlation: HelicalCorrelation, ranges: HelicalRanges) -> Landscape:
    twists, rises = _grid(correlation, ranges)
    table = _table(correlation, ranges)
    return Landscape(twists, rises, _scores(correlation, table, twists, rises, ranges.fold))


def _table(correlation: HelicalCorrelation, ranges: HelicalRanges) -> np.ndarray:
    """Return what a copy at each lag and angle adds to a score, before its norm."""
    n = correlation.rho.shape[1]
    orders = np.fft.rfft(correlation.rho, axis=1)
    orders[:, np.arange(orders.shape[1]) % ranges.fold != 0] = 0
    mean = np.fft.irfft(orders, n=n, axis=1)
    factor = np.sqrt(ranges.fold * correlation.overlap) / correlation.noise
    lag_A = np.arange(len(mean))[:, None] * correlation.step_A
    near = correlation.is_near(np.arange(n) * correlation.step_rad, lag_A, ranges.fold)
    return np.where(near, 0, mean * factor[:, None]).astype(np.float32)


def _scores(
    correlation: HelicalCorrelation,
    table: np.ndarray,
    twist_deg: np.ndarray,
    rise_A: np.ndarray,
    fold: int,
) -> Float[np.ndarray, "r t"]:
    columns = table.shape[1]
    steps = np.arange(1, _FIRST_STEPS + 1)[:, None]
    angle = steps * np.radians(twist_deg)
    column = np.round(angle / correlation.step_rad).astype(np.int64) % columns
    values, place = torch.from_numpy(table), torch.from_numpy(column)
    out = np.zeros((len(rise_A), len(twist_deg)), np.float32)

    def part(begin: int, end: int) -> None:
        for i in range(begin, end):
            n = len(correlation.lags(rise_A[i], _FIRST_STEPS))
            lag_A = steps[:n] * rise_A[i]
            row = np.round(lag_A / correlation.step_A).astype(np.int64)
            found = torch.take(values, place[:n] + torch.from_numpy(row * columns)).sum(0)
            weight = correlation.overlap[row]
            total = np.full(len(twist_deg), weight.sum())
            n_near = int((lag_A < correlation.resolution_A).sum())
            if n_near:  # these add nothing, and are not to count
                near = correlation.is_near(angle[:n_near], lag_A[:n_near], fold)
                total -= (near * weight[:n_near]).sum(0)
            out[i] = found.numpy() / np.sqrt(np.maximum(total, 1e-9))

    in_threads(part, len(rise_A))
    return out


def _threshold(
    correlation: HelicalCorrelation, ranges: HelicalRanges, rng: np.random.Generator
) -> float:
    """Return the highest score that a landscape without a helix has in one case of a hundred."""
    twists, rises = _grid(correlation, ranges)
    table = _table(correlation, ranges)
    block = math.ceil(correlation.resolution_A / correlation.step_A)
    highest = []
    for _ in range(_NULL_TRIALS):
        turned = table.copy()
        for start in range(0, len(table), block):
            turned[start : start + block] = np.roll(
                table[start : start + block], int(rng.integers(table.shape[1])), axis=1
            )
        some = rises[int(rng.integers(_NULL_ROWS)) :: _NULL_ROWS]
        highest.append(float(_scores(correlation, turned, twists, some, ranges.fold).max()))
    # Gumbel's law: mean is mode + 0.5772 scales, standard deviation π/√6 scales; of so many times
    # as many points the mode is higher by scale times the logarithm.
    scale = float(np.std(highest, ddof=1)) * math.sqrt(6) / math.pi
    mode = float(np.mean(highest)) - 0.5772 * scale
    return mode + scale * (math.log(_NULL_ROWS) - math.log(-math.log1p(-_CHANCE)))


def _candidates(
    correlation: HelicalCorrelation, landscape: Landscape, ranges: HelicalRanges
) -> list[Candidate]:
    """Return the landscape's peaks, refined over all steps, best first, each once."""
    score = landscape.score
    # Columns go on round the circle where all twists are searched.
    beside = ((0, 0), (_PEAK_REACH, _PEAK_REACH))
    round_ = np.pad(score, beside, mode="wrap" if ranges.is_all_round else "edge")
    highest = ndimage.maximum_filter(round_, 2 * _PEAK_REACH + 1, mode="nearest")
    peaks = np.argwhere(score == highest[:, _PEAK_REACH:-_PEAK_REACH])
    peaks = peaks[np.argsort(-score[tuple(peaks.T)])][:_MAX_CANDIDATES]
    found: list[Candidate] = []
    for i, j in peaks:
        start = Helix(float(landscape.twist_deg[j]), float(landscape.rise_A[i]), ranges.fold)
        helix = _refined(correlation, start, coarse=True)
        found.append(_scored(correlation, _named_once(helix, ranges)))
    found.sort(key=lambda c: -c.score)
    kept: list[Candidate] = []
    for candidate in found:
        if all(_are_apart(correlation, candidate.helix, k.helix) for k in kept):
            kept.append(candidate)
    return kept


def _scored(correlation: HelicalCorrelation, helix: Helix, relation: str = "") -> Candidate:
    score, mean = significance(correlation, helix.twist_rad, helix.rise_A, helix.fold)
    return Candidate(helix, score, mean, relation)


def _difference(a: Helix, b: Helix) -> tuple[float, float]:
    """Return by how much twist (°, nearest) and rise (Å) differ."""
    sector = 360 / b.fold
    return math.remainder(a.twist_deg - b.twist_deg, sector), a.rise_A - b.rise_A


def _are_apart(correlation: HelicalCorrelation, a: Helix, b: Helix) -> bool:
    """Tell whether two helices differ by more than half the resolution at the farthest copy."""
    n = max(len(correlation.lags(min(a.rise_A, b.rise_A))), 1)
    twist_deg, rise_A = _difference(a, b)
    move_A = math.hypot(math.radians(twist_deg) * correlation.radius_A, rise_A) * n
    return move_A > correlation.resolution_A / 2


def _refined(correlation: HelicalCorrelation, helix: Helix, *, coarse: bool = False) -> Helix:
    """Return the nearest helix of highest sum over copies, from few steps to all of them."""
    n_all = len(correlation.lags(helix.rise_A))
    stages = [n_all]
    while coarse and stages[0] > _FIRST_STEPS:
        stages.insert(0, stages[0] // 2)
    at = np.array([helix.twist_rad, helix.rise_A])
    for most in stages:
        step = correlation.resolution_A / (_GRID_SHARE * max(most, 1))
        scale = np.array([step / correlation.radius_A, step])
        weight = correlation.overlap_at(np.arange(1, most + 1) * at[1])

        def cost(x: np.ndarray, at=at, scale=scale, weight=weight) -> float:
            twist, rise = at + scale * x
            return -peak_sum(correlation, twist, max(rise, 0.0), helix.fold, weight)

        found = optimize.minimize(
            cost, np.zeros(2), method="Nelder-Mead",
            options={"initial_simplex": [[-0.5, -0.3], [0.6, -0.2], [0.0, 0.6]], "xatol": 1e-3,
                     "fatol": 1e-9, "maxiter": 120},
        )  # fmt: skip
        # A step of the grid away it would be another peak's; and a rise stays one.
        at = at + scale * np.clip(found.x, -_REACH, _REACH)
        at[1] = max(at[1], step / 2)
    return replace(helix, twist_deg=math.degrees(at[0]), rise_A=float(at[1]))


def _named_once(helix: Helix, ranges: HelicalRanges) -> Helix:
    """Return the helix with the twist, of those that an n-fold axis makes alike, in the range."""
    sector = 360 / helix.fold
    low = -sector / 2 if ranges.is_all_round else ranges.twist_deg[0] - sector / 4
    return replace(helix, twist_deg=low + (helix.twist_deg - low) % sector)


def _require_helix(landscape: Landscape, threshold: float) -> None:
    highest = float(landscape.score.max())
    if not highest > threshold:
        raise InputError(
            f"the map is no helix of these ranges: its best twist and rise score {highest:.1f}, "
            f"and maps without a helix up to {threshold:.1f} where so many are tried",
            do="see that the axis is z through the middle, and give other ranges, radius or "
            "resolution",
        )


def _require_inside(
    best: Candidate, correlation: HelicalCorrelation, ranges: HelicalRanges
) -> None:
    """Refuse a best point at the border of its range: the truth may lie beyond."""
    finest = correlation.resolution_A / (_GRID_SHARE * _FIRST_STEPS)
    step_deg = math.degrees(finest / correlation.radius_A)
    (low, high), (least, most) = ranges.twist_deg, ranges.rise_A
    twist_deg = best.helix.twist_deg
    if not ranges.is_all_round and not low + step_deg < twist_deg < high - step_deg:
        raise InputError(
            f"the best twist, {twist_deg:.2f}°, is at the border of the range from "
            f"{low:g} to {high:g}°",
            do="give a wider range of twists",
        )
    if not least + finest < best.helix.rise_A < most - finest:
        raise InputError(
            f"the best rise, {best.helix.rise_A:.2f} Å, is at the border of the range from "
            f"{least:g} to {most:g} Å",
            do="give a wider range of rises; where the lowest is always the best, the map has no "
            "detail as fine as the rise: give a range about the rise that is known otherwise",
        )


def _require_resolved(helix: Helix, correlation: HelicalCorrelation) -> None:
    """Refuse a rise of copies that follow each other without a gap: any other would do as well."""
    sector = 2 * math.pi / helix.fold
    steps = correlation.lags(helix.rise_A)
    turn = (steps * helix.twist_rad + sector / 2) % sector - sector / 2
    distance_A = np.hypot(turn * correlation.radius_A, steps * helix.rise_A)
    near = int(distance_A.argmin())
    lag_A = float(steps[near]) * helix.rise_A
    number = np.arange(1, math.floor(correlation.longest_A / lag_A + 1e-9) + 1)
    if len(number) < 2:
        return  # a single copy has no other to be apart from
    weight = correlation.overlap_at(number * lag_A)
    found = correlation.at(number * turn[near], number * lag_A, helix.fold)
    halfway = number[1:] - 0.5  # the first is near the place itself
    between = correlation.at(halfway * turn[near], halfway * lag_A, helix.fold)
    at_copies = float(np.average(found, weights=weight))
    if float(np.average(between, weights=weight[1:])) > _CONTINUOUS * at_copies:
        screw = f"{math.degrees(turn[near]) / lag_A:.3f}° an ångström"
        raise InputError(
            f"the map does not tell the rise: along a screw of {screw} it is alike all the way, so "
            f"that its copies lie nearer than the {correlation.resolution_A:.3g} Å of detail used",
            do="give a map that shows single copies (of amyloids: finer than their layers, 4.7 Å), "
            "and a finer --resolution-angstrom where it was given; or impose twist and rise that "
            "are known otherwise",
        )


def _require_told(
    helix: Helix, twist_deg: float, rise_A: float, correlation: HelicalCorrelation
) -> None:
    """Refuse twist and rise that are not known to half the resolution at the next copy."""
    half_A = correlation.resolution_A / 2
    if math.radians(twist_deg) * correlation.radius_A > half_A or rise_A > half_A:
        raise InputError(
            f"the map does not tell twist and rise: {helix.twist_deg:.2f} ± {twist_deg:.2f}°, "
            f"{helix.rise_A:.2f} ± {rise_A:.2f} Å",
            do="give a map of higher resolution, or narrower ranges",
        )


def _with_new_noise(
    small: Tensor, step_A: float, helix: Helix, ranges: HelicalRanges, rng: np.random.Generator
):
    """Yield maps that have the helix, and noise like that which was left of the map."""
    n = small.shape[-1]
    outer_px = ranges.radius_A / step_A
    edge_px = min(max(0.1 * outer_px, 1.0), max(n / 2 - outer_px, 1.0))
    signal = impose_helix(
        small, helix, voxel_A=step_A, radius_px=outer_px, edge_px=edge_px,
        fraction=ranges.fraction,
    )  # fmt: skip
    window = torch.from_numpy(central_window(n, ranges.fraction)).float()[:, None, None]
    inside = cylinder_mask(n, min(outer_px, n / 2 - edge_px), edge_px).mul_(window)
    left = (small - signal).mul_(inside)
    # The mean of so many copies has taken its share of the noise along.
    copies = max(n * step_A * ranges.fraction * 0.8 / helix.rise_A * helix.fold, 2.0)
    share = float((inside**2).mean()) * (1 - 1 / copies)
    amplitude = volume_to_half(left).abs().div_(math.sqrt(share))
    del left
    for _ in range(_TRIALS):
        white = volume_to_half(torch.from_numpy(rng.standard_normal(small.shape, dtype=np.float32)))
        modulus = white.abs().clamp_min_(1e-12)
        noise = volume_from_half(white.mul_(amplitude).div_(modulus), n, overwrite=True)
        del white, modulus
        yield noise.mul_(inside).add_(signal)
        del noise


def _alternatives(correlation: HelicalCorrelation, best: Helix) -> tuple[Candidate, ...]:
    """Return scores of helices that are easily taken for the one that was found."""
    twist, rise = best.twist_deg, best.rise_A
    sector = 360 / best.fold
    twice = math.remainder(2 * twist, sector)
    second = f"{EVERY}second subunit"
    if abs(twice) < _LAYER_DEG < abs(twist):
        second += ": a layer of the two-fold screw"
    related = {
        "double pitch": (twist / 2, rise),
        "half pitch": (2 * twist, rise),
        "half steps": (twist / 2, rise / 2),
        "two-fold screw: half steps, turned by half a turn": (twist / 2 + sector / 2, rise / 2),
        second: (twice, 2 * rise),
        f"{EVERY}third subunit": (math.remainder(3 * twist, sector), 3 * rise),
        "the other hand": (-twist, rise),
    }
    found = [
        _scored(correlation, Helix(t, r, best.fold), name)
        for name, (t, r) in related.items()
        if len(correlation.lags(r)) > 0
    ]
    folds = sorted({1, 2, 3, 4, 5, 6, 7, 8, 2 * best.fold, 3 * best.fold} - {best.fold})
    found += [_scored(correlation, replace(best, fold=f), f"C{f}") for f in folds]
    return tuple(sorted(found, key=lambda c: -c.score))
