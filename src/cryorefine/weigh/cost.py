"""Weights from how well images agree with the model at their refined poses."""

from jaxtyping import Float
from torch import Tensor

from cryorefine.weigh.score_weight import share_of_percentile

__all__ = ["cost_weight"]

_TOP = 0.98
"""Percentile of the correlation that has weight 1, so that a few outliers do not make all other
weights small (``docs/mathematics.md``). The percentile is not measured."""


def cost_weight(cost: Float[Tensor, "n"]) -> Float[Tensor, "n"]:
    """Return weights proportional to the correlation of image and model after local alignment.

    From 0 (no correlation, or a negative one) to 1 at the 98th percentile and above. NaN, where
    a particle was not aligned locally, gives 1. If the percentile is not positive all are 1.
    """
    return share_of_percentile(cost, _TOP).nan_to_num(nan=1.0)
