"""The sign of a map's contrast: whether its particle is white."""

import torch
from jaxtyping import Float
from torch import Tensor

from cryorefine.fourier.filter import low_pass

__all__ = ["is_dark"]

_RESOLUTION_A = 30.0
"""Detail beyond does not matter for which side of its surroundings a particle is on."""

_DARK_SKEWNESS = -0.5
"""Skewness of the densities below which a map is called dark. A particle is a small part of its
box on one side of the mean: maps of proteins have +1.2 to +5, one cut so that it fills its box
-0.15, noise less than 0.1 on either side."""


def is_dark(volume: Float[Tensor, "z y x"], *, voxel_A: float) -> bool:
    """Tell whether the particle of a map is clearly darker than what surrounds it."""
    smooth = low_pass(volume, voxel_A=voxel_A, resolution_A=max(_RESOLUTION_A, 2 * voxel_A))
    n = smooth.shape[-1]
    axis = torch.arange(n, device=smooth.device) - n // 2
    square = axis.square()
    radius_px2 = square[:, None, None] + square[None, :, None] + square[None, None, :]
    density = smooth[radius_px2 < (n / 2) ** 2].double()
    density = density - density.mean()
    spread = density.square().mean()
    if float(spread) == 0:
        return False
    return float(density.pow(3).mean() / spread.pow(1.5)) < _DARK_SKEWNESS
