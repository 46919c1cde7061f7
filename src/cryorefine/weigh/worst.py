"""The worst particles of each group, so many that a share of all is met."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

__all__ = ["worst_of_groups"]


def worst_of_groups(
    percentile: Float[Tensor, "n"], group: Int[Tensor, "n"], share: float
) -> Bool[Tensor, "n"]:
    """Tell which particles are the worst, within one of a share of all groups' particles.

    A tenth of 25 particles is no whole number, and ranks alone would drop too few of each group.
    The numbers are rounded along the groups instead, so that their sums are right.

    Parameters
    ----------
    percentile
        Rank within the group; the lowest is the worst. NaN is never among the worst, and is not
        counted.
    group
        Any whole numbers. They are gone through in ascending order.
    share
        0 to 1.
    """
    known = (~percentile.isnan()).nonzero()[:, 0]
    order = known[percentile[known].argsort(stable=True)]
    order = order[group[order].argsort(stable=True)]
    worst = torch.zeros(len(percentile), dtype=torch.bool)
    if not len(order):
        return worst
    _, member_of, size = torch.unique_consecutive(
        group[order], return_inverse=True, return_counts=True
    )
    end = size.cumsum(0)
    begin = end - size
    # Halves are rounded up; the tiny part makes up for shares that binary numbers fall short of.
    n_before, n_up_to = (
        (share * where.double() + 0.5 + 1e-9).floor().long() for where in (begin, end)
    )
    rank = torch.arange(len(order)) - begin[member_of]
    worst[order] = rank < (n_up_to - n_before)[member_of]
    return worst
