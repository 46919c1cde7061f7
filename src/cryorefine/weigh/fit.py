"""Whether images fit as well as their model and noise say that they should."""

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["fit_z", "half_sample_mode"]


def half_sample_mode(values: Float[Tensor, "n"]) -> float:
    """Return the most common value: half of the values, of those half, as near together as any.

    Unmoved by up to half of the values lying elsewhere (Bickel & Frühwirth 2006, Comput. Stat.
    Data Anal. 50, 3500).
    """
    v = values.sort().values
    while len(v) > 2:
        half = (len(v) + 1) // 2
        width = v[half - 1 :] - v[: len(v) - half + 1]
        start = int(width.argmin())
        v = v[start : start + half]
    return float(v.mean())


def fit_z(score: Float[Tensor, "n"], power: Float[Tensor, "n"]) -> Float[Tensor, "n"]:
    """Return by how many standard deviations images score more than one at its right pose does.

    At the right pose the log-likelihood over that of no particle has mean ``a P`` and variance
    ``2 P``, P the power of the model; a is 1 for a perfect reference. Both a and the spread, which
    grey values and defoci make wider, are taken from the images themselves: a from where most of
    them lie, the spread from those above it, for wrong poses and junk lie below.
    """
    usable = (power > 0) & score.isfinite()
    if int(usable.sum()) < 3:
        return torch.zeros_like(score)
    power = power.clamp_min(1e-30)
    width = (2 * power).sqrt()
    a = half_sample_mode((score / power)[usable])
    t = (score - a * power) / width
    middle = half_sample_mode(t[usable])
    above = (t - middle)[usable & (t > middle)]
    # The median distance of one half of a normal distribution is 0.674 standard deviations.
    spread = max(1.0, float(above.median()) / 0.674) if len(above) else 1.0
    return torch.where(usable, (t - middle) / spread, 0.0)
