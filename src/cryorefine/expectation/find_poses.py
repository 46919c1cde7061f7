"""The poses of a block of particles: kept, found, searched for anew, checked or followed."""

import math
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from cryorefine.assign.align import (
    AlignmentOptions,
    Alternatives,
    BatchPoses,
    align_globally,
    align_locally,
    score_poses,
)
from cryorefine.assign.axis_prior import AxisPrior
from cryorefine.assign.comparison import Reference
from cryorefine.assign.own_noise import NoiseInReference, OwnNoise
from cryorefine.assign.particle_optics import GroupImages, OpticsPrior
from cryorefine.engine.blocks import Block
from cryorefine.engine.protocol import Done
from cryorefine.expectation.optics_refinement import refine_batch
from cryorefine.expectation.search_plan import PreparedSearch
from cryorefine.geometry.protocol import Symmetry
from cryorefine.kernels.grid import SliceGrid
from cryorefine.model.observe import GroupBand
from cryorefine.state.particle_batches import Batch, HalfOptics, ParticleStack, poses_of
from cryorefine.state.scores import ParticleScores, measured
from cryorefine.state.state import OtherPoses, Poses

__all__ = ["FindPoses", "FoundPoses"]


@dataclass(frozen=True, eq=False)
class FoundPoses:
    """What was found of a block's particles, in their order.

    Attributes
    ----------
    poses
        Without what is only known of all particles together.
    model_power
        Noise-weighted power of each particle's model.
    is_missed
        Whether a search would not have found the pose that was known before and is the best still.
    """

    poses: Poses
    model_power: Float[Tensor, "n"]
    is_missed: Bool[Tensor, "n"]

    @staticmethod
    def join(parts: "list[FoundPoses]") -> "FoundPoses":
        """Return all of several, one after the other."""
        return FoundPoses(
            Poses.join([part.poses for part in parts]),
            torch.cat([part.model_power for part in parts]),
            torch.cat([part.is_missed for part in parts]),
        )


@dataclass(frozen=True, eq=False)
class FindPoses:
    """Finds poses of particles; a block's action says how.

    ``keep`` scores the pose as it is; ``find`` searches everywhere for one; ``search`` does so and
    compares with the pose that is known; ``check`` refines it and looks about it for a better one;
    ``follow`` refines it.

    Attributes
    ----------
    optics, grids
        By half: how images see the volume, and the references.
    noise
        By half, how references hold the noise of their images; None where they hold none.
    searches, options
        By half and geometry.
    poses
        Known so far; None before any.
    values, prior
        The particles' own optics, and the bounds within which they are refined; None where there
        are none, or where they are not refined.
    axis
        Where all particles' filaments lie; None where nothing is known.
    """

    stack: ParticleStack
    optics: tuple[HalfOptics, HalfOptics]
    grids: tuple[SliceGrid, SliceGrid]
    searches: dict[tuple[int, int], PreparedSearch]
    options: dict[tuple[int, int], AlignmentOptions]
    symmetry: Symmetry
    poses: Poses | None
    noise: tuple[NoiseInReference, NoiseInReference] | None
    values: Float[Tensor, "n v"] | None
    prior: OpticsPrior | None
    axis: AxisPrior | None = None

    def run(self, block: Block, done: Done) -> FoundPoses:
        """Return the poses of a block's particles, on the CPU."""
        optics = self.optics[block.half - 1]
        parts = []
        for batch in optics.batches(self.stack, block.geometry, block.rows, self.values):
            parts.append(self._of_batch(block, batch))
            done(len(batch.rows))
        return FoundPoses.join(parts)

    def _of_batch(self, block: Block, batch: Batch) -> FoundPoses:
        band = self.optics[block.half - 1].band_of(block.geometry)
        found = self._aligned(block, batch, band).cpu()
        values = None if self.values is None else self.values[batch.index]
        if self.prior is not None and block.action != "keep":
            found, values = self._with_optics(block, batch, found)
        return FoundPoses(
            _poses_in_A(found, values, band.group.pixel_A), found.model_power, found.is_missed
        )

    def _aligned(self, block: Block, batch: Batch, band: GroupBand) -> BatchPoses:
        """Return a batch's poses, as the block's action says."""
        key = (block.half, block.geometry)
        options = self.options[key]
        reference = Reference(self.grids[block.half - 1], self.symmetry)
        images = batch.whitened(band)
        if self.axis is not None:
            images = replace(images, axis=self.axis.select(batch.index, images.device))
        if block.action == "find":
            return align_globally(images, reference, self.searches[key].search, options)
        images = replace(images, own=self._own_noise(block.half, batch, band))
        start = poses_of(self.poses, batch.rows, band)
        if block.action == "search":
            search = self.searches[key].search
            return align_globally(images, reference, search, options, previous=start)
        if block.action == "keep":
            # Poses that are only scored may lie anywhere.
            anywhere = replace(options, max_shift_px=float(band.group.box_px))
            return score_poses(images, reference, *start, anywhere)
        return align_locally(
            images, reference, *start, options, is_restarted=block.action == "check",
            others=self._known_others(batch, band, options),
        )  # fmt: skip

    def _with_optics(
        self, block: Block, batch: Batch, found: BatchPoses
    ) -> tuple[BatchPoses, Float[Tensor, "b v"]]:
        """Refine what particles have of their own together with their poses."""
        if self.prior is None or self.values is None:
            raise ValueError("no particle has optics of its own")
        optics = self.optics[block.half - 1]
        own = self._own_noise(block.half, batch, optics.band_of(block.geometry))
        reference = Reference(self.grids[block.half - 1], self.symmetry)
        parts, order = [], []
        for places, view in optics.by_view(batch.group_of):
            index = torch.arange(len(batch.rows))[places]
            rows = batch.rows[places]
            parts.append(
                refine_batch(
                    reference,
                    GroupImages(
                        view, batch.x[index],
                        batch.white if len(batch.white) == 1 else batch.white[index],
                        optics.amplitudes(batch.group_of[places]),
                        self.stack.table.defocus(rows),
                        None if own is None else own.select(index),
                    ),
                    found.select(index),
                    self.values[torch.from_numpy(rows)],
                    self.prior,
                    self.options[block.half, block.geometry],
                    start=poses_of(self.poses, rows, view),
                )
            )  # fmt: skip
            order.append(index)
        back = torch.cat(order).argsort()
        poses = BatchPoses.join([part for part, _ in parts]).select(back)
        poses = replace(poses, alternatives=found.alternatives)
        return poses, torch.cat([values for _, values in parts])[back]

    def _known_others(
        self, batch: Batch, band: GroupBand, options: AlignmentOptions
    ) -> Alternatives | None:
        """Return poses that competed so far, unless the user limits how far poses may go."""
        limits = options.local
        is_free = math.isinf(limits.max_turn_rad) and math.isinf(limits.max_move_px)
        if self.poses is None or self.poses.others is None:
            return None
        if not (is_free and limits.turns and limits.moves):
            return None
        others = self.poses.select(batch.rows).others
        if others is None or len(others.row) == 0:
            return None
        device = band.points.device
        return Alternatives(
            others.row.to(device), others.rotations.to(device),
            others.shift_A.to(device) / band.group.pixel_A, others.probability.to(device),
        )  # fmt: skip

    def _own_noise(self, half: int, batch: Batch, band: GroupBand) -> OwnNoise | None:
        """Return where a batch's images went into their reference, if it holds any."""
        if self.noise is None or self.poses is None or self.poses.scores.weight is None:
            return None
        poses, noise = self.poses.select(batch.rows), self.noise[half - 1]
        return _inserted(poses, noise, band.group.pixel_A, band.points.device)


def _inserted(
    poses: Poses, noise: NoiseInReference, pixel_A: float, device: torch.device
) -> OwnNoise:
    """Return where particles went into their reference, the best pose of each first."""
    whole = measured(poses.scores.weight).nan_to_num(0.0)
    weight = (whole * measured(poses.scores.probability).nan_to_num(1.0))[:, None]
    rotations, shifts_A = poses.rotations[:, None], poses.shift_A[:, None]
    others = poses.others
    if others is not None and len(others.row) > 0:
        row = others.row
        counts = torch.bincount(row, minlength=len(weight))
        rank = torch.arange(len(row)) - (counts.cumsum(0) - counts)[row] + 1
        k = int(counts.max()) + 1
        rotations = rotations.repeat(1, k, 1, 1)
        shifts_A = shifts_A.repeat(1, k, 1)
        weight = torch.cat([weight, weight.new_zeros(len(weight), k - 1)], 1)
        rotations[row, rank], shifts_A[row, rank] = others.rotations, others.shift_A
        weight[row, rank] = whole[row] * others.probability
    shifts_px = (shifts_A / pixel_A).to(device)
    return OwnNoise(rotations.to(device), shifts_px, weight.to(device), noise)


def _poses_in_A(found: BatchPoses, values: Float[Tensor, "b v"] | None, pixel_A: float) -> Poses:
    """Return a batch's poses in ångströms and degrees."""
    unit = torch.tensor([1.0] * 3 + [pixel_A] * 2, dtype=torch.float64)
    scores = ParticleScores(
        score=found.score.double(),
        gap=found.gap.double(),
        n_effective=found.n_effective.double(),
        probability=found.probability.double(),
        correlation=found.correlation.double(),
        scale=found.scale.double(),
        sigma_rotation_deg=torch.rad2deg(found.sigma_rotation_rad).double(),
        sigma_shift_A=(found.sigma_shift_px * pixel_A).double(),
        at_shift_limit=found.at_edge.double(),
        at_tilt_limit=found.at_tilt_limit.double(),
    )
    other = found.alternatives
    return Poses(
        found.rotations,
        found.shifts_px * pixel_A,
        scores,
        found.covariance * unit * unit[:, None],
        values,
        OtherPoses(other.image_of, other.rotations, other.shifts_px * pixel_A, other.probability),
    )
