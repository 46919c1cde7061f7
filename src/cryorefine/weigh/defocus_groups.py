"""Groups of particles that may fairly be compared with each other."""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

__all__ = ["defocus_groups"]


def defocus_groups(
    defocus_A: Float[Tensor, "n"], half: Int[Tensor, "n"], *, max_groups: int = 50, least: int = 20
) -> Int[Tensor, "n"]:
    """Return the group of every particle, numbered from 0 along the defocus.

    Scores depend on the contrast, and that on the defocus: particles of like defocus are of like
    contrast. A group is a range of defoci, the same for both halves.

    Parameters
    ----------
    defocus_A
        Mean of the two principal defoci.
    half
        Half set of each particle, 1 or 2. Ranks are taken within a half.
    max_groups, least
        There are at most as many groups as these allow, and one at least. ``least`` is the smallest
        number of particles that each half has in a group, unless there is only one group.

    Notes
    -----
    Groups are as even as these conditions let them be. Equal defoci are in one group. NaN counts as
    larger than any number.
    """
    n = len(defocus_A)
    least = max(least, 1)
    group = torch.zeros_like(half, dtype=torch.int64)
    sizes = [int((half == number).sum()) for number in (1, 2)]
    n_groups = max(1, min(max_groups, min(sizes) // least))
    if n_groups == 1:
        return group
    value, order = defocus_A.nan_to_num(math.inf).sort(stable=True)
    end_of_ties = torch.searchsorted(value, value, right=True)
    counts = [(half[order] == number).long().cumsum(0) for number in (1, 2)]
    begin, number = 0, 0
    for remaining in range(n_groups, 1, -1):
        # As many as an even share of what is left, and enough of both halves.
        place = begin + (n - begin) // remaining - 1
        for count in counts:
            before = int(count[begin - 1]) if begin else 0
            place = max(place, int(torch.searchsorted(count, before + least)))
        if place >= n:
            break
        end = int(end_of_ties[place])
        if any(int(count[-1] - count[end - 1]) < least for count in counts):
            break
        begin, number = end, number + 1
        group[order[begin:]] = number
    return group
