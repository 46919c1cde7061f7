"""What particles are compared with: the half map of the iteration before, shaped as asked for."""

import os
import tempfile
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from cryorefine.refine.state import Inputs, State
from cryorefine.restore.command import transform_volume
from cryorefine.restore.shape import Shape, shape_reference

__all__ = ["run_user_command", "shaped_reference"]

_SHAPES: dict[str, Shape] = {
    "found": "sphere", "sphere": "sphere", "cylinder": "cylinder", "none": "none"
}  # fmt: skip


def shaped_reference(inputs: Inputs, state: State, half: int) -> Float[Tensor, "z y x"]:
    """Return a half's reference with the user's filter, masks, positivity, dropout and command.

    A mask replaces the sphere, but not a shape that was asked for by name. Voxels are dropped
    anew in each iteration, differently in both halves.
    """
    settings = inputs.settings
    mask = inputs.mask if inputs.reference_mask is None else inputs.reference_mask
    shape = _SHAPES[settings.reference_shape]
    if mask is not None and settings.reference_shape == "found":
        shape = "none"
    lowpass_A = None
    if settings.resolution_offset_angstrom is not None and state.evaluation is not None:
        lowpass_A = state.evaluation.resolution_A + settings.resolution_offset_angstrom
        lowpass_A = max(lowpass_A, inputs.geometry.nyquist_A)
    iteration = state.iteration + 1
    volume = shape_reference(
        state.references[half - 1].to(inputs.device),
        voxel_A=inputs.voxel_A,
        mask=mask,
        shape=shape,
        radius_px=inputs.radius_px,
        lowpass_A=lowpass_A,
        positivity=settings.positivity,
        dropout=settings.dropout,
        seed=(settings.seed * 10_000 + iteration) * 2 + half - 1,
    )
    if settings.reference_command is not None:
        volume = run_user_command(inputs, volume, settings.reference_command, half, iteration)
    return volume


def run_user_command(
    inputs: Inputs, volume: Float[Tensor, "z y x"], template: str, half: int, iteration: int
) -> Float[Tensor, "z y x"]:
    """Return what a user's command makes of a map.

    Raises
    ------
    InputError
        If it fails, with what it said.
    """
    folder = Path(tempfile.gettempdir()) / f"cryorefine-{os.getpid()}-{half}"
    return transform_volume(
        volume.to(torch.float32),
        voxel_A=inputs.voxel_A,
        template=template,
        shell=inputs.settings.command_shell,
        folder=folder,
        variables={"half": half, "iteration": iteration},
    )
