"""How values are distributed: the share of them that lies below each."""

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["Distribution", "quantile"]

_STEPS = 200
"""Probabilities that a distribution is tabulated at; steps of half a percent are finer than what it
is used for."""

_MAX_SAMPLE = 1 << 20
"""Values that a distribution is taken from at most: a quantile is known to 0.05 % of them."""


class Distribution:
    """The distribution of a map's values, interpolated linearly between its quantiles.

    Parameters
    ----------
    values
        Any number, one at least. Of many, evenly spread ones are looked at.
    """

    def __init__(self, values: Float[Tensor, "*n"]) -> None:
        ranked = _sample(values).sort().values
        at = torch.linspace(0, len(ranked) - 1, _STEPS + 1, dtype=torch.float64)
        self._knots = ranked[at.round().long().to(ranked.device)]

    def share_below(self, values: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
        """Return the share of the distribution below each value, 0 to 1.

        It is 1 from the largest of the distribution on, and for all values if that has one only.
        """
        knots = self._knots
        upper = torch.bucketize(values, knots, right=True, out_int32=True).clamp_(1, _STEPS)
        low = knots[upper - 1]
        step = (knots[upper] - low).clamp_min_(torch.finfo(knots.dtype).tiny)
        share = values.sub(low).div_(step).clamp_(0, 1)
        share = share.add_(upper.to(share)).sub_(1).div_(_STEPS)
        return torch.where(values >= knots[-1], 1.0, share)


def quantile(values: Float[Tensor, "*n"], probability: float) -> float:
    """Return the value that a share of the values lies below. Of many, a sample is looked at."""
    ranked = _sample(values).sort().values
    return float(ranked[min(len(ranked) - 1, int(probability * len(ranked)))])


def _sample(values: Tensor) -> Tensor:
    flat = values.flatten()
    # An odd step: rows of even length are not met at the same places again and again.
    step = -(-len(flat) // _MAX_SAMPLE) | 1
    return flat[::step]
