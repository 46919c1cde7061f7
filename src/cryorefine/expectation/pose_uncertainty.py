"""Covariances of the poses, corrected by what the images themselves show."""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from cryorefine.assign.covariance_factor import lag_factor, split_disagreement, variance_factor
from cryorefine.engine.blocks import Block, plan_blocks
from cryorefine.engine.protocol import Done, Engine
from cryorefine.events import CovarianceCalibrated, EventLog
from cryorefine.kernels.grid import SliceGrid
from cryorefine.state.particle_batches import (
    HalfOptics,
    ParticleStack,
    both_optics,
    is_assigned,
    particle_stack,
    poses_of,
    rows_by_geometry,
)
from cryorefine.state.plan import IterationPlan
from cryorefine.state.scores import measured
from cryorefine.state.state import Inputs, Poses, State

__all__ = ["SplitImages", "calibrate_covariance"]

_SAMPLE = 120
"""Particles of each half that the factor is measured on: uncertainties are then known to 3 %."""


@dataclass(frozen=True, eq=False)
class SplitImages:
    """Refines poses from two parts of each image's band.

    Attributes
    ----------
    optics, grids
        By half: how images see the volume, and the references. Images are compared with the *other*
        half's, which they had no part in.
    max_turn_rad
        Limit of a single step.
    """

    stack: ParticleStack
    optics: tuple[HalfOptics, HalfOptics]
    grids: tuple[SliceGrid, SliceGrid]
    poses: Poses
    max_turn_rad: float

    def run(self, block: Block, done: Done) -> Float[Tensor, "b"]:
        """Return how far apart the poses of each image are; see :func:`split_disagreement`."""
        optics = self.optics[block.half - 1]
        band = optics.band_of(block.geometry)
        apart = []
        for batch in optics.batches(self.stack, block.geometry, block.rows, self.poses.optics):
            own = None if self.poses.optics is None else self.poses.optics[batch.index]
            apart.append(
                split_disagreement(
                    self.grids[2 - block.half],
                    batch.whitened(band),
                    *poses_of(self.poses, batch.rows, band),
                    max_turn_rad=self.max_turn_rad,
                    optics=own,
                ).cpu()
            )
            done(len(batch.rows))
        return torch.cat(apart)


def calibrate_covariance(
    inputs: Inputs,
    state: State,
    poses: Poses,
    grids: tuple[SliceGrid, SliceGrid],
    plan: IterationPlan,
    events: EventLog,
    engine: Engine,
) -> Poses:
    """Multiply covariances with a factor measured on the particles.

    The Gauss-Newton matrix knows neither the noise of the reference nor how far the likelihood is
    from a parabola. Both show in how far poses from two parts of each image's band lie apart. The
    other half's reference is used, which the image had no part in; nothing but the reported
    uncertainties comes from this, so that the halves stay
    independent. Poses that still move are less certain, too.
    """
    optics = both_optics(inputs, state, plan.align_resolution_A, poses.optics)
    every = max(1, len(inputs.table) // (2 * _SAMPLE))
    parts = [
        replace(part, rows=part.rows[::every])
        for half in (1, 2)
        for part in rows_by_geometry(inputs.table, inputs.half, optics[half - 1], half)
    ]
    blocks = plan_blocks(parts, smallest=inputs.working_memory.smallest_block)
    max_turn_rad = plan.align_resolution_A / inputs.geometry.radius_A
    task = SplitImages(particle_stack(inputs), optics, grids, poses, max_turn_rad)
    apart = engine.map(task, blocks)
    lag = _lag(inputs, state, poses)
    factor = variance_factor(torch.cat(apart)) + lag
    events.emit(CovarianceCalibrated(variance_factor=factor, lag=lag))
    covariance = None if poses.covariance is None else poses.covariance * factor
    scores = poses.scores.replace(
        sigma_rotation_deg=measured(poses.scores.sigma_rotation_deg) * factor**0.5,
        sigma_shift_A=measured(poses.scores.sigma_shift_A) * factor**0.5,
    )
    return replace(poses, covariance=covariance, scores=scores)


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
