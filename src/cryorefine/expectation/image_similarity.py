"""Compare every image with its model in real space: columns to sort particles by."""

from dataclasses import dataclass

import torch
from torch import Tensor

from cryorefine.assign.image_scores import image_scores
from cryorefine.assign.particle_optics import magnified
from cryorefine.engine.blocks import Block, plan_blocks, rows_in_order
from cryorefine.engine.progress import progress_of
from cryorefine.engine.protocol import Done, Engine
from cryorefine.events import EventLog
from cryorefine.fourier.fft import image_from_half
from cryorefine.kernels.dispatch import extract_slices
from cryorefine.kernels.grid import SliceGrid
from cryorefine.reconstruct.accumulate import centre
from cryorefine.state.particle_batches import (
    Batch,
    HalfOptics,
    ParticleStack,
    both_optics,
    particle_stack,
    poses_of,
    rows_by_geometry,
)
from cryorefine.state.state import Inputs, Poses, State

__all__ = ["CompareImages", "measure_image_similarity"]


@dataclass(frozen=True, eq=False)
class CompareImages:
    """Compares images with their half's reference at their poses.

    Attributes
    ----------
    optics, grids
        By half: how images see the volume, and the references.
    radius_A
        Of the particle: pixels within count.
    """

    stack: ParticleStack
    optics: tuple[HalfOptics, HalfOptics]
    grids: tuple[SliceGrid, SliceGrid]
    poses: Poses
    radius_A: float

    def run(self, block: Block, done: Done) -> dict[str, Tensor]:
        """Return the measures of a block's images, on the CPU."""
        optics = self.optics[block.half - 1]
        parts = []
        for batch in optics.batches(self.stack, block.geometry, block.rows, self.poses.optics):
            parts.append(self._of_batch(block, batch))
            done(len(batch.rows))
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

    def _of_batch(self, block: Block, batch: Batch) -> dict[str, Tensor]:
        group_band = self.optics[block.half - 1].band_of(block.geometry)
        band = group_band.band
        rotations, shifts_px = poses_of(self.poses, batch.rows, group_band)
        if self.poses.optics is not None:
            rotations = magnified(rotations, self.poses.optics[batch.index])
        grid = self.grids[block.half - 1]
        model = extract_slices(grid, rotations, group_band.points) * batch.c
        image = centre(group_band, batch.x, shifts_px)
        found = image_scores(
            *(image_from_half(band.put(t), band.size_px) for t in (image, model)),
            radius_px=self.radius_A / group_band.group.pixel_A,
        )
        return {name: values.double().cpu() for name, values in found.items()}


def measure_image_similarity(
    inputs: Inputs,
    state: State,
    poses: Poses,
    grids: tuple[SliceGrid, SliceGrid],
    resolution_A: float,
    events: EventLog,
    engine: Engine,
) -> dict[str, Tensor]:
    """Return the measures of :func:`~cryorefine.assign.image_scores.image_scores`, (n,) each.

    Of the centred image and the half's reference seen through the particle's own contrast
    transfer, both down to a resolution, within the particle's radius.
    """
    optics = both_optics(inputs, state, resolution_A, poses.optics)
    parts = [
        part
        for half in (1, 2)
        for part in rows_by_geometry(inputs.table, inputs.half, optics[half - 1], half)
    ]
    blocks = plan_blocks(parts, smallest=inputs.working_memory.smallest_block)
    radius_A = inputs.radius_px * inputs.voxel_A
    task = CompareImages(particle_stack(inputs), optics, grids, poses, radius_A)
    done = progress_of("comparing images", events, len(inputs.table))
    found = engine.map(task, blocks, done)
    order = torch.from_numpy(rows_in_order(blocks))
    return {name: torch.cat([part[name] for part in found])[order] for name in found[0]}
