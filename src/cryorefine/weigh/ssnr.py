"""Spectral signal-to-noise ratio of single images, and weights from it."""

import torch
from jaxtyping import Float
from torch import Tensor

from cryorefine.fourier.fft import image_to_half
from cryorefine.fourier.shell import hermitian_weight, shell_index
from cryorefine.masks.soft import disc_mask
from cryorefine.weigh.score_weight import share_of_percentile

__all__ = ["image_ssnr", "ssnr_weight"]

_EDGE_PX = 6.0
"""Width of the disc's edge: it keeps the two regions from leaking into each other. Not measured."""

_COARSEST_A, _FINEST_A = 40.0, 3.0
"""Range of resolutions: coarser shells show gradients of the ice, finer ones hold noise only."""

_MIN_BACKGROUND = 0.01
"""Share of the box that must be left as background: less tells nothing of its power."""

_FLOOR = 1e-12  # of the mean square: about what rounding to float32 leaves of a constant
_TOP = 0.95
"""Percentile of the ratio that has weight 1, so that a few outliers do not make all other weights
small. Not measured."""


def image_ssnr(
    images: Float[Tensor, "b n n"], *, radius_px: float, pixel_A: float
) -> Float[Tensor, "b"]:
    """Return how much stronger images are where the particle is than around it, in dB.

    The power of the image inside a soft disc is divided by that outside, shell by shell, each
    per unit of its mask; ``10 log10`` of that is averaged over the shells from 40 Å to 3 Å, the
    first two and those from Nyquist on left out. Noise alone gives 0.

    Parameters
    ----------
    images
        Neither their grey scale nor their offset matters: the mean outside is subtracted.
    radius_px
        Of the particle; a cosine edge of 6 px lies outside it.

    Returns
    -------
    Decibels, float64. Images without content give 0. All are 0 where nothing can be told: the
    disc leaves less than a hundredth of the box as background, or no shell (boxes below 6 px).

    Notes
    -----
    No reference is needed, so it cannot be biased by one. The same from run to run on the
    CPU, to rounding on a GPU. The cost is two transforms an image.
    """
    n = images.shape[-1]
    result = torch.zeros(len(images), dtype=torch.float64, device=images.device)
    inside = disc_mask(n, radius_px, _EDGE_PX, images.device).double()
    outside = 1 - inside
    shells = _shells(n, pixel_A)
    if not len(shells) or float(outside.square().sum()) < _MIN_BACKGROUND * n * n:
        return result
    images = images.double()
    level = (images * outside).sum((1, 2), keepdim=True) / outside.sum()
    centred = images - level
    floor = (_FLOOR * images.square().mean((1, 2))).clamp_min(1e-300)[:, None]
    power_in, power_out = (
        torch.maximum(_mean_power(centred * mask, shells) / mask.square().sum(), floor)
        for mask in (inside, outside)
    )
    return 10 * (power_in / power_out).log10().mean(1)


def _shells(size_px: int, pixel_A: float) -> range:
    """Return the shells from 40 Å to 3 Å, at least one unless the box has none but the ends."""
    first, last = 2, size_px // 2 - 1
    if last < first:
        return range(0)
    extent_A = size_px * pixel_A
    low, high = (
        min(max(round(extent_A / resolution_A), first), last)
        for resolution_A in (_COARSEST_A, _FINEST_A)
    )
    return range(low, high + 1)


def _mean_power(images: Float[Tensor, "b n n"], shells: range) -> Float[Tensor, "b s"]:
    """Return the mean squared modulus over each of the shells."""
    n = images.shape[-1]
    index = shell_index(n, 2)
    used = (index >= shells.start) & (index < shells.stop)
    place = (index[used] - shells.start).to(images.device)
    weight = hermitian_weight(n).double().expand(index.shape)[used].to(images.device)
    power = image_to_half(images)[:, used.to(images.device)].abs().square() * weight
    total = power.new_zeros(len(images), len(shells)).index_add_(1, place, power)
    return total / torch.bincount(place, weight, len(shells))


def ssnr_weight(ssnr: Float[Tensor, "n"]) -> Float[Tensor, "n"]:
    """Return weights that rise with the ratio in dB, from 0 at 0 dB to 1 at its 95th percentile.

    Without any ratio above 0 at that percentile all weights are 1. NaN gets the weight of the
    median.
    """
    positive = ssnr.clamp_min(0)
    weight = share_of_percentile(positive, _TOP)
    known = ~weight.isnan()
    if not bool(known.any()):
        return torch.ones_like(ssnr)
    # Weights never fall with the ratio: the median of the one belongs to that of the other.
    return torch.where(known, weight, weight[known].quantile(0.5))
