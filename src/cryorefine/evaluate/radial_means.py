"""Means of values at each distance from a centre or an axis."""

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

__all__ = ["radial_means"]


def radial_means(values: Shaped[Tensor, "s p"], radius: Float[Tensor, "p"]) -> Float[Tensor, "s p"]:
    """Return for each value the mean at its distance, in double precision.

    Each value is shared out between two radii a voxel apart: steps between shells, or rings, would
    have the symmetry of the grid.

    Parameters
    ----------
    values
        Of s maps, or sections of one; means are of each for itself.
    radius
        Distance of the p places in voxels.

    Examples
    --------
    >>> radial_means(torch.tensor([[1.0, 3.0, 8.0]]), torch.tensor([2.0, 2.0, 5.0]))
    tensor([[2., 2., 8.]], dtype=torch.float64)
    """
    radius, values = radius.double(), values.double()
    low = radius.floor().long()
    upper = radius - low
    n_radii = int(low.max()) + 2
    weight = torch.bincount(low, 1 - upper, n_radii) + torch.bincount(low + 1, upper, n_radii)
    total = values.new_zeros(len(values), n_radii)
    total.index_add_(1, low, values * (1 - upper)).index_add_(1, low + 1, values * upper)
    mean = total / weight.clamp_min(1e-12)
    return mean[:, low] * (1 - upper) + mean[:, low + 1] * upper
