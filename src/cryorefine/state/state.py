"""Everything that one iteration hands to the next."""

import math
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from cryorefine.engine.memory import MemoryPlan
from cryorefine.evaluate.fsc import FscCurves
from cryorefine.geometry.protocol import Symmetry
from cryorefine.model.observe import ImageStatistics, select_statistics
from cryorefine.optics.group import OpticsGroup
from cryorefine.particles.images import ImageSource
from cryorefine.particles.table import ParticleTable
from cryorefine.reconstruct.solve import FoldedSums
from cryorefine.settings import RefineSettings
from cryorefine.state.plan import Geometry, IterationRecord
from cryorefine.state.scores import ParticleScores

__all__ = ["Evaluation", "Inputs", "OtherPoses", "Poses", "State", "unknown_poses"]


@dataclass(frozen=True, eq=False)
class Inputs:
    """What stays the same during a run.

    Attributes
    ----------
    table, images
        The usable particles only.
    rejected
        Table of the others, and why each was rejected.
    statistics
        Background of every image.
    half
        Half set of every particle, 1 or 2.
    voxel_A, size_px
        Sampling and box of all volumes.
    radius_px
        Radius of the particle in voxels.
    mask, reference_mask, post_symmetry_mask, post_mask, comparison
        The user's masks and known map at that sampling, on the device; None where not given.
    device
        Where the passes compute.
    memory, device_memory
        What the run may use of the machine's memory, and of the device's own if it has some.
    run_folder
        The run's; None where there is none. Commands of the user may have files there.
    """

    settings: RefineSettings
    table: ParticleTable
    images: ImageSource
    rejected: ParticleTable
    rejected_reasons: tuple[str, ...]
    statistics: ImageStatistics
    half: np.ndarray
    group: Symmetry
    voxel_A: float
    size_px: int
    radius_px: float
    geometry: Geometry
    mask: Float[Tensor, "z y x"] | None
    reference_mask: Float[Tensor, "z y x"] | None
    post_symmetry_mask: Float[Tensor, "z y x"] | None
    post_mask: Float[Tensor, "z y x"] | None
    comparison: Float[Tensor, "z y x"] | None
    device: torch.device
    memory: MemoryPlan
    device_memory: MemoryPlan | None
    run_folder: Path | None = None

    @property
    def working_memory(self) -> MemoryPlan:
        """What the passes may use where they compute."""
        return self.memory if self.device_memory is None else self.device_memory

    @property
    def tilt_range_rad(self) -> tuple[float, float]:
        """Viewing tilts that are allowed."""
        low, high = self.settings.tilt_limits_deg
        return math.radians(low), math.radians(high)

    @property
    def optics(self) -> tuple[OpticsGroup, ...]:
        """Optics groups."""
        return self.table.optics

    def rows(self, half: int, group_index: int) -> np.ndarray:
        """Return the particles of one half and optics group."""
        return np.flatnonzero((self.half == half) & (self.table.optics_index == group_index))

    def select(self, rows: np.ndarray) -> "Inputs":
        """Return the same with these particles only."""
        table = self.table.select(rows)
        return replace(
            self,
            table=table,
            images=ImageSource(table, self.images.headers, inverted=self.images.is_inverted),
            statistics=select_statistics(self.statistics, rows),
            half=self.half[rows],
        )


@dataclass(frozen=True, eq=False)
class OtherPoses:
    """Poses that compete with the best ones of particles that the data cannot decide.

    Attributes
    ----------
    row
        The particles they belong to, ascending.
    rotations, shift_A
        As :class:`Poses` has them.
    probability
        Their share of the posterior; the rest is the best pose's.
    """

    row: Int[Tensor, "m"]
    rotations: Float[Tensor, "m 3 3"]
    shift_A: Float[Tensor, "m 2"]
    probability: Float[Tensor, "m"]

    def at(self, chosen: Tensor) -> "OtherPoses":
        """Return those that a mask or an index chooses."""
        return OtherPoses(
            self.row[chosen], self.rotations[chosen], self.shift_A[chosen], self.probability[chosen]
        )

    def select(self, rows: np.ndarray) -> "OtherPoses":
        """Return those of some particles, numbered by their place among these."""
        wanted = torch.from_numpy(rows)
        first = torch.searchsorted(self.row, wanted)
        counts = torch.searchsorted(self.row, wanted, right=True) - first
        place = torch.repeat_interleave(torch.arange(len(rows)), counts)
        rank = torch.arange(len(place)) - (counts.cumsum(0) - counts)[place]
        return replace(self.at(first[place] + rank), row=place)

    @staticmethod
    def join(parts: "list[OtherPoses]") -> "OtherPoses | None":
        """Return all of several, ascending by row; None if there is none."""
        if not any(len(part.row) for part in parts):
            return None
        names = ("row", "rotations", "shift_A", "probability")
        joined = OtherPoses(*(torch.cat([getattr(part, n) for part in parts]) for n in names))
        return joined.at(joined.row.argsort(stable=True))


@dataclass(frozen=True, eq=False)
class Poses:
    """Pose and scores of every particle; arrays of length n.

    Attributes
    ----------
    rotations
        Object-to-image matrices, float64.
    shift_A
        (x, y) that centres the image.
    scores
        What was measured beside the pose; empty before the first assignment, and NaN for particles
        that have not been assigned yet.
    covariance
        Of (rotation vector in the image frame in radians, shift in ångströms); None before the
        first assignment.
    optics
        What the particles have of their own beside the pose; see
        :mod:`cryorefine.assign.particle_optics`. None where nothing was refined.
    others
        Poses beside the best ones; None where every particle is decided, or none was looked at.
    """

    rotations: Float[Tensor, "n 3 3"]
    shift_A: Float[Tensor, "n 2"]
    scores: ParticleScores = field(default_factory=ParticleScores)
    covariance: Float[Tensor, "n 5 5"] | None = None
    optics: Float[Tensor, "n v"] | None = None
    others: OtherPoses | None = None

    @property
    def is_assigned(self) -> Bool[Tensor, "n"]:
        """Which poses this run has found."""
        if self.scores.score is None:
            return torch.zeros(len(self.rotations), dtype=torch.bool)
        return ~self.scores.score.isnan()

    def select(self, rows: np.ndarray) -> "Poses":
        """Return those of some particles."""
        index = torch.from_numpy(rows)
        covariance = None if self.covariance is None else self.covariance[index]
        optics = None if self.optics is None else self.optics[index]
        others = None if self.others is None else self.others.select(rows)
        scores = self.scores.select(index)
        return Poses(self.rotations[index], self.shift_A[index], scores, covariance, optics, others)

    @staticmethod
    def join(parts: "list[Poses]") -> "Poses":
        """Return the poses of several sets of particles, one after the other.

        All have the same scores and other arrays, or none has.
        """
        covariance = [part.covariance for part in parts if part.covariance is not None]
        optics = [part.optics for part in parts if part.optics is not None]
        starts = np.cumsum([0, *(len(part.rotations) for part in parts)])
        others = [
            replace(part.others, row=part.others.row + int(start))
            for start, part in zip(starts, parts, strict=False)
            if part.others is not None
        ]
        return Poses(
            torch.cat([part.rotations for part in parts]),
            torch.cat([part.shift_A for part in parts]),
            ParticleScores.join([part.scores for part in parts]),
            torch.cat(covariance) if covariance else None,
            torch.cat(optics) if optics else None,
            OtherPoses.join(others) if others else None,
        )

    def updated(self, rows: np.ndarray, part: "Poses") -> "Poses":
        """Return all poses with those of some particles replaced."""
        index = torch.from_numpy(rows)

        def put(old: Tensor | None, new: Tensor, default: float = torch.nan) -> Tensor:
            unknown = new.new_full((len(self.rotations), *new.shape[1:]), default)
            return (unknown if old is None else old).index_copy(0, index, new)

        return Poses(
            put(self.rotations, part.rotations),
            put(self.shift_A, part.shift_A),
            self.scores.updated(index, part.scores, len(self.rotations)),
            None if part.covariance is None else put(self.covariance, part.covariance),
            None if part.optics is None else put(self.optics, part.optics, 0.0),
            self._updated_others(index, part.others),
        )

    def _updated_others(self, index: Tensor, new: OtherPoses | None) -> OtherPoses | None:
        parts = []
        if self.others is not None:
            is_kept = torch.ones(len(self.rotations), dtype=torch.bool)
            is_kept[index] = False
            parts.append(self.others.at(is_kept[self.others.row]))
        if new is not None:
            parts.append(replace(new, row=index[new.row]))
        return OtherPoses.join(parts)


def unknown_poses(n: int) -> Poses:
    """Return poses of particles that nothing is known of: unturned, centred."""
    return Poses(
        torch.eye(3, dtype=torch.float64).expand(n, 3, 3), torch.zeros(n, 2, dtype=torch.float64)
    )


@dataclass(frozen=True, eq=False)
class Evaluation:
    """How good the half maps are.

    Attributes
    ----------
    curves
        FSC curves of the half maps.
    resolution_A, resolution_unmasked_A
        At the run's criterion.
    comparison_fsc
        FSC of the average against the known map within the mask; None without one.
    coverage
        Evenness of the viewing directions, 0 to 1.
    resolution_worst_A
        In the direction where it is coarsest; NaN where it was not measured: before the end of a
        run, and where views are even.
    symmetry_gain, asymmetric_share
        By how many nats a map without the symmetry explains the other half's images better, and
        how much of its coarse detail is not symmetric; NaN where it was not measured: before the
        end of a run, and without a symmetry. See :mod:`cryorefine.expectation.broken_symmetry`.
    """

    curves: FscCurves
    resolution_A: float
    resolution_unmasked_A: float
    comparison_fsc: Float[Tensor, "s"] | None
    coverage: float
    resolution_worst_A: float = math.nan
    symmetry_gain: float = math.nan
    asymmetric_share: float = math.nan


@dataclass(frozen=True, eq=False)
class State:
    """The run after an iteration. Index 0 of a pair is half 1.

    Attributes
    ----------
    iteration
        0 before the first.
    poses
        Of all particles; None before any are known.
    references
        What the next assignment compares with: regularised, not masked.
    is_scaled
        Whether the references are on the images' grey scale.
    noise
        Noise variance per coefficient, by half, optics group and shell of the group's images.
    group_scale
        Amplitude of each optics group's images relative to the others of the half, by half and
        group; the mean over particles is 1.
    halves
        Raw half maps; None before the first reconstruction.
    mask
        Where the resolution was measured.
    evaluation
        Of the half maps; None before the first reconstruction.
    history
        One record an iteration.
    previous
        Poses of the iteration before; None where they are not known.
    sums
        Folded sums of both halves, of stochastic runs only.
    shift_sigma_A
        By half, standard deviation of the shifts as measured with the grey scale, before any pose
        was known; NaN where it was not.
    own_share
        By half, what an image's own noise in the reference adds to its score, per shell; see
        :func:`cryorefine.refine.own_noise_share.own_share`. None where references hold no image.
    start_A
        Resolution of the half maps of the poses that a local run was given; NaN where it began
        otherwise.
    used_references
        What the iteration's images were compared with: shaped as asked for. Written where
        intermediate files are kept, and else, or in a state that was read, None.
    unsymmetrised
        Half maps before their helix was imposed; None without a helix, or in a state that was read.
    """

    iteration: int
    poses: Poses | None
    references: tuple[Float[Tensor, "z y x"], Float[Tensor, "z y x"]]
    is_scaled: bool
    noise: tuple[tuple[Float[Tensor, "_"], ...], tuple[Float[Tensor, "_"], ...]]
    group_scale: tuple[tuple[float, ...], tuple[float, ...]]
    halves: tuple[Float[Tensor, "z y x"], Float[Tensor, "z y x"]] | None
    mask: Float[Tensor, "z y x"] | None
    evaluation: Evaluation | None
    history: list[IterationRecord]
    previous: Poses | None = None
    sums: tuple[FoldedSums, FoldedSums] | None = None
    shift_sigma_A: tuple[float, float] = (math.nan, math.nan)
    own_share: tuple[Float[Tensor, "s"], Float[Tensor, "s"]] | None = None
    start_A: float = math.nan
    used_references: tuple[Float[Tensor, "z y x"], Float[Tensor, "z y x"]] | None = None
    unsymmetrised: tuple[Float[Tensor, "z y x"], Float[Tensor, "z y x"]] | None = None

    def average(self) -> Float[Tensor, "z y x"]:
        """Return the mean of the raw half maps."""
        if self.halves is None:
            raise ValueError("there are no half maps before the first iteration")
        return torch.add(*self.halves) / 2
