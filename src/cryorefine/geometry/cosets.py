"""Divide a point group into rotations that keep the grid of voxels and the others."""

import torch
from jaxtyping import Float
from torch import Tensor

from cryorefine.geometry.protocol import Symmetry

__all__ = ["coset_representatives"]


def coset_representatives(
    group: Symmetry,
) -> tuple[Float[Tensor, "a 3 3"], Float[Tensor, "b 3 3"]]:
    """Split a point group into rotations that map the grid onto itself and one of each other kind.

    Returns
    -------
    representatives, exact
        Every group element is ``exact[j] @ representatives[i]`` for one pair (i, j): a grid
        read at all exact images of k, then that one at all representatives of k, is read at all
        group images of k. The ``exact`` ones permute grid points; only the others need
        interpolation.
    """
    matrices = group.point_group
    is_exact = (matrices - matrices.round()).abs().amax((-1, -2)) < 1e-9
    exact = matrices[is_exact].round()
    left = list(range(len(matrices)))
    chosen = []
    while left:
        element = matrices[left[0]]
        chosen.append(element)
        coset = exact @ element
        left = [i for i in left if float((coset - matrices[i]).abs().amax((-1, -2)).min()) > 1e-6]
    return torch.stack(chosen), exact
