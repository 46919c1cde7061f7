"""Half maps as the user's post-processing leaves them, for references to be made of.

Raw half maps are never replaced by these: the FSC is that of the raw ones.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from cryorefine.fourier.filter import filter_volume, interpolate_shells
from cryorefine.refine.user_command import run_user_command
from cryorefine.state.state import Inputs

__all__ = ["processed_halves", "regularised_by_fsc"]

Halves = tuple[Float[Tensor, "z y x"], Float[Tensor, "z y x"]]


def processed_halves(inputs: Inputs, halves: Halves, iteration: int) -> Halves:
    """Return both half maps after the user's mask and command, each by itself.

    Raises
    ------
    InputError
        If the command fails.
    """
    first, second = (
        _processed(inputs, volume, half, iteration) for half, volume in enumerate(halves, 1)
    )
    return first, second


def _processed(
    inputs: Inputs, volume: Float[Tensor, "z y x"], half: int, iteration: int
) -> Float[Tensor, "z y x"]:
    if inputs.post_mask is not None:
        volume = volume * inputs.post_mask
    if inputs.settings.post_command is not None:
        volume = run_user_command(inputs, volume, inputs.settings.post_command, half, iteration)
    return volume


def regularised_by_fsc(
    volume: Float[Tensor, "z y x"], ssnr: Float[Tensor, "s"]
) -> Float[Tensor, "z y x"]:
    """Damp a half map shell by shell by its FSC, which is ``SSNR / (1 + SSNR)``.

    It is what :func:`~cryorefine.reconstruct.solve.solve` does to sums whose directions are even.
    A processed map has no sums any more.
    """
    gain = (ssnr / (1 + ssnr)).to(torch.float64)
    return filter_volume(volume, lambda k: interpolate_shells(gain, k))
