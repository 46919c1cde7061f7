"""Turn whole maps to other axes, such as those of another setting."""

import torch
from jaxtyping import Float
from torch import Tensor

from cryorefine.fourier.filter import filter_volume
from cryorefine.geometry.axis_settings import is_signed_permutation
from cryorefine.restore.rigid import move_volume
from cryorefine.restore.symmetrise_within import permuted

__all__ = ["turned_map"]


def turned_map(
    volume: Float[Tensor, "z y x"],
    rotation: Float[Tensor, "3 3"],
    shift_px: Float[Tensor, "3"] | None = None,
) -> Float[Tensor, "z y x"]:
    """Return a map whose content is turned about the origin and then shifted.

    A rotation that takes axes to axes moves voxels, without interpolation. For any other the map's
    Fourier series is evaluated, without the frequencies beyond Nyquist in its corners, which would
    fold back; what comes from outside the box is 0.

    Parameters
    ----------
    rotation
        Active, on object coordinates (x, y, z).
    shift_px
        (x, y, z); None for no shift.
    """
    if shift_px is None and is_signed_permutation(rotation):
        return permuted(volume, rotation.T).contiguous()
    nyquist = volume.shape[-1] / 2
    inside = filter_volume(volume, lambda k: (k <= nyquist).to(k))
    shift = torch.zeros(3) if shift_px is None else shift_px
    return move_volume(inside, rotation, shift)
