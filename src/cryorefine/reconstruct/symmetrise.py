"""Apply a point group to the sums of a reconstruction, once, on the Fourier grid."""

import numpy as np
import torch
from jaxtyping import Complex, Float
from scipy import ndimage
from torch import Tensor

from cryorefine.geometry.cosets import coset_representatives
from cryorefine.geometry.protocol import Symmetry
from cryorefine.kernels.dispatch import permute_grid, rotate_grid

__all__ = ["symmetrise_grid", "symmetrise_volume"]


def symmetrise_grid(
    values: Complex[Tensor, "z y x"],
    weights: Float[Tensor, "z y x"],
    *,
    centre: int,
    step: float,
    group: Symmetry,
) -> tuple[Complex[Tensor, "z y x"], Float[Tensor, "z y x"], int]:
    """Sum values and weights over all symmetric copies of each grid point.

    Parameters
    ----------
    values, weights
        Half grids (x ≥ 0, no halo) from :func:`~cryorefine.kernels.grid.fold_accumulator`.

    Returns
    -------
    values, weights, passes
        ``passes`` counts how often the values have been convolved with the interpolation kernel
        by this call (0 or 1): the volume must be divided by the apodisation once more for each.

    Raises
    ------
    ValueError
        If the symmetry has operators that are not of its point group: copies that move need phases.
    """
    if group.order > len(group.point_group):
        raise ValueError(f"symmetry {group.name} is no point group, as sums on the grid need it")
    representatives, exact = coset_representatives(group)
    if len(exact) > 1:
        values, weights = permute_grid(values, weights, centre, exact)
    if len(representatives) == 1:
        return values, weights, 0
    # The identity goes through the kernel like the others, so that one apodisation fits all.
    values, weights = rotate_grid(values, weights, centre, step, representatives, exact)
    return values, weights, 1


def symmetrise_volume(
    volume: Float[Tensor, "z y x"], group: Symmetry, *, voxel_A: float
) -> Float[Tensor, "z y x"]:
    """Return the mean of a map's symmetric copies, by cubic splines in real space.

    For maps without detail near their sampling; half maps are symmetrised by
    :func:`symmetrise_grid`.
    """
    if group.order == 1:
        return volume
    n = volume.shape[-1]
    origin = np.full(3, n // 2, dtype=np.float64)
    coefficients = ndimage.spline_filter(volume.numpy(), order=3)
    total = np.zeros(volume.shape, np.float32)
    for matrix, shift_A in zip(group.matrices.numpy(), group.shifts_A.numpy(), strict=True):
        # Array axes are z, y, x. What is read where an operator takes each voxel is the copy that
        # its inverse makes.
        turned, shift_px = matrix[::-1, ::-1], shift_A[::-1] / voxel_A
        offset = origin - turned @ origin + shift_px
        total += ndimage.affine_transform(coefficients, turned, offset, order=3, prefilter=False)
    return torch.from_numpy(total / group.order)
