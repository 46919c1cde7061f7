"""What particles are compared with: half maps regularised by their FSC, shaped as asked for."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from cryorefine.engine.freed_memory import release_memory
from cryorefine.engine.threads import side_by_side
from cryorefine.evaluate.fsc import FscCurves
from cryorefine.kernels.grid import SliceGrid, make_slice_grid
from cryorefine.reconstruct.solve import solve
from cryorefine.reconstruct.solvent import quieten_solvent
from cryorefine.refine.backprojection import HalvesInserted
from cryorefine.refine.evaluation import found_mask
from cryorefine.refine.own_noise_share import kept_noise, own_share
from cryorefine.refine.processed_halves import regularised_by_fsc
from cryorefine.refine.resolution_offset import offset_limit_A
from cryorefine.refine.user_command import run_user_command
from cryorefine.restore.shape import ReferenceShaping, Shape, shape_reference
from cryorefine.state.plan import IterationPlan
from cryorefine.state.state import Evaluation, Inputs, Poses, State

__all__ = [
    "PreparedReferences",
    "next_reference",
    "next_references",
    "prepare_references",
    "reference_grid",
    "reference_ssnr",
    "shaped_reference",
]

_SHAPES: dict[str, Shape] = {
    "found": "sphere", "sphere": "sphere", "cylinder": "cylinder", "none": "none"
}  # fmt: skip
_SHELLS_BEYOND = 3
"""Shells beyond the resolution up to which a reference holds anything: beyond them the FSC is noise
about zero, and its positive part would let noise in. Not measured."""


@dataclass(frozen=True, eq=False)
class PreparedReferences:
    """What both halves' images are compared with.

    Attributes
    ----------
    grids
        Ready for slices to be read.
    volumes
        The shaped maps that they were made of, on the CPU; None where they are not to be kept.
    """

    grids: tuple[SliceGrid, SliceGrid]
    volumes: tuple[Float[Tensor, "z y x"], Float[Tensor, "z y x"]] | None

    def scaled(
        self, grids: tuple[SliceGrid, SliceGrid], factors: tuple[float, float]
    ) -> "PreparedReferences":
        """Return the same with grids that were multiplied by these factors."""
        if self.volumes is None:
            return replace(self, grids=grids)
        first, second = self.volumes
        return PreparedReferences(grids, (first * factors[0], second * factors[1]))


def prepare_references(inputs: Inputs, state: State, plan: IterationPlan) -> PreparedReferences:
    """Return what both halves' images are compared with, ready for slices to be read."""
    is_kept = inputs.settings.intermediate == "keep"

    def prepared(half: int) -> tuple[SliceGrid, Tensor | None]:
        volume = shaped_reference(inputs, state, half)
        grid = reference_grid(inputs, volume, plan.align_resolution_A)
        return grid, volume.cpu() if is_kept else None

    # A user's command may not expect to run twice at a time.
    at_once = inputs.working_memory.both_halves and inputs.settings.reference_command is None
    first, second = side_by_side(prepared, (1, 2), at_once=at_once)
    release_memory()
    volumes = None
    if first[1] is not None and second[1] is not None:
        volumes = first[1], second[1]
    return PreparedReferences((first[0], second[0]), volumes)


def next_references(
    inputs: Inputs,
    poses: Poses,
    halves: tuple[Float[Tensor, "z y x"], Float[Tensor, "z y x"]],
    inserted: HalvesInserted,
    evaluation: Evaluation,
    processed: tuple[Float[Tensor, "z y x"], Float[Tensor, "z y x"]] | None,
) -> tuple[
    tuple[Float[Tensor, "z y x"], Float[Tensor, "z y x"]],
    tuple[Float[Tensor, "s"], Float[Tensor, "s"]] | None,
]:
    """Regularise half maps by their FSC.

    Parameters
    ----------
    inserted
        The sums that the half maps were made of.
    processed
        The half maps that references are made of; None: of the sums.

    Returns
    -------
    references, own_share
        By half, on the CPU; and what an image's own noise in them adds to its score: None where
        ``inserted.data_per_shell`` is.
    """
    resolution_A, nyquist_A = evaluation.resolution_A, inputs.geometry.nyquist_A
    limit_A = offset_limit_A(inputs.settings, resolution_A, nyquist_A)
    ssnr = reference_ssnr(evaluation.curves, resolution_A, limit_A=limit_A)

    def regularised(i: int) -> tuple[Tensor, Tensor]:
        if processed is None:
            damped = solve(inserted.sums[i], ssnr=ssnr)
        else:
            damped = regularised_by_fsc(processed[i], ssnr)
        volume, kept = next_reference(inputs, halves[i], damped, ssnr, evaluation)
        return volume.cpu(), kept

    first, second = side_by_side(regularised, (0, 1), at_once=inputs.working_memory.both_halves)
    release_memory()
    following, kept = (first[0], second[0]), (first[1], second[1])
    if inserted.data_per_shell is None:
        return following, None
    share1 = own_share(inputs, poses, 1, kept[0], inserted.data_per_shell[0])
    share2 = own_share(inputs, poses, 2, kept[1], inserted.data_per_shell[1])
    return following, (share1, share2)


def reference_grid(
    inputs: Inputs, volume: Float[Tensor, "z y x"], resolution_A: float
) -> SliceGrid:
    """Transform a reference for reading slices down to a resolution."""
    return make_slice_grid(
        volume.to(inputs.device),
        inputs.geometry.box_A / resolution_A + 1.0,
        oversampling=inputs.settings.fourier_padding,
    )


def shaped_reference(inputs: Inputs, state: State, half: int) -> Float[Tensor, "z y x"]:
    """Return a half's reference with the user's filter, masks, positivity, dropout and command.

    A mask replaces the sphere, but not a shape that was asked for by name. Voxels are dropped
    anew in each iteration, differently in both halves.
    """
    settings = inputs.settings
    mask = inputs.mask if inputs.reference_mask is None else inputs.reference_mask
    shape = _SHAPES[settings.reference_shape]
    # The half maps of a helix are empty outside the filament.
    if settings.reference_shape == "found" and (mask is not None or settings.has_helix):
        shape = "none"
    lowpass_A = None
    if state.evaluation is not None:
        lowpass_A = offset_limit_A(
            settings, state.evaluation.resolution_A, inputs.geometry.nyquist_A
        )
    iteration = state.iteration + 1
    shaping = ReferenceShaping(
        radius_px=inputs.radius_px,
        shape=shape,
        lowpass_A=lowpass_A,
        positivity=settings.positivity,
        mask=mask,
        dropout=settings.dropout,
    )
    volume = shape_reference(
        state.references[half - 1].to(inputs.device),
        shaping,
        voxel_A=inputs.voxel_A,
        seed=(settings.seed * 10_000 + iteration) * 2 + half - 1,
    )
    if settings.reference_command is not None:
        volume = run_user_command(inputs, volume, settings.reference_command, half, iteration)
    return volume


def next_reference(
    inputs: Inputs,
    half: Float[Tensor, "z y x"],
    regularised: Float[Tensor, "z y x"],
    ssnr: Float[Tensor, "s"],
    evaluation: Evaluation,
) -> tuple[Float[Tensor, "z y x"], Float[Tensor, "s"]]:
    """Return a half's next reference, and the share of the half map's noise that it keeps.

    The mask is found in the half itself.
    """
    settings = inputs.settings
    user_mask = inputs.mask if inputs.reference_mask is None else inputs.reference_mask
    if user_mask is not None or settings.reference_shape != "found" or settings.has_helix:
        fraction = _sphere_fraction(inputs) if user_mask is None else float(user_mask.mean())
        return regularised, kept_noise(fraction, ssnr, None)
    curves = evaluation.curves
    end_A = curves.resolution_A(settings.fsc_criterion, curve="outside")
    outside_ssnr = reference_ssnr(curves, end_A, curve="outside")
    mask = found_mask(inputs, half, evaluation.resolution_A)
    quiet = quieten_solvent(regularised, mask, inside_ssnr=ssnr, outside_ssnr=outside_ssnr)
    return quiet, kept_noise(float(mask.mean()), ssnr, outside_ssnr)


def _sphere_fraction(inputs: Inputs) -> float:
    """Return the share of the box within the particle's radius."""
    return 4 / 3 * np.pi * (min(inputs.radius_px, inputs.size_px / 2) / inputs.size_px) ** 3


def reference_ssnr(
    curves: FscCurves,
    resolution_A: float,
    *,
    curve: str = "corrected",
    limit_A: float | None = None,
) -> Float[Tensor, "s"]:
    """Return the signal-to-noise ratio of one half map per shell, ``FSC / (1 - FSC)``.

    Zero from three shells beyond the resolution on: there the curve is noise about zero, and its
    accidental peaks would let noise into the reference. ``limit_A`` is how far a user wants it to
    hold something all the same.
    """
    value = getattr(curves, curve).clamp(0, 0.999)
    end = 1 / resolution_A + _SHELLS_BEYOND * float(curves.frequency_per_A[1])
    if limit_A is not None:
        end = max(end, 1 / limit_A)
    value = torch.where(curves.frequency_per_A <= end, value, torch.zeros_like(value))
    return value / (1 - value)
