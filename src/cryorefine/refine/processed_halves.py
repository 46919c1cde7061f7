"""Half maps for references to be made of in place of the sums, such as post-processed ones.

Raw half maps are never replaced by these: the FSC is that of the raw ones.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from cryorefine.fourier.filter import filter_volume, interpolate_shells
from cryorefine.refine.restoration import restore_run_halves
from cryorefine.restore.protocol import Context, Halves
from cryorefine.state.helix import HelixRecord
from cryorefine.state.state import Evaluation, Inputs

__all__ = ["processed_halves", "regularised_by_fsc"]


def processed_halves(
    inputs: Inputs,
    halves: Halves,
    mask: Float[Tensor, "z y x"],
    evaluation: Evaluation,
    helix: HelixRecord | None,
    iteration: int,
) -> Halves | None:
    """Return the half maps that references are made of; None where they are made of the sums.

    Those are half maps after all that the settings ask for, where the user wants that, and those of
    a helix, which their sums do not have.

    Parameters
    ----------
    mask
        Where the particle is, as the FSC was measured in it.
    helix
        That was imposed on the half maps.
    iteration
        The one that ends, which a command is told.

    Raises
    ------
    InputError
        If the command fails.
    """
    if helix is not None:
        return halves
    if not inputs.settings.reference_from_processed:
        return None
    context = Context(inputs.voxel_A, mask, evaluation.curves)
    return restore_run_halves(inputs, halves, context, iteration).halves


def regularised_by_fsc(
    volume: Float[Tensor, "z y x"], ssnr: Float[Tensor, "s"]
) -> Float[Tensor, "z y x"]:
    """Damp a half map shell by shell by its FSC, which is ``SSNR / (1 + SSNR)``.

    It is what :func:`~cryorefine.reconstruct.solve.solve` does to sums whose directions are even.
    A processed map has no sums any more.
    """
    gain = (ssnr / (1 + ssnr)).to(torch.float64)
    return filter_volume(volume, lambda k: interpolate_shells(gain, k))
