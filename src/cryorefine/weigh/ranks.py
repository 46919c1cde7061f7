"""Where a value stands among those of its group."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

__all__ = ["percentiles"]


def percentiles(values: Float[Tensor, "n"], group: Int[Tensor, "n"]) -> Float[Tensor, "n"]:
    """Return the rank of each value within its group, over the number of values there.

    Ranks ascend: the largest value is the best and has 1, the smallest ``1 / n``. Equal values
    share the mean of their ranks. NaN gives NaN and does not count.

    Parameters
    ----------
    group
        Any whole numbers.
    """
    result = torch.full_like(values, torch.nan)
    known = (~values.isnan()).nonzero()[:, 0]
    order = known[values[known].argsort(stable=True)]
    order = order[group[order].argsort(stable=True)]
    if not len(order):
        return result
    _, member_of, group_size = torch.unique_consecutive(
        group[order], return_inverse=True, return_counts=True
    )
    differs = (values[order].diff() != 0) | (member_of.diff() != 0)  # a new value, or a new group
    tie = torch.cat([differs.new_zeros(1), differs]).cumsum(0)
    tie_size = tie.bincount()
    tie_end, group_end = tie_size.cumsum(0), group_size.cumsum(0)
    rank = tie_end[tie] - (tie_size[tie] - 1).double() / 2 - (group_end - group_size)[member_of]
    result[order] = (rank / group_size[member_of]).to(values)
    return result
