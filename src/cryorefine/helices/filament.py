"""What a search for a helix has to know of a map: where the filament lies, how thick, how fine."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from cryorefine.evaluate.fsc import half_map_fsc
from cryorefine.fourier.filter import low_pass
from cryorefine.masks.cylinder import cylinder_mask
from cryorefine.masks.soft import sphere_mask

__all__ = [
    "FilamentAxis",
    "filament_mask",
    "filament_radius_A",
    "halves_fsc",
    "rotation_from_z",
]

_SMOOTH_A = 15.0
"""Low-pass before the radius is measured: noise of half maps does not hide a filament then."""

_SHARE = 0.98
"""Of the power above that of the box's rim, within the radius that is found."""


@dataclass(frozen=True)
class FilamentAxis:
    """The axis of a filament.

    Attributes
    ----------
    offset_A
        (x, y): where it goes through the section of the origin.
    slope
        (x, y): by how much it moves along x and y for each ångström along z.
    """

    offset_A: tuple[float, float] = (0.0, 0.0)
    slope: tuple[float, float] = (0.0, 0.0)

    @property
    def tilt_deg(self) -> float:
        """Angle to z."""
        return math.degrees(math.atan(math.hypot(*self.slope)))

    @property
    def distance_A(self) -> float:
        """Distance of the origin's section's middle from it, within that section."""
        return math.hypot(*self.offset_A)

    @property
    def rotation(self) -> Float[Tensor, "3 3"]:
        """Turns z to the axis, by the shortest way."""
        return rotation_from_z(torch.tensor(self.slope, dtype=torch.float64))

    def farthest_A(self, length_A: float) -> float:
        """Return by how much it is away from z, at most, along a filament of a length."""
        x, y = self.offset_A
        u, v = (slope * length_A / 2 for slope in self.slope)
        return max(math.hypot(x + u, y + v), math.hypot(x - u, y - v))


def rotation_from_z(slope: Float[Tensor, "2"]) -> Float[Tensor, "3 3"]:
    """Return the shortest rotation that turns z to (slope, 1); differentiable."""
    direction = torch.cat([slope, torch.ones(1).to(slope)])
    u, v, c = direction / direction.norm()
    zero = torch.zeros_like(u)
    cross = torch.stack([zero, zero, u, zero, zero, v, -u, -v, zero]).view(3, 3)
    return torch.eye(3).to(slope) + cross + cross @ cross / (1 + c)


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
