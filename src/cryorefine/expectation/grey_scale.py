"""Bring references of unknown grey scale to that of the images, before any pose is known."""

import dataclasses
import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Complex, Float
from torch import Tensor

from cryorefine.assign.exhaustive import CoarseSearch, best_amplitude, grid_posterior
from cryorefine.assign.search_depth import GRID_LOSS
from cryorefine.engine.blocks import Block
from cryorefine.engine.protocol import Done, Engine
from cryorefine.events import EventLog, GreyScaleFound
from cryorefine.expectation.contrast import (
    ContrastOdds,
    evidence_of_sign,
    is_inverted,
    odds_at_known_poses,
)
from cryorefine.expectation.search_plan import PoseSpace, pose_space
from cryorefine.kernels.dispatch import extract_slices
from cryorefine.kernels.grid import SliceGrid
from cryorefine.model.observe import GroupBand
from cryorefine.reconstruct.accumulate import centre
from cryorefine.state.particle_batches import (
    Batch,
    HalfOptics,
    ParticleStack,
    both_optics,
    group_counts,
    particle_stack,
    poses_of,
    rows_by_geometry,
)
from cryorefine.state.plan import IterationPlan
from cryorefine.state.state import Inputs, Poses, State
from cryorefine.weigh.group_differences import group_differences

__all__ = [
    "GreyScale",
    "ScaledReferences",
    "believed_sums",
    "common_factor",
    "find_grey_scales",
    "scale_references",
]

_SAMPLE = 64
"""Images of each half and sampling geometry that the grey scale is found with: a sum over all poses
of each costs 10 ms. Right to some per cent down to SNR 0.005 (``docs/decisions.md``, "Grey scale by
the evidence, not by the best pose")."""

_GRID_POSES = 1.5e5
"""Poses of the grid that the likelihood is summed over, at the most: 10 ms an image."""

_AMPLITUDES = tuple(2.0 ** (k / 2) for k in range(-7, 3))
"""In units of the amplitude that fits best at each image's best pose, which noise makes too large:
up to eleven times at a signal-to-noise ratio of 0.003."""

_INVERTED_AMPLITUDES = _AMPLITUDES[::2]
"""Amplitudes that the negative of the reference is tried with: whether it explains more, not how
strong it is, which half of them tell in half the time."""

_SPREAD_ROUNDS = 4
"""Rounds in which the spread of shifts and the amplitude are found in turn; the last ones change
them little. Not measured."""


@dataclass(frozen=True)
class GreyScale:
    """What a half's images say of its reference.

    Attributes
    ----------
    factor
        What the reference must be multiplied with; 0 if it explains nothing in the images.
    group_scale
        Each optics group's amplitude relative to it.
    shift_sigma_A
        Standard deviation of the shifts' components; NaN where it was not measured.
    odds
        Whether the images show it with this sign.
    """

    factor: float
    group_scale: tuple[float, ...]
    shift_sigma_A: float
    odds: ContrastOdds


@dataclass(frozen=True, eq=False)
class Amplitude:
    """What a sample of images says of the reference.

    Attributes
    ----------
    cross, power
        Sums of least squares, image times model and the model's power; where poses are unknown
        the number of images times the most likely amplitude, and that number.
    spread_A
        Standard deviation of the shifts' components; NaN where poses are known.
    odds
        What they say of its sign.
    """

    cross: float
    power: float
    spread_A: float
    odds: ContrastOdds


@dataclass(frozen=True, eq=False)
class MeasureAmplitude:
    """Measures how strong the reference is in images of one geometry.

    Attributes
    ----------
    optics, grids
        By half: how images see the volume, and the references.
    poses
        Where the images are compared with their reference; None: at all poses of a coarse grid.
    """

    stack: ParticleStack
    optics: tuple[HalfOptics, HalfOptics]
    grids: tuple[SliceGrid, SliceGrid]
    space: PoseSpace
    poses: Poses | None

    def run(self, block: Block, done: Done) -> Amplitude:
        """Return the amplitude that a block's images show.

        Where poses are known it is that of least squares. Otherwise it is the most likely one with
        poses unknown, for the amplitude at each image's best pose holds the noise that made it the
        best.
        """
        optics, grid = self.optics[block.half - 1], self.grids[block.half - 1]
        band = optics.band_of(block.geometry)
        batches = list(optics.batches(self.stack, block.geometry, block.rows))
        if self.poses is not None:
            sums = [_at_known_poses(grid, band, batch, self.poses) for batch in batches]
            cross, power = sum(part[0] for part in sums), sum(part[1] for part in sums)
            odds = odds_at_known_poses(torch.cat([of_images for _, _, of_images in sums]), power)
            return Amplitude(cross, power, math.nan, odds)
        x = torch.cat([batch.x * batch.white for batch in batches])
        c = torch.cat([batch.c * batch.white for batch in batches])
        search = _search(self.space, grid, band)
        amplitudes, evidence = _evidence(search, x, c, _AMPLITUDES)
        found, spread_px = _most_likely(search, x, c, amplitudes, evidence)
        _, of_negative = _evidence(search, -x, c, _INVERTED_AMPLITUDES)
        odds = ContrastOdds.of_images(evidence_of_sign(evidence) - evidence_of_sign(of_negative))
        if math.isnan(spread_px):
            spread_px = self.space.max_shift_px(band)
        # The nearest point of the grid shows so much of the pose that lies between.
        cross = found * len(x) / (1 - GRID_LOSS / 2)
        return Amplitude(cross, len(x), spread_px * band.group.pixel_A, odds)


def find_grey_scales(
    inputs: Inputs,
    state: State,
    grids: tuple[SliceGrid, SliceGrid],
    plan: IterationPlan,
    engine: Engine,
) -> tuple[GreyScale, GreyScale]:
    """Measure the halves' grey scales, and how far particles lie from their images' centres.

    On a sample of each geometry's images. Optics groups of one geometry begin with one amplitude.
    """
    optics = both_optics(inputs, state, plan.align_resolution_A)
    blocks = []
    for half in (1, 2):
        for part in rows_by_geometry(inputs.table, inputs.half, optics[half - 1], half):
            sample = part.rows[:: max(1, len(part.rows) // _SAMPLE)]
            if len(sample):
                blocks.append(Block(half, part.geometry, "measure", sample))
    poses = None if plan.mode == "global" else state.poses
    task = MeasureAmplitude(particle_stack(inputs), optics, grids, pose_space(inputs), poses)
    found = engine.map(task, blocks)
    first, second = (
        _grey_scale(
            inputs,
            optics[half - 1],
            half,
            {b.geometry: a for b, a in zip(blocks, found, strict=True) if b.half == half},
        )
        for half in (1, 2)
    )
    return first, second


def _grey_scale(
    inputs: Inputs, optics: HalfOptics, half: int, found: dict[int, Amplitude]
) -> GreyScale:
    """Put what the geometries show together."""
    counts = group_counts(inputs.table, inputs.half, half)
    none = Amplitude(0.0, 0.0, math.nan, ContrastOdds())
    by_group = [found.get(geometry, none) for geometry in optics.geometry_of]
    cross, power = (np.array([getattr(a, k) for a in by_group]) for k in ("cross", "power"))
    # A geometry counts once, however many groups have it.
    share = np.array([1 / optics.geometry_of.count(geometry) for geometry in optics.geometry_of])
    factor, group_scale = common_factor(cross * share, power * share, counts)
    seen = [a for a in found.values() if not math.isnan(a.spread_A)]
    sigma_A = math.nan
    if seen:
        sigma_A = sum(a.power * a.spread_A for a in seen) / sum(a.power for a in seen)
    odds = ContrastOdds.together(a.odds for a in found.values())
    return GreyScale(factor, group_scale, sigma_A, odds)


def _search(space: PoseSpace, grid: SliceGrid, band: GroupBand) -> CoarseSearch:
    """Return the finest grid that the likelihood can be summed over."""
    limit_px = space.max_shift_px(band)
    searched = space.search_space(band, max_shift_px=limit_px, shift_sigma_px=limit_px)
    shell = band.band.n_shells - 1
    while shell > 3 and searched.n_rotations(shell) * searched.n_shifts(shell) > _GRID_POSES:
        shell -= 1
    return space.coarse_search(
        grid,
        band,
        max_shell=shell,
        step_rad=searched.step_rad(shell),
        shift_step_px=searched.shift_step_px(shell),
        max_shift_px=limit_px,
    )


def _evidence(
    search: CoarseSearch,
    x: Complex[Tensor, "b p"],
    c: Float[Tensor, "b p"],
    relative: tuple[float, ...],
) -> tuple[Float[Tensor, "a"], Float[Tensor, "b a"]]:
    """Return amplitudes, in units of that at the best poses, and each image's log-evidence."""
    start = best_amplitude(search, x, c)
    amplitudes = torch.tensor(relative, dtype=torch.float64) * start
    if start <= 0:
        return amplitudes, torch.zeros(len(x), len(amplitudes), dtype=torch.float64)
    return amplitudes, grid_posterior(search, x, c, amplitudes).log_evidence


def _most_likely(
    search: CoarseSearch,
    x: Complex[Tensor, "b p"],
    c: Float[Tensor, "b p"],
    amplitudes: Float[Tensor, "a"],
    of_images: Float[Tensor, "b a"],
) -> tuple[float, float]:
    """Return the most likely amplitude (0: none explains anything) and spread of shifts in px."""
    evidence = of_images.sum(0)
    best = int(evidence.argmax())
    if float(evidence[best]) <= 0:
        return 0.0, math.nan
    amplitude = float(amplitudes[best])
    if 0 < best < len(amplitudes) - 1:
        # The parabola through three points, in the logarithm of the amplitude.
        low, mid, high = (float(evidence[best + k]) for k in (-1, 0, 1))
        step = math.log(_AMPLITUDES[1] / _AMPLITUDES[0])
        amplitude *= math.exp(0.5 * step * (low - high) / (low - 2 * mid + high))
    sigma_px, at = math.inf, torch.tensor([amplitude], dtype=torch.float64)
    least_px = 1.0
    for _ in range(_SPREAD_ROUNDS):
        found = grid_posterior(search, x, c, at, shift_precision=sigma_px**-2)
        sigma_px = max(least_px, math.sqrt(float(found.squared_shift_px2.mean()) / 2))
    return amplitude, sigma_px


def _at_known_poses(
    grid: SliceGrid, band: GroupBand, batch: Batch, poses: Poses
) -> tuple[float, float, Float[Tensor, "b"]]:
    """Return the sums of least squares, image times model and its power, and what images add."""
    first = band.band.prefix(0)
    x, c = batch.x * batch.white, batch.c * batch.white
    rotations, shifts_px = poses_of(poses, batch.rows, band)
    centred = centre(band, x, shifts_px)[:, first:]
    model = (extract_slices(grid, rotations, band.points) * c)[:, first:]
    cross = (centred.conj() * model).real.double()
    return float(cross.sum()), float(model.abs().square().double().sum()), cross.sum(1).cpu()


@dataclass(frozen=True, eq=False)
class ScaledReferences:
    """References on the images' grey scale.

    Attributes
    ----------
    state
        With its references so.
    grids
        Made of them.
    factors
        What those of both halves were multiplied by.
    """

    state: State
    grids: tuple[SliceGrid, SliceGrid]
    factors: tuple[float, float]


def scale_references(
    inputs: Inputs,
    state: State,
    grids: tuple[SliceGrid, SliceGrid],
    plan: IterationPlan,
    events: EventLog,
    engine: Engine,
) -> ScaledReferences:
    """Bring references of unknown grey scale to that of the images, each half by its own."""
    found = find_grey_scales(inputs, state, grids, plan, engine)
    events.emit(GreyScaleFound(half1=found[0].factor, half2=found[1].factor))
    odds = ContrastOdds.together(half.odds for half in found)
    if is_inverted(odds):
        advice = inputs.settings.contrast_advice(of_file=inputs.table.is_inverted)
        events.warn(
            f"the images fit the initial map better with its contrast inverted (log-likelihood "
            f"ratio {-odds.log_ratio:.0f} of {odds.n_images} images): {advice} "
            "if it is the images whose contrast is not that of white particles, or multiply the "
            "initial map by -1 if its particle is dark"
        )
    else:
        for half, factor in enumerate([half.factor for half in found], 1):
            if factor == 0:
                events.warn(
                    f"the reference explains nothing in the images of half {half}: is the initial "
                    "map the wrong one, or its voxel size?"
                )
    factors = found[0].factor or 1.0, found[1].factor or 1.0
    references = tuple(
        volume * factor for volume, factor in zip(state.references, factors, strict=True)
    )
    first, second = (
        dataclasses.replace(grid, values=grid.values * factor)
        for grid, factor in zip(grids, factors, strict=True)
    )
    state = dataclasses.replace(
        state,
        references=references,
        group_scale=(found[0].group_scale, found[1].group_scale),
        shift_sigma_A=(found[0].shift_sigma_A, found[1].shift_sigma_A),
        is_scaled=True,
    )
    return ScaledReferences(state, (first, second), factors)


def believed_sums(
    cross: np.ndarray, power: np.ndarray, group_of: np.ndarray, counts: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the optics groups' sums of cross terms and powers, as far as groups truly differ.

    Where images do not show that, a group's amplitude, the quotient, is that of all images.

    Parameters
    ----------
    cross, power
        Of each image: its least-squares amplitude is the quotient.
    group_of, counts
        Group of each image, and images of each group.
    """
    cross_g = np.bincount(group_of, cross, minlength=len(counts))
    power_g = np.bincount(group_of, power, minlength=len(counts))
    known = power_g > 0
    freedom = int(np.maximum(counts[known] - 1, 0).sum())
    if np.count_nonzero(known) < 2 or cross_g.sum() <= 0:
        return cross_g, power_g
    common = cross_g.sum() / power_g.sum()
    own = np.divide(cross_g, power_g, out=np.full(len(counts), common), where=known)
    believed = np.zeros(len(counts))
    # An image's amplitude varies as one over its power; images of one group tell how much.
    of_image = np.divide(cross, power, out=own[group_of], where=power > 0)
    spread = float((power * (of_image - own[group_of]) ** 2).sum())
    if freedom > 0 and spread > 0:
        variance = spread / freedom / common**2 / power_g[known]
        found = group_differences(own[known] / common - 1, variance)
        believed[known] = found.differs * found.spread**2 / (found.spread**2 + variance)
    return (common + believed * (own - common)) * power_g, power_g


def common_factor(
    cross: np.ndarray, power: np.ndarray, counts: np.ndarray
) -> tuple[float, tuple[float, ...]]:
    """Split amplitudes per optics group into a common factor and relative ones of mean 1."""
    known = (power > 0) & (cross > 0)
    if not known.any():
        return 0.0, (1.0,) * len(cross)
    common = float(cross[known].sum() / power[known].sum())
    # Groups without particles, or that the reference explains nothing of, are taken as average.
    relative = np.where(known, cross / np.where(power > 0, power, 1.0) / common, 1.0)
    mean = float(np.average(relative, weights=np.maximum(counts, 1e-9)))
    return common * mean, tuple((relative / mean).tolist())
