"""Particles of one half and optics group, batch by batch, in their group's band."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Complex, Float
from torch import Tensor

from cryorefine.assign.particle_optics import (
    magnification_matrix,
    with_defocus_change,
    without_offset,
)
from cryorefine.engine.memory import batch_size
from cryorefine.model.observe import GroupBand, make_group_band, observe, select_statistics
from cryorefine.refine.state import Inputs, Poses, State

__all__ = [
    "Batch",
    "batches_of",
    "group_bands_of",
    "inverse_noise_variance",
    "is_assigned",
    "largest_magnification",
    "max_shift_px",
    "poses_of",
    "whitening",
]


@dataclass(frozen=True, eq=False)
class Batch:
    """One batch of images of one half and optics group, in the group's band."""

    rows: np.ndarray
    x: Complex[Tensor, "b p"]
    c: Float[Tensor, "b p"]


def largest_magnification(
    inputs: Inputs, half: int, optics: Float[Tensor, "n v"] | None = None
) -> float:
    """Return by what a half's particles magnify frequencies at most, at least 1.

    It is what refinement may make of them, or more where it took out their mean since.

    Parameters
    ----------
    optics
        The particles' own values that slices are read or written with; None: none but those
        that are being refined.
    """
    largest = inputs.settings.largest_magnification
    # The other half's particles must not change this one's band.
    mine = torch.from_numpy(inputs.half == half)
    if optics is None or not bool(mine.any()):
        return largest
    return max(
        largest, float(torch.linalg.matrix_norm(magnification_matrix(optics[mine]), 2).max())
    )


def group_bands_of(
    inputs: Inputs,
    state: State,
    half: int,
    resolution_A: float,
    optics: Float[Tensor, "n v"] | None = None,
) -> list[GroupBand]:
    """Return each optics group's band, its amplitude times the group's scale in that half.

    Bands end so early that no particle's slice leaves a grid made for the resolution, however the
    particle is magnified; ``optics`` is as for :func:`largest_magnification`.
    """
    largest = largest_magnification(inputs, half, optics)
    if largest > 1:
        # The volume's own transform ends here, whatever the resolution.
        finest_A = 2 * inputs.geometry.box_A / (inputs.size_px - 1)
        resolution_A = largest * max(resolution_A, finest_A)
    group_bands = []
    for group, scale in zip(inputs.optics, state.group_scale[half - 1], strict=True):
        group_band = make_group_band(
            group,
            volume_size_px=inputs.size_px,
            voxel_A=inputs.voxel_A,
            resolution_A=resolution_A,
            device=inputs.device,
        )
        group_bands.append(replace(group_band, amplitude=group_band.amplitude * scale))
    return group_bands


def batches_of(
    inputs: Inputs,
    group_band: GroupBand,
    rows: np.ndarray,
    optics: Float[Tensor, "n v"] | None = None,
) -> Iterator[Batch]:
    """Read particles of one optics group batch by batch, corrected for what is their own."""
    size = batch_size(inputs.working_memory, len(group_band.band))
    for part, images in inputs.images.batches(rows, size, inputs.device):
        defocus = inputs.table.defocus(part)
        own = None if optics is None else optics[torch.from_numpy(part)]
        if own is not None:
            defocus = with_defocus_change(defocus, own)
        x, c = observe(images, select_statistics(inputs.statistics, part), group_band, defocus)
        if own is not None:
            x, c = without_offset(group_band, x, own[:, 1]), c * (1 + own[:, :1]).float()
        yield Batch(part, x, c)


def poses_of(poses: Poses | None, rows: np.ndarray, group_band: GroupBand) -> tuple[Tensor, Tensor]:
    """Return rotations and shifts in pixels of some particles, where their images are."""
    if poses is None:
        raise ValueError("no poses are known yet")
    index, device = torch.from_numpy(rows), group_band.points.device
    shifts_px = poses.shift_A[index] / group_band.group.pixel_A
    return poses.rotations[index].to(device), shifts_px.to(device)


def is_assigned(state: State, n: int) -> np.ndarray:
    """Tell which of n particles have a pose that this run has found."""
    return np.zeros(n, bool) if state.poses is None else state.poses.is_assigned.numpy()


def max_shift_px(inputs: Inputs, group_band: GroupBand) -> float:
    """Return the largest shift in an optics group's pixels."""
    return inputs.settings.max_shift_percent / 100 * group_band.group.box_px


def whitening(state: State, half: int, g: int, group_band: GroupBand) -> Float[Tensor, "p"]:
    """Return the inverse standard deviation of the noise at each sample of an image."""
    return (
        state.noise[half - 1][g].rsqrt().float().to(group_band.points.device)[group_band.band.shell]
    )


def inverse_noise_variance(
    state: State, half: int, g: int, group_band: GroupBand
) -> Float[Tensor, "p"]:
    """Return the inverse variance of the noise at each sample of an image."""
    return (
        (1 / state.noise[half - 1][g]).float().to(group_band.points.device)[group_band.band.shell]
    )
