"""Whether a checkpoint is one of a run's inputs: of their box, voxel, optics groups and shells."""

import math

from cryorefine.errors import InputError
from cryorefine.records.checkpoint_record import Checkpoint
from cryorefine.state.particle_batches import make_half_optics
from cryorefine.state.state import Inputs

__all__ = ["require_fit"]

_SAME_LENGTH = 1e-4
"""Relative difference of voxel sizes that are one: they are measured to a few per mille."""


def require_fit(inputs: Inputs, checkpoint: Checkpoint, *, where: str) -> None:
    """Refuse to go on with inputs that a checkpoint was not made of.

    Parameters
    ----------
    where
        The run folder, for the message.

    Raises
    ------
    InputError
        Naming what differs.
    """
    state, voxel_A = checkpoint.state, checkpoint.constants.voxel_A
    size_px = state.references[0].shape[-1]
    is_same = math.isclose(inputs.voxel_A, voxel_A, rel_tol=_SAME_LENGTH)
    if inputs.size_px != size_px or not is_same:
        raise _differs(
            f"maps of {size_px} voxels of {voxel_A:.4g} Å",
            f"{inputs.size_px} of {inputs.voxel_A:.4g} Å",
            where,
        )
    optics = make_half_optics(
        inputs.optics,
        volume_size_px=size_px,
        voxel_A=inputs.voxel_A,
        resolution_A=2 * min([inputs.voxel_A, *(group.pixel_A for group in inputs.optics)]),
    )
    wanted = optics.n_shells()
    for half, spectra in enumerate(state.noise, 1):
        lengths = [len(spectrum) for spectrum in spectra]
        if lengths != wanted:
            raise _differs(
                f"noise spectra of {_shown(lengths)} shells in half {half}", _shown(wanted), where
            )


def _shown(lengths: list[int]) -> str:
    more = " ..." if len(lengths) > 5 else ""
    return ", ".join(map(str, lengths[:5])) + more


def _differs(has: str, needs: str, where: str) -> InputError:
    return InputError(
        f"the checkpoint has {has}, and the particles need {needs}",
        where=where,
        do="restore the folder, or the particle file that the run was started with",
    )
