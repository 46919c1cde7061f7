"""Insert every particle into its half's sums, and measure the noise anew."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cryorefine.assign.particle_optics import magnified
from cryorefine.events import EventLog
from cryorefine.kernels.grid import SliceGrid, make_accumulator
from cryorefine.model.observe import GroupBand
from cryorefine.optics.ctf import contrast_transfer
from cryorefine.reconstruct.accumulate import accumulate, centre, residual_power
from cryorefine.reconstruct.balance import DataPerShell, balancing_curve
from cryorefine.reconstruct.crowding import view_crowding
from cryorefine.reconstruct.solve import FoldedSums, fold
from cryorefine.refine.image_statistics import positive_spectrum
from cryorefine.refine.particle_batches import (
    batches_of,
    group_bands_of,
    inverse_noise_variance,
    largest_magnification,
)
from cryorefine.refine.state import Inputs, Poses, State

__all__ = ["data_per_shell", "reconstruct_halves"]

_DATA_SAMPLE = 64


def _model_shell(group_band: GroupBand, resolution_A: float, largest: float) -> int:
    """Return the last shell of a group's images that the reference has a model for.

    The reference ends at a resolution, and slices of particles that magnify frequencies by up to
    ``largest``, and of groups that do, reach it in an earlier shell.
    """
    resolution_A = resolution_A * largest * group_band.group.largest_stretch
    return min(group_band.band.n_shells - 1, int(group_band.group.box_A / resolution_A + 1e-6))


@dataclass(frozen=True, eq=False)
class _Insertion:
    """Poses at which images of a batch go into the sums, and with which share of their weight."""

    image: Int[Tensor, "m"]
    rotations: Float[Tensor, "m 3 3"]
    shifts_px: Float[Tensor, "m 2"]
    probability: Float[Tensor, "m"]


def _insertions(poses: Poses, size: int, group_band: GroupBand) -> Iterator[_Insertion]:
    """Yield the best poses of a batch, then those that share its images' weights."""
    device, n = group_band.points.device, len(poses.rotations)
    others = poses.others
    every = torch.arange(n)
    probability = torch.ones(n, dtype=torch.float64)
    if others is not None and len(others.row):
        probability = poses.quality["probability"].nan_to_num(1.0)
    parts = [(every, poses.rotations, poses.shift_A, probability)]
    if others is not None:
        for i in range(0, len(others.row), size):
            at = slice(i, i + size)
            row = others.row[at]
            parts.append((row, others.rotations[at], others.shift_A[at], others.probability[at]))
    for row, rotations, shift_A, share in parts:
        if poses.optics is not None:
            rotations = magnified(rotations, poses.optics[row])
        yield _Insertion(
            row.to(device), rotations.to(device), shift_A.to(device) / group_band.group.pixel_A,
            share.to(device),
        )  # fmt: skip


def data_per_shell(
    inputs: Inputs, state: State, half: int, group_bands: list[GroupBand]
) -> Float[Tensor, "s"]:
    """Return what a half's image knows about a coefficient, ``c² / σ²``: the mean over images."""
    data = DataPerShell(inputs.size_px // 2 + 2)
    for g, group_band in enumerate(group_bands):
        rows = inputs.rows(half, g)
        if len(rows) == 0:
            continue
        sample = rows[:: max(1, len(rows) // _DATA_SAMPLE)]
        c = contrast_transfer(group_band.group, inputs.table.defocus(sample), group_band.s_per_A)
        known = inverse_noise_variance(state, half, g, group_band)
        data.add(group_band, c * group_band.amplitude, known, len(rows))
    return data.mean()


def reconstruct_halves(
    inputs: Inputs,
    state: State,
    poses: Poses,
    grids: tuple[SliceGrid, SliceGrid] | None = None,
    *,
    model_resolution_A: float = math.inf,
    resolution_A: float,
    weights: Float[Tensor, "n"],
    events: EventLog,
) -> tuple[tuple[FoldedSums, FoldedSums], tuple[tuple[Tensor, ...], tuple[Tensor, ...]]]:
    """Insert all images into their half's sums, and measure the noise anew.

    Parameters
    ----------
    grids, model_resolution_A
        Residuals are taken against the half's reference down to this resolution, and against
        nothing beyond; None: against nothing at all, which measures the images' power.
    resolution_A
        The sums are filled down to here.
    weights
        One per particle.

    Returns
    -------
    sums, noise
        Per half; the noise spectra keep their old values beyond ``resolution_A``.
    """
    n, done = len(inputs.table), 0
    all_sums, all_noise = [], []
    for half in (1, 2):
        group_bands = group_bands_of(inputs, state, half, resolution_A, poses.optics)
        largest = largest_magnification(inputs, half, poses.optics)
        grid = None if grids is None else grids[half - 1]
        balance = balancing_curve(data_per_shell(inputs, state, half, group_bands))
        mine = torch.from_numpy(inputs.half == half)
        crowding = view_crowding(poses.rotations[mine], weights[mine], inputs.group, inputs.device)
        acc = make_accumulator(
            inputs.size_px,
            inputs.geometry.box_A / resolution_A,
            copies=inputs.working_memory.copies,
            oversampling=inputs.settings.fourier_padding,
            device=inputs.device,
        )
        noise = []
        for g, group_band in enumerate(group_bands):
            rows = inputs.rows(half, g)
            old = state.noise[half - 1][g]
            if len(rows) == 0:
                noise.append(old)
                continue
            n_shells = group_band.band.n_shells
            inverse_variance = inverse_noise_variance(state, half, g, group_band)
            shell = 0 if grid is None else _model_shell(group_band, model_resolution_A, largest)
            total = torch.zeros(n_shells, dtype=torch.float64, device=inputs.device)
            for batch in batches_of(inputs, group_band, rows, poses.optics):
                weight = weights[torch.from_numpy(batch.rows)].to(inputs.device)
                for part in _insertions(poses.select(batch.rows), len(batch.rows), group_band):
                    x = centre(group_band, batch.x[part.image], part.shifts_px)
                    c, p = batch.c[part.image], part.probability.to(weight)
                    root = p.sqrt()[:, None]
                    total += residual_power(
                        grid, group_band, x * root, c * root, part.rotations, max_shell=shell
                    )
                    accumulate(
                        acc, group_band, x, c, inverse_variance, part.rotations,
                        weight[part.image] * p, balance, crowding,
                    )  # fmt: skip
                done += len(batch.rows)
                events.emit("progress", stage="reconstructing", done=done, total=n)
            spectrum = old.clone()
            spectrum[:n_shells] = total.cpu() / len(rows)
            noise.append(positive_spectrum(spectrum))
        all_sums.append(fold(acc, inputs.group, crowding))
        all_noise.append(tuple(noise))
        del acc
    return (all_sums[0], all_sums[1]), (all_noise[0], all_noise[1])
