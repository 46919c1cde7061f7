"""How alike an image and the model's view of it are, by several measures."""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from cryorefine.masks.soft import disc_mask

__all__ = ["image_scores"]

_MIN_PX = 3
"""Pixels that a correlation is measured over at least: a line through two always fits."""

_REACH_PX = 3
"""Reach of the Gaussian of standard deviation 1 px: three of them, beyond which it has 0.3 %."""

_ROUNDING = 1e-24  # of a sum of squares: far above float64's own, far below float32's last digit


def image_scores(
    image: Float[Tensor, "b n n"], model: Float[Tensor, "b n n"], *, radius_px: float
) -> dict[str, Tensor]:
    """Return measures of likeness of images and their models within a disc, float64, shape (b,).

    Parameters
    ----------
    image, model
        Aligned, on any grey scale, with contrast transfer in both or in neither.
    radius_px
        Of the disc; its edge is sharp.

    Returns
    -------
    correlation_index
        Pearson correlation over the disc.
    correlation_mask
        The same over those pixels of the disc where the model is above its own standard
        deviation there: the particle's silhouette. 0 for fewer than 3 pixels. The offset of the
        model matters.
    correlation_weight
        The same with pixels weighted by ``|e|`` where that is above the standard deviation of
        ``e = model - a image``, with ``a`` by least squares: alike even where they differ most?
        Where no pixel stands out (``e`` is zero), all count alike.
    imed
        Image Euclidean distance [1]_ of image and model, each of unit norm within the disc: the
        root of the sum over pixel pairs, at most 3 px apart along either axis, of the product of
        their differences and a Gaussian of 1 px of their distance. 0 for proportional images;
        small displacements cost less than by the plain distance.

    Correlations of an image without contrast are 0.

    References
    ----------
    .. [1] Wang, Zhang & Feng (2005) IEEE Trans. Pattern Anal. Mach. Intell. 27, 1334.
    """
    disc = disc_mask(image.shape[-1], radius_px, 0.0, image.device) > 0.5
    x, y = image[:, disc].double(), model[:, disc].double()
    rows = disc.any(1)
    disc = disc[rows][:, rows]  # the square around it: the same rows as columns
    everywhere = torch.ones_like(x)
    above = (y > _deviation(y)[:, None]).double()
    enough = above.sum(1) >= _MIN_PX
    return {
        "correlation_index": _correlation(x, y, everywhere),
        "correlation_mask": torch.where(enough, _correlation(x, y, above), 0.0),
        "correlation_weight": _correlation(x, y, _difference_weight(x, y)),
        "imed": _smooth_distance(_unit(x) - _unit(y), disc),
    }


def _deviation(x: Float[Tensor, "b p"]) -> Float[Tensor, "b"]:
    """Return the standard deviation; 0 for no pixels."""
    n = max(x.shape[1], 1)
    mean = x.sum(1, keepdim=True) / n
    return ((x - mean).square().sum(1) / n).sqrt()


def _correlation(
    x: Float[Tensor, "b p"], y: Float[Tensor, "b p"], weight: Float[Tensor, "b p"]
) -> Float[Tensor, "b"]:
    """Return the weighted Pearson correlation; 0 where either does not vary."""
    total = weight.sum(1, keepdim=True)
    weight = weight / torch.where(total > 0, total, 1.0)
    u, v = (a - (weight * a).sum(1, keepdim=True) for a in (x, y))
    uu, vv, uv = ((weight * a * b).sum(1) for a, b in ((u, u), (v, v), (u, v)))
    xx, yy = ((weight * a * a).sum(1) for a in (x, y))
    varies = (uu > _ROUNDING * xx) & (vv > _ROUNDING * yy)
    norm = torch.where(varies, uu.sqrt() * vv.sqrt(), 1.0)
    return torch.where(varies, uv / norm, 0.0).clamp(-1, 1)


def _difference_weight(x: Float[Tensor, "b p"], y: Float[Tensor, "b p"]) -> Float[Tensor, "b p"]:
    """Return ``|y - a x|`` where it stands out, and 0 elsewhere; all 1 if it does so nowhere."""
    xx = x.square().sum(1, keepdim=True)
    factor = (x * y).sum(1, keepdim=True) / torch.where(xx > 0, xx, 1.0)
    e = y - factor * x
    weight = torch.where(e.abs() > _deviation(e)[:, None], e.abs(), 0.0)
    differs = e.square().sum(1) > _ROUNDING * y.square().sum(1)
    stands_out = differs & (weight > 0).any(1)
    return torch.where(stands_out[:, None], weight, 1.0)


def _unit(x: Float[Tensor, "b p"]) -> Float[Tensor, "b p"]:
    """Return images of unit norm; those without content stay zero."""
    norm = x.norm(dim=1, keepdim=True)
    return x / torch.where(norm > 0, norm, 1.0)


def _smooth_distance(e: Float[Tensor, "b p"], disc: Bool[Tensor, "n n"]) -> Float[Tensor, "b"]:
    """Return the root of ``eᵀ G e``, with a Gaussian G that reaches over 3 px along each axis."""
    offset = torch.arange(-_REACH_PX, _REACH_PX + 1, dtype=e.dtype, device=e.device)
    taps = (-0.5 * offset.square()).exp() / math.sqrt(2 * math.pi)
    full = e.new_zeros(len(e), *disc.shape)
    full[:, disc] = e
    rows, columns = (_band_matrix(taps, n) for n in disc.shape)
    # The cut Gaussian is positive in Fourier space still: only rounding makes a sum negative.
    return (full * (rows @ full @ columns)).sum((1, 2)).clamp_min(0).sqrt()


def _band_matrix(taps: Float[Tensor, "k"], n: int) -> Float[Tensor, "n n"]:
    """Return the symmetric matrix that convolves n values with taps about each."""
    reach = len(taps) // 2
    matrix = torch.zeros(n, n + 2 * reach, dtype=taps.dtype, device=taps.device)
    for offset, tap in enumerate(taps):
        matrix.diagonal(offset).fill_(tap)
    return matrix[:, reach : reach + n]
