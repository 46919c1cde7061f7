"""Filter a reference by what it holds where there is particle and where there is none."""

import torch
from jaxtyping import Float
from torch import Tensor

from cryorefine.fourier.filter import filter_volume, interpolate_shells

__all__ = ["quieten_solvent"]

_MIN_GAIN = 1e-6
"""Gain inside the mask below which a shell holds nothing: the quotient of two such gains would be
noise."""


def quieten_solvent(
    volume: Float[Tensor, "z y x"],
    mask: Float[Tensor, "z y x"],
    *,
    inside_ssnr: Float[Tensor, "s"],
    outside_ssnr: Float[Tensor, "s"],
) -> Float[Tensor, "z y x"]:
    """Filter a regularised reference more strongly outside a soft mask.

    The signal-to-noise ratio measured within a mask holds within that mask only: noise fills the
    box evenly, signal does not. Regularised by it, the rest of the map keeps noise that aligned
    images cannot tell from signal. Outside the mask the reference is therefore what the maps
    outside it support, so that faint parts that the mask has missed still count, at the resolution
    at which they can be seen.

    Parameters
    ----------
    volume
        Regularised with ``inside_ssnr``; see :func:`~cryorefine.reconstruct.solve.solve`.
    inside_ssnr, outside_ssnr
        Signal-to-noise ratio of the map per shell, within the mask and outside it.
    """
    inside, outside = (s / (1 + s) for s in (inside_ssnr.double(), outside_ssnr.double()))
    gain = torch.where(inside > _MIN_GAIN, outside / inside.clamp_min(_MIN_GAIN), 0.0)
    gain = gain.clamp(0, 1)
    quiet = filter_volume(volume, lambda radius: interpolate_shells(gain, radius))
    return torch.lerp(quiet, volume, mask)
