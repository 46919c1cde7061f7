"""Compare every image with its model in real space: columns to sort particles by."""

import torch
from torch import Tensor

from cryorefine.assign.image_scores import image_scores
from cryorefine.assign.particle_optics import magnified
from cryorefine.events import EventLog
from cryorefine.fourier.fft import image_from_half
from cryorefine.kernels.dispatch import extract_slices
from cryorefine.kernels.grid import SliceGrid
from cryorefine.reconstruct.accumulate import centre
from cryorefine.refine.particle_batches import batches_of, group_bands_of, poses_of
from cryorefine.refine.state import Inputs, Poses, State

__all__ = ["measure_image_similarity"]


def measure_image_similarity(
    inputs: Inputs,
    state: State,
    poses: Poses,
    grids: tuple[SliceGrid, SliceGrid],
    resolution_A: float,
    events: EventLog,
) -> dict[str, Tensor]:
    """Return the measures of :func:`~cryorefine.assign.image_scores.image_scores`, (n,) each.

    Of the centred image and the half's reference seen through the particle's own contrast
    transfer, both down to a resolution, within the particle's radius.
    """
    n, done = len(inputs.table), 0
    out: dict[str, Tensor] = {}
    for half in (1, 2):
        group_bands = group_bands_of(inputs, state, half, resolution_A, poses.optics)
        for g, group_band in enumerate(group_bands):
            radius_px = inputs.radius_px * inputs.voxel_A / group_band.group.pixel_A
            for batch in batches_of(inputs, group_band, inputs.rows(half, g), poses.optics):
                rotations, shifts_px = poses_of(poses, batch.rows, group_band)
                index = torch.from_numpy(batch.rows)
                if poses.optics is not None:
                    rotations = magnified(rotations, poses.optics[index])
                model = extract_slices(grids[half - 1], rotations, group_band.points) * batch.c
                image = centre(group_band, batch.x, shifts_px)
                found = image_scores(
                    *(
                        image_from_half(group_band.band.put(t), group_band.band.size_px)
                        for t in (image, model)
                    ),
                    radius_px=radius_px,
                )
                for name, values in found.items():
                    out.setdefault(name, torch.zeros(n, dtype=torch.float64))
                    out[name][index] = values.double().cpu()
                done += len(batch.rows)
                events.emit("progress", stage="comparing images", done=done, total=n)
    return out
