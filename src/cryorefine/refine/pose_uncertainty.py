"""Covariances of the poses, corrected by what the images themselves show."""

from dataclasses import replace

import torch

from cryorefine.assign.covariance_factor import lag_factor, split_disagreement, variance_factor
from cryorefine.events import EventLog
from cryorefine.kernels.grid import SliceGrid
from cryorefine.refine.particle_batches import (
    batches_of,
    group_bands_of,
    is_assigned,
    poses_of,
    whitening,
)
from cryorefine.refine.plan import IterationPlan
from cryorefine.refine.state import Inputs, Poses, State

__all__ = ["calibrate_covariance"]

_SAMPLE = 120
"""Particles of each half that the factor is measured on: uncertainties are then known to 3 %."""


def calibrate_covariance(
    inputs: Inputs,
    state: State,
    poses: Poses,
    grids: tuple[SliceGrid, SliceGrid],
    plan: IterationPlan,
    events: EventLog,
) -> Poses:
    """Multiply covariances with a factor measured on the particles.

    The Gauss-Newton matrix knows neither the noise of the reference nor how far the likelihood is
    from a parabola. Both show in how far poses from two parts of each image's band lie apart. The
    other half's reference is used, which the image had no part in; nothing but the reported
    uncertainties comes from this, so that the halves stay
    independent. Poses that still move are less certain, too.
    """
    resolution_A = plan.align_resolution_A
    apart = []
    for half in (1, 2):
        group_bands = group_bands_of(inputs, state, half, resolution_A, poses.optics)
        for g, group_band in enumerate(group_bands):
            rows = inputs.rows(half, g)
            every = max(1, len(inputs.table) // (2 * _SAMPLE))
            white = whitening(state, half, g, group_band)
            for batch in batches_of(inputs, group_band, rows[::every], poses.optics):
                own = None if poses.optics is None else poses.optics[torch.from_numpy(batch.rows)]
                apart.append(
                    split_disagreement(
                        grids[2 - half],
                        group_band,
                        batch.x * white,
                        batch.c * white,
                        *poses_of(poses, batch.rows, group_band),
                        max_turn_rad=resolution_A / inputs.geometry.radius_A,
                        optics=own,
                    )
                )
    lag = _lag(inputs, state, poses)
    factor = variance_factor(torch.cat(apart).cpu()) + lag
    events.emit("calibration", variance_factor=factor, lag=lag)
    covariance = None if poses.covariance is None else poses.covariance * factor
    quality = dict(poses.quality)
    for name in ("sigma_rotation_deg", "sigma_shift_A"):
        quality[name] = quality[name] * factor**0.5
    return replace(poses, covariance=covariance, quality=quality)


def _lag(inputs: Inputs, state: State, poses: Poses) -> float:
    """Return what the last iteration's steps add to the factor; 0 where there was none before."""
    known = torch.from_numpy(is_assigned(state, len(inputs.table)))
    if state.poses is None or poses.covariance is None or not bool(known.any()):
        return 0.0
    return lag_factor(
        (state.poses.rotations[known], poses.rotations[known]),
        (state.poses.shift_A[known], poses.shift_A[known]),
        poses.covariance[known],
    )
