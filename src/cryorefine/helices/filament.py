"""What a search for a helix needs to know of a map first: how thick the filament is, how fine."""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from cryorefine.evaluate.fsc import half_map_fsc
from cryorefine.fourier.filter import low_pass
from cryorefine.masks.cylinder import cylinder_mask
from cryorefine.masks.soft import sphere_mask

__all__ = ["filament_mask", "filament_radius_A", "halves_fsc"]

_SMOOTH_A = 15.0
"""Low-pass before the radius is measured: noise of half maps does not hide a filament then."""

_SHARE = 0.98
"""Of the power above that of the box's rim, within the radius that is found."""


def filament_radius_A(volume: Float[Tensor, "z y x"], voxel_A: float) -> float:
    """Return the radius that holds nearly all of a filament along z.

    Power of a smoothed copy's middle by distance from the axis, above what it is at the rim; at
    most nine tenths of half the box, which a filament that fills the box gives.
    """
    n = volume.shape[-1]
    smooth = low_pass(volume, voxel_A=voxel_A, resolution_A=max(_SMOOTH_A, 3 * voxel_A))
    middle = smooth[n // 4 : n - n // 4].double()
    axis = torch.arange(n) - n // 2
    radius = (axis[:, None] ** 2 + axis[None] ** 2).double().sqrt()
    rim = (radius > 0.9 * n / 2) & (radius <= n / 2)
    power = (middle - middle[:, rim].mean()).square().mean(0)
    excess = torch.where(radius <= n / 2, power - power[rim].mean(), torch.zeros_like(power))
    by_radius = np.bincount(
        radius.round().long().flatten().numpy(), weights=excess.clamp_min(0).flatten().numpy()
    )
    share = np.cumsum(by_radius) / max(by_radius.sum(), 1e-30)
    found_px = float(np.searchsorted(share, _SHARE)) + 2.0
    return min(found_px, 0.9 * n / 2) * voxel_A


def filament_mask(size_px: int, radius_px: float) -> Float[Tensor, "z y x"]:
    """Return the soft mask of a filament along z: the cylinder's part within the box's sphere."""
    edge_px = max(0.05 * size_px, 2.0)
    mask = cylinder_mask(size_px, min(radius_px, size_px / 2 - edge_px), edge_px)
    return mask * sphere_mask(size_px, size_px / 2 - 2 * edge_px, 2 * edge_px)


def halves_fsc(
    half1: Float[Tensor, "z y x"], half2: Float[Tensor, "z y x"], voxel_A: float, radius_A: float
) -> tuple[Float[Tensor, "s"], float]:
    """Return the FSC of half maps within the filament, corrected for the mask, and the resolution.

    The mask is :func:`filament_mask`.
    """
    mask = filament_mask(half1.shape[-1], radius_A / voxel_A)
    curves = half_map_fsc(half1, half2, voxel_A=voxel_A, mask=mask)
    return curves.corrected, curves.resolution_A()
