"""What a checkpoint holds: the state of a run, and what stays the same while a segment runs."""

from dataclasses import dataclass

import numpy as np

from cryorefine.records.particle_registry import ParticleRegistry
from cryorefine.refine.image_statistics import Screening
from cryorefine.state.state import State

__all__ = ["Checkpoint", "OpticsSampling", "SegmentConstants"]


@dataclass(frozen=True)
class OpticsSampling:
    """What tells an optics group from the others when particles of another file join a run.

    Attributes
    ----------
    name
        As in the particle file.
    pixel_A, box_px
        Sampling and side of its images.
    """

    name: str
    pixel_A: float
    box_px: int


@dataclass(frozen=True, eq=False)
class SegmentConstants:
    """What every checkpoint of a segment carries, so that the latest alone is enough to resume.

    Attributes
    ----------
    half
        (n,) int8: half set of every particle in use, 1 or 2.
    screening
        Background of every image of the particle file, and why one is not used.
    radius_px
        Radius of the particle in voxels.
    voxel_A
        Sampling of all volumes.
    optics
        The optics groups of the particle file; none in runs from before there were registries.
    registry
        All particles that the run has known; None in runs from before there were registries.
    """

    half: np.ndarray
    screening: Screening
    radius_px: float
    voxel_A: float
    optics: tuple[OpticsSampling, ...]
    registry: ParticleRegistry | None


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """Where a run stands.

    Attributes
    ----------
    state
        After the last iteration.
    constants
        Of the segment that made it.
    spent_s
        Wall and CPU seconds so far.
    is_finished
        Whether the segment was complete with this iteration.
    """

    state: State
    constants: SegmentConstants
    spent_s: tuple[float, float]
    is_finished: bool
