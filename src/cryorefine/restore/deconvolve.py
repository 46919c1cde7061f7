"""Blind deconvolution: the Gaussian that blurs both half maps is found in them, and undone."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from cryorefine.evaluate.fsc import FscCurves
from cryorefine.fourier.fft import volume_to_half
from cryorefine.fourier.filter import filter_volume, interpolate_shells
from cryorefine.fourier.radial import shell_products
from cryorefine.restore.protocol import Context, Fact, Halves, Restored
from cryorefine.restore.sharpen import fsc_weight

__all__ = ["BlurFit", "Deconvolve", "fit_blur"]

_FROM_A = 10.0
"""Resolution from which a sharp map's power is about even (Wilson statistics): coarser shells show
the particle's shape."""

_MIN_SHELLS = 6
"""Shells that the fall-off is fitted to at least: with fewer, single ones decide it."""


@dataclass(frozen=True)
class BlurFit:
    """The Gaussian transfer exp(-f² / (2 σ²)) of a map, f in cycles per voxel.

    Attributes
    ----------
    sigma_per_px
        σ; infinite where the map is not blurred, or too few shells show it.
    n_shells
        Shells that the fit used.
    """

    sigma_per_px: float
    n_shells: int

    def bfactor_A2(self, voxel_A: float) -> float:
        """Return the same as a B-factor: exp(-B s² / 4), s in 1/Å."""
        return 2 * voxel_A**2 / self.sigma_per_px**2


@dataclass(frozen=True)
class Deconvolve:
    """Divides both half maps by the Gaussian that is found in what they share.

    The gain is ``C / H`` with the Gaussian H and the weight ``C = sqrt(2 FSC / (1 + FSC))``, which
    ends with the resolution. The map that is made of the halves is weighted by C once more, so that
    it is the Wiener filter's. The gain is radial and the same for both halves: no shell's
    correlation changes.
    """

    name: ClassVar[str] = "deconvolve"
    title: ClassVar[str] = "blind deconvolution"
    mixes_halves: ClassVar[bool] = False

    def __call__(self, halves: Halves, context: Context) -> Restored:
        """Return both half maps, sharper; as they are where no blur is found."""
        fit = fit_blur(halves, context.curves)
        sigma = fit.sigma_per_px
        facts: dict[str, Fact] = {"shells": fit.n_shells}
        if not math.isfinite(sigma):
            return Restored(halves, {**facts, "unchanged_because": "no blur is found"})
        facts |= {"sigma_per_px": sigma, "bfactor_A2": fit.bfactor_A2(context.voxel_A)}
        n = halves[0].shape[-1]
        weight = fsc_weight(context.curves)

        def gain(radius: Tensor) -> Tensor:
            # Corners beyond Nyquist, which have no weight, must not overflow either.
            inverse = ((radius.clamp(max=n / 2) / n) ** 2 / (2 * sigma**2)).exp()
            return inverse * interpolate_shells(weight, radius)

        first, second = (filter_volume(volume, gain) for volume in halves)
        return Restored((first, second), facts)


def fit_blur(halves: Halves, curves: FscCurves) -> BlurFit:
    """Fit the Gaussian by which the power that both halves share falls, beyond 10 Å.

    The cross-spectrum of the halves has no noise in the mean. Its logarithm is fitted by a line in
    f², with shells weighted by the inverse of its variance, up to the resolution. The blur of the
    map is told from that of a structure whose own power is even there; the B-factor of the
    structure's atoms counts as blur.
    """
    n = halves[0].shape[-1]
    cross, power1, power2 = shell_products(volume_to_half(halves[0]), volume_to_half(halves[1]), n)
    frequency = torch.arange(n // 2 + 1, dtype=torch.float64) / n
    end = 1 / curves.resolution_A()
    s = curves.frequency_per_A
    used = (s >= 1 / _FROM_A) & (s <= end) & (cross > 0)
    count = int(used.sum())
    if count < _MIN_SHELLS:
        return BlurFit(math.inf, count)
    counts = _coefficients(n)
    correlation = (cross / (power1 * power2).sqrt())[used].clamp(0, 1)
    # Variance of ln of a cross-power of m coefficients: (1 + 1/FSC²) / (2 m) and less.
    weight = counts[used] * correlation**2 / (1 + correlation**2)
    slope = _weighted_slope(frequency[used] ** 2, (cross / counts)[used].log(), weight)
    return BlurFit(math.sqrt(-1 / slope) if slope < 0 else math.inf, count)


def _coefficients(size_px: int) -> Float[Tensor, "s"]:
    """Return about how many coefficients each shell has: 4π k², and one at the centre."""
    k = torch.arange(size_px // 2 + 1, dtype=torch.float64)
    return (4 * math.pi * (k**2 + 1 / 12)).clamp_min(1)


def _weighted_slope(x: Tensor, y: Tensor, weight: Tensor) -> float:
    x = x - (weight * x).sum() / weight.sum()
    y = y - (weight * y).sum() / weight.sum()
    return float((weight * x * y).sum() / (weight * x * x).sum())
