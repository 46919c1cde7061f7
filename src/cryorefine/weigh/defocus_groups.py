"""Groups of particles that may fairly be compared with each other."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

__all__ = ["defocus_groups"]


def defocus_groups(
    defocus_A: Float[Tensor, "n"], *, max_groups: int = 50, least: int = 20
) -> Int[Tensor, "n"]:
    """Return the group of every particle, numbered from 0 along the defocus.

    Scores depend on the contrast, and that on the defocus: particles of like defocus are of like
    contrast.

    Parameters
    ----------
    defocus_A
        Mean of the two principal defoci.
    max_groups, least
        There are as many groups as these allow, and one at least. ``least`` is the smallest
        number of particles in a group, unless there is only one group.

    Notes
    -----
    The sizes of groups differ by at most 1. Equal defoci may be split, in the order of the file.
    NaN counts as larger than any number.
    """
    n = len(defocus_A)
    n_groups = max(1, min(max_groups, n // max(least, 1)))
    order = defocus_A.argsort(stable=True)
    place = torch.arange(n, device=defocus_A.device)
    group = torch.empty_like(place)
    group[order] = place * n_groups // max(n, 1)
    return group
