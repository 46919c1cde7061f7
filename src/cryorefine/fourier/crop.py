"""Change the sampling or the box of images and volumes without changing their grey levels."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from cryorefine.fourier.fft import (
    volume_from_half,
    volume_to_half,
)

__all__ = ["fit_box", "resample_volume", "resize_volume"]


def _copy_band(half: Tensor, size_px: int) -> Tensor:
    """Crop or zero-pad a half transform; Nyquist terms of even boxes, which have no phase, go."""
    old = half.shape[-2]
    keep = (min(old, size_px) - 1) // 2
    out = half.new_zeros((*half.shape[:-3], size_px, size_px, size_px // 2 + 1))
    low, high = slice(0, keep + 1), slice(-keep, None)
    sides = (low, high) if keep else (low,)
    for z in sides:
        for y in sides:
            out[..., z, y, low] = half[..., z, y, low]
    return out * (size_px / old) ** 3


def resize_volume(volume: Float[Tensor, "*b z y x"], size_px: int) -> Float[Tensor, "*b w u v"]:
    """Resample cubic volumes to ``size_px`` voxels over the same extent, by Fourier crop or pad.

    Grey levels are kept. The voxel size becomes ``old size / size_px`` times the old one. Band
    limits are exact; Nyquist terms of even boxes are dropped when the size changes.
    """
    if volume.shape[-1] == size_px:
        return volume
    return volume_from_half(_copy_band(volume_to_half(volume), size_px), size_px)


def fit_box(volume: Float[Tensor, "z y x"], size_px: int) -> Float[Tensor, "w u v"]:
    """Crop or zero-pad a cubic volume in real space; the origin stays at ``n // 2``."""
    old = volume.shape[-1]
    out = volume.new_zeros((size_px,) * 3)
    n = min(old, size_px)
    source = slice(old // 2 - n // 2, old // 2 - n // 2 + n)
    target = slice(size_px // 2 - n // 2, size_px // 2 - n // 2 + n)
    out[target, target, target] = volume[source, source, source]
    return out


def resample_volume(
    volume: Float[Tensor, "z y x"],
    *,
    voxel_A: float,
    new_voxel_A: float,
    new_size_px: int,
) -> Float[Tensor, "w u v"]:
    """Bring a cubic volume to another voxel size and box, grey levels kept.

    The volume's Fourier series is evaluated at the new voxels, whatever the ratio of the sizes,
    without the frequencies that the coarser of the two samplings cannot hold. Beyond the old box
    there is zero. Cost: three matrix products, ``2 n⁴`` operations each at equal boxes.
    """
    old = volume.shape[-1]
    if math.isclose(voxel_A, new_voxel_A, rel_tol=1e-5):
        return fit_box(volume, new_size_px)
    ratio = new_voxel_A / voxel_A
    at = (torch.arange(new_size_px, dtype=torch.float64) - new_size_px // 2) * ratio
    x = torch.arange(old, dtype=torch.float64) - old // 2
    n_terms = 2 * math.ceil(min(old, old / ratio) / 2 - 1e-9) - 1
    # The sum of exp(2πi k u / n) over the n_terms frequencies about zero.
    angle = (at[:, None] - x[None]) * (math.pi / old)
    sine = angle.sin()
    whole = sine.abs() < 1e-9
    kernel = (n_terms * angle).sin() / torch.where(whole, torch.ones_like(sine), sine)
    kernel = torch.where(whole, torch.full_like(sine, n_terms), kernel) / old
    kernel[(at < x[0] - 0.5) | (at > x[-1] + 0.5)] = 0
    matrix = kernel.to(volume)
    for _ in range(3):  # each turn resamples the first axis and makes it the last
        volume = torch.einsum("zyx,wz->yxw", volume, matrix)
    return volume.contiguous()
