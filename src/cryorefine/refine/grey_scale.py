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
from cryorefine.events import EventLog
from cryorefine.kernels.dispatch import extract_slices
from cryorefine.kernels.grid import SliceGrid
from cryorefine.model.observe import GroupBand
from cryorefine.reconstruct.accumulate import centre
from cryorefine.refine.particle_batches import (
    batches_of,
    group_bands_of,
    max_shift_px,
    poses_of,
    whitening,
)
from cryorefine.refine.plan import IterationPlan
from cryorefine.refine.search_plan import coarse_search, search_space
from cryorefine.refine.state import Inputs, State

__all__ = ["GreyScale", "common_factor", "find_grey_scale", "scale_references"]

_SAMPLE = 64
"""Images of each half and optics group that the grey scale is found with: a sum over all poses of
each costs 10 ms. Right to some per cent down to SNR 0.005 (``docs/decisions.md``, "Grey scale by
the evidence, not by the best pose")."""

_GRID_POSES = 1.5e5
"""Poses of the grid that the likelihood is summed over, at the most: 10 ms an image."""

_AMPLITUDES = tuple(2.0 ** (k / 2) for k in range(-7, 3))
"""In units of the amplitude that fits best at each image's best pose, which noise makes too large:
up to eleven times at a signal-to-noise ratio of 0.003."""

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
    """

    factor: float
    group_scale: tuple[float, ...]
    shift_sigma_A: float


def find_grey_scale(
    inputs: Inputs, state: State, grid: SliceGrid, plan: IterationPlan, half: int
) -> GreyScale:
    """Measure a half's grey scale, and how far its particles lie from their images' centres.

    Where poses are known the amplitude at them is measured by least squares. Otherwise a sample of
    each optics group's images is compared with all poses of a coarse grid: the amplitude is the
    most likely one with poses unknown, for the amplitude at each image's best pose holds the noise
    that made it the best.
    """
    group_bands = group_bands_of(inputs, state, half, plan.align_resolution_A)
    cross, power = np.zeros(len(group_bands)), np.zeros(len(group_bands))
    sigma_A, seen = 0.0, 0
    for g, group_band in enumerate(group_bands):
        rows = inputs.rows(half, g)
        rows = rows[:: max(1, len(rows) // _SAMPLE)]
        if len(rows) == 0:
            continue
        white = whitening(state, half, g, group_band)
        if plan.mode != "global":
            cross[g], power[g] = _at_known_poses(inputs, state, grid, group_band, white, rows)
            continue
        search = _search(inputs, grid, group_band)
        batches = [(b.x * white, b.c * white) for b in batches_of(inputs, group_band, rows)]
        x, c = (torch.cat(parts) for parts in zip(*batches, strict=True))
        found, spread_px = _most_likely(search, x, c)
        if math.isnan(spread_px):
            spread_px = max_shift_px(inputs, group_band)
        power[g] = len(rows)
        # The nearest point of the grid shows so much of the pose that lies between.
        cross[g] = found * power[g] / (1 - GRID_LOSS / 2)
        sigma_A += len(rows) * spread_px * group_band.group.pixel_A
        seen += len(rows)
    counts = np.array([len(inputs.rows(half, g)) for g in range(len(group_bands))])
    factor, group_scale = common_factor(cross, power, counts)
    return GreyScale(factor, group_scale, sigma_A / seen if seen else math.nan)


def _search(inputs: Inputs, grid: SliceGrid, group_band: GroupBand) -> CoarseSearch:
    """Return the finest grid that the likelihood can be summed over."""
    limit_px = max_shift_px(inputs, group_band)
    space = search_space(inputs, group_band, max_shift_px=limit_px, shift_sigma_px=limit_px)
    shell = group_band.band.n_shells - 1
    while shell > 3 and space.n_rotations(shell) * space.n_shifts(shell) > _GRID_POSES:
        shell -= 1
    return coarse_search(
        inputs,
        grid,
        group_band,
        max_shell=shell,
        step_rad=space.step_rad(shell),
        shift_step_px=space.shift_step_px(shell),
        max_shift_px=limit_px,
    )


def _most_likely(
    search: CoarseSearch, x: Complex[Tensor, "b p"], c: Float[Tensor, "b p"]
) -> tuple[float, float]:
    """Return the most likely amplitude (0: none explains anything) and spread of shifts in px."""
    start = best_amplitude(search, x, c)
    if start <= 0:
        return 0.0, math.nan
    amplitudes = torch.tensor(_AMPLITUDES, dtype=torch.float64) * start
    evidence = grid_posterior(search, x, c, amplitudes).log_evidence.sum(0)
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
    inputs: Inputs,
    state: State,
    grid: SliceGrid,
    group_band: GroupBand,
    white: Tensor,
    rows: np.ndarray,
) -> tuple[float, float]:
    """Return the sums of least squares: image times model, and the model's power."""
    cross = power = 0.0
    first = group_band.band.prefix(0)
    for batch in batches_of(inputs, group_band, rows):
        x, c = batch.x * white, batch.c * white
        rotations, shifts_px = poses_of(state.poses, batch.rows, group_band)
        centred = centre(group_band, x, shifts_px)[:, first:]
        model = (extract_slices(grid, rotations, group_band.points) * c)[:, first:]
        cross += float((centred.conj() * model).real.double().sum())
        power += float(model.abs().square().double().sum())
    return cross, power


def scale_references(
    inputs: Inputs,
    state: State,
    grids: tuple[SliceGrid, SliceGrid],
    plan: IterationPlan,
    events: EventLog,
) -> tuple[State, tuple[SliceGrid, SliceGrid]]:
    """Bring references of unknown grey scale to that of the images, each half by its own."""
    found = [find_grey_scale(inputs, state, grids[half - 1], plan, half) for half in (1, 2)]
    factors = [half.factor for half in found]
    events.emit("grey_scale", half1=factors[0], half2=factors[1])
    for half, factor in enumerate(factors, 1):
        if factor == 0:
            events.warn(
                f"the reference explains nothing in the images of half {half}: is their contrast "
                "inverted (particles must be white), or the initial map the wrong one?"
            )
    references = tuple(
        volume * (factor or 1.0) for volume, factor in zip(state.references, factors, strict=True)
    )
    first, second = (
        dataclasses.replace(grid, values=grid.values * (factor or 1.0))
        for grid, factor in zip(grids, factors, strict=True)
    )
    state = dataclasses.replace(
        state,
        references=references,
        group_scale=(found[0].group_scale, found[1].group_scale),
        shift_sigma_A=(found[0].shift_sigma_A, found[1].shift_sigma_A),
        is_scaled=True,
    )
    return state, (first, second)


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
