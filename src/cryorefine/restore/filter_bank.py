"""Significant denoising in Fourier space: a bank of bands, each denoised where it is noise."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Complex, Float
from torch import Tensor

from cryorefine.engine.threads import MAX_AT_ONCE, side_by_side
from cryorefine.fourier.fft import volume_from_half, volume_to_half
from cryorefine.fourier.radial import multiply_radially, radii, wrapped_axis
from cryorefine.restore.protocol import Context, Halves, Restored
from cryorefine.restore.voxelwise import voxelwise

__all__ = ["FilterBank", "band_weights"]

_STEP = 0.025
"""Distance of neighbouring bands in cycles per voxel: 20 up to Nyquist. HighRes has 100, which took
five times as long; what tells signal from noise changes slowly with frequency."""

_POWER = 3
"""Of the probability, HighRes's default: a voxel as loud as the median of the noise keeps an
eighth."""


@dataclass(frozen=True)
class FilterBank:
    """Weights each voxel of each band by the cube of the probability that it is no noise.

    The bands overlap smoothly, and their weights sum to 1 at every frequency, zero included. In a
    band the noise is a sum of many coefficients, so it is Gaussian; its variance is half that of
    the halves' difference. The probability is that of noise less loud than the voxel. Each half is
    weighted by its own voxels, so that the FSC keeps its meaning.
    """

    name: ClassVar[str] = "filter-bank"
    title: ClassVar[str] = "significant denoising in Fourier space"
    mixes_halves: ClassVar[bool] = False

    def __call__(self, halves: Halves, context: Context) -> Restored:
        """Return both half maps, denoised band by band."""
        n = halves[0].shape[-1]
        at_once = halves[0].numel() <= MAX_AT_ONCE
        transforms = side_by_side(volume_to_half, halves, at_once=at_once)
        totals = [torch.zeros_like(volume) for volume in halves]
        tables = band_weights(n)
        for index, table in enumerate(tables):

            def band(half: Complex[Tensor, "z y xh"], table: Tensor = table) -> Tensor:
                band_half = multiply_radially(half, wrapped_axis(n), table)
                return volume_from_half(band_half, n, overwrite=True)

            first, second = side_by_side(band, transforms, at_once=at_once)
            # The mean, which the first band holds, is no noise.
            sigma = 0.0 if index == 0 else float((first - second).std()) / math.sqrt(2)

            def weighted(total: Tensor, values: Tensor, sigma: float = sigma) -> Tensor:
                scale = 1 / (sigma * math.sqrt(2)) if sigma > 0 else math.inf
                certain = torch.erf(values.abs() * scale).nan_to_num(0.0)
                return total + values * certain**_POWER

            voxelwise(weighted, totals[0], first, out=totals[0])
            voxelwise(weighted, totals[1], second, out=totals[1])
            del first, second  # not beside those of the next band
        return Restored((totals[0], totals[1]), {"bands": len(tables)})


def band_weights(size_px: int) -> list[Float[Tensor, "m"]]:
    """Return each band's weight per |k|² of a half grid; they sum to 1 everywhere.

    Band j rises from frequency j - 1 to j and falls to j + 1 in units of the step, along squared
    cosines. The last goes on to the corners.
    """
    place = radii(wrapped_axis(size_px)) / (size_px * _STEP)
    last = max(1, round(0.5 / _STEP))
    place = place.clamp(max=last)
    return [
        (math.pi / 2 * (place - j).clamp(-1, 1)).cos().square().float() for j in range(last + 1)
    ]
