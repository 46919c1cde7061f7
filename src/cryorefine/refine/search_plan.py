"""Prepare the search over all orientations of one half and optics group: depth, grid, proof."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from cryorefine.assign.align import AlignmentOptions
from cryorefine.assign.exhaustive import CoarseSearch, make_coarse_search
from cryorefine.assign.planted import planted_missed
from cryorefine.assign.search_depth import (
    SearchDepth,
    SearchSpace,
    discriminating_power,
    plan_depth,
)
from cryorefine.events import EventLog
from cryorefine.geometry.so3 import rotation_grid
from cryorefine.kernels.grid import SliceGrid
from cryorefine.model.observe import GroupBand
from cryorefine.optics.ctf import contrast_transfer
from cryorefine.refine.plan import IterationPlan
from cryorefine.refine.state import Inputs

__all__ = ["PreparedSearch", "coarse_search", "prepare_search", "search_space"]

# Contrast transfers that a plan is averaged over. Not measured.
_PLAN_SAMPLE = 16
# A tenth of the images, 24 to 96: 1 to 6 % of an iteration (docs/decisions.md).
_MAX_PLANTED, _MIN_PLANTED, _PLANTED_SHARE = 96, 24, 10
# Share that may be missed beyond what is planned, as of known poses (many_missed in policy.py).
_MAY_MISS = 0.01
# Three times the poses at each try where too many were missed; three tries. Not measured.
_FINER, _ATTEMPTS = 1.25, 3
# Of the price of loss: particles lost in a part are searched again with all. Not measured.
_WORTH_OF_A_PART = 0.1
_FULL = 0.5
"""Share of the candidates that may be kept: where more are, their number is what loses poses."""


@dataclass(frozen=True, eq=False)
class PreparedSearch:
    """A search that has been planned, and tried on planted images."""

    depth: SearchDepth
    search: CoarseSearch


def search_space(
    inputs: Inputs, group_band: GroupBand, *, max_shift_px: float, shift_sigma_px: float
) -> SearchSpace:
    """Return where poses may lie, in an optics group's pixels."""
    return SearchSpace(
        radius_px=inputs.geometry.radius_A / group_band.group.pixel_A,
        box_px=group_band.group.box_px,
        group_order=inputs.group.order,
        tilt_fraction=inputs.geometry.tilt_fraction,
        max_shift_px=max_shift_px,
        shift_sigma_px=shift_sigma_px,
    )


def coarse_search(
    inputs: Inputs,
    grid: SliceGrid,
    group_band: GroupBand,
    *,
    max_shell: int,
    step_rad: float,
    shift_step_px: float,
    max_shift_px: float,
    weight: Float[Tensor, "p"] | None = None,
) -> CoarseSearch:
    """Take a reference's slices at all orientations within the allowed tilts.

    ``weight``: see :func:`~cryorefine.assign.exhaustive.make_coarse_search`.
    """
    low, high = np.deg2rad((inputs.settings.min_tilt_deg, inputs.settings.max_tilt_deg))
    rotations = rotation_grid(
        step_rad, group=inputs.group, min_tilt_rad=float(low), max_tilt_rad=float(high)
    )
    return make_coarse_search(
        grid,
        group_band,
        rotations.to(inputs.device),
        step_rad=step_rad,
        max_shell=max_shell,
        max_shift_px=max_shift_px,
        shift_step_px=shift_step_px,
        weight=weight,
    )


def prepare_search(
    inputs: Inputs,
    grid: SliceGrid,
    group_band: GroupBand,
    white: Float[Tensor, "p"],
    rows: np.ndarray,
    options: AlignmentOptions,
    plan: IterationPlan,
    half: int,
    events: EventLog,
) -> PreparedSearch:
    """Plan a search for some images, try it on planted ones, and make it finer if it fails them.

    Parameters
    ----------
    rows
        The images' particles: their contrast transfer is what planted images are given.
    """
    space = search_space(
        inputs, group_band, max_shift_px=options.max_shift_px, shift_sigma_px=options.shift_sigma_px
    )
    # In proportion to what is searched: where it is every third image, a third as many.
    n_searched = len(rows) // plan.search_every
    n_planted = min(_MAX_PLANTED, max(_MIN_PLANTED, n_searched // _PLANTED_SHARE))
    sample = rows[np.arange(n_planted) * len(rows) // n_planted]
    c = contrast_transfer(group_band.group, inputs.table.defocus(sample), group_band.s_per_A)
    c = c * group_band.amplitude * white
    power = discriminating_power(grid, group_band, c[:: max(1, n_planted // _PLAN_SAMPLE)])
    finer, least = plan.search_finer, 0
    # Iterations over a part of the particles make references for those that follow.
    worth = 1.0 if plan.share >= 1 else _WORTH_OF_A_PART
    attempt = 0
    while True:
        attempt += 1
        depth = plan_depth(power, group_band.band, space, finer=finer, least=least, worth=worth)
        search = coarse_search(
            inputs,
            grid,
            group_band,
            max_shell=depth.max_shell,
            step_rad=depth.step_rad,
            shift_step_px=depth.shift_step_px,
            max_shift_px=options.max_shift_px,
            weight=c.square().mean(0).sqrt(),
        )
        key = hash((inputs.settings.seed, plan.iteration, half, attempt))
        generator = torch.Generator().manual_seed(key & 0x7FFFFFFF)
        is_missed, is_found = planted_missed(
            grid, search, depth, group_band, c, inputs.group, options, generator
        )
        missed = int(is_missed.sum())
        events.emit(
            "search",
            half=half,
            optics_group=group_band.group.name,
            resolution_A=group_band.group.box_A / depth.max_shell,
            step_deg=float(np.rad2deg(depth.step_rad)),
            orientations=len(search.rotations),
            shifts=len(search.shifts_px),
            terms=search.slices.shape[0],
            points=search.last - search.first,
            most_candidates=depth.most,
            thinned=depth.apart_rad > 0,
            expected_candidates=depth.candidates,
            expected_recall=depth.recall,
            decidable=depth.decidable,
            operations=depth.operations,
            planted=n_planted,
            planted_found=int(is_found.sum()),
            planted_missed=missed,
        )
        # Planned losses cost more to avoid than they are worth.
        allowed = (_MAY_MISS + max(0.0, depth.decidable - depth.recall)) * n_planted
        if missed <= allowed + 2 * allowed**0.5 or attempt == _ATTEMPTS:
            return PreparedSearch(depth, search)
        if depth.candidates > _FULL * depth.most:
            least = 2 * depth.most
        else:
            finer *= _FINER
