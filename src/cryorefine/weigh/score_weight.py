"""Weights from where a score stands among those of the other particles."""

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["cc_weight", "share_of_percentile"]


def cc_weight(percentile: Float[Tensor, "n"], *, minimum: float) -> Float[Tensor, "n"]:
    """Return weights that rise linearly from ``minimum`` at the worst to 1 at the best.

    Parameters
    ----------
    percentile
        0 to 1, best 1. NaN where it is not known, which is no reason to trust a particle less:
        its weight is 1.
    minimum
        0 to 1; what the worst particle still counts.
    """
    return (minimum + percentile * (1 - minimum)).nan_to_num(nan=1.0)


def share_of_percentile(score: Float[Tensor, "n"], fraction: float) -> Float[Tensor, "n"]:
    """Return scores divided by their quantile at ``fraction``, between 0 and 1.

    A high quantile stands for the largest score, so that a few outliers do not set the scale.
    NaN stays NaN and does not count. If the quantile is not positive, scores say nothing: all
    are 1 then.
    """
    known = ~score.isnan()
    if not bool(known.any()):
        return score
    top = score[known].quantile(fraction)
    share = (score / top).clamp(0, 1) if float(top) > 0 else torch.ones_like(score)
    return torch.where(known, share, score)
