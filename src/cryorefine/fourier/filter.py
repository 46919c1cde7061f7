"""Radial filters of volumes."""

import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from cryorefine.fourier.fft import volume_from_half, volume_to_half
from cryorefine.fourier.radial import multiply_radially, radii, wrapped_axis

__all__ = ["filter_volume", "interpolate_shells", "low_pass", "raised_cosine"]


def raised_cosine(radius: Float[Tensor, "*h"], cutoff: float, width: float) -> Float[Tensor, "*h"]:
    """Return a low-pass weight: 1 below the cutoff, ½ at its edge's middle, 0 beyond.

    The edge is centred on ``cutoff`` and ``width`` wide, both in the unit of ``radius``.
    """
    t = ((radius - cutoff) / max(width, 1e-12) + 0.5).clamp(0, 1)
    return 0.5 * (1 + (math.pi * t).cos())


def interpolate_shells(
    shells: Float[Tensor, "s"], radius: Float[Tensor, "*h"]
) -> Float[Tensor, "*h"]:
    """Return a radial curve given at integer shells, interpolated linearly; 0 beyond the last."""
    last = len(shells) - 1
    low = radius.floor().long().clamp(max=last)
    high = (low + 1).clamp(max=last)
    t = radius - low
    shells = shells.to(radius)
    value = (1 - t) * shells[low] + t * shells[high]
    return torch.where(radius <= last, value, torch.zeros_like(value))


def filter_volume(
    volume: Float[Tensor, "z y x"], weight: Callable[[Tensor], Tensor]
) -> Float[Tensor, "z y x"]:
    """Multiply a cubic volume's transform by a radial weight.

    Parameters
    ----------
    weight
        Function of |k| in cycles per box (on the CPU), returning the same shape.
    """
    n = volume.shape[-1]
    axis = wrapped_axis(n)
    half = multiply_radially(volume_to_half(volume), axis, weight(radii(axis)), overwrite=True)
    return volume_from_half(half, n, overwrite=True)


def low_pass(
    volume: Float[Tensor, "z y x"], *, voxel_A: float, resolution_A: float, edge_shells: float = 2.0
) -> Float[Tensor, "z y x"]:
    """Remove what is finer than ``resolution_A`` with a cosine edge ``edge_shells`` shells wide."""
    cutoff = volume.shape[-1] * voxel_A / resolution_A
    return filter_volume(volume, lambda k: raised_cosine(k, cutoff, edge_shells))
