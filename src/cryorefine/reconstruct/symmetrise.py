"""Apply a point group to the sums of a reconstruction, once, on the Fourier grid."""

import numpy as np
import torch
from jaxtyping import Complex, Float
from scipy import ndimage
from torch import Tensor

from cryorefine.geometry.symmetry import SymmetryGroup
from cryorefine.kernels.dispatch import rotate_grid
from cryorefine.kernels.grid import HALO

__all__ = ["coset_representatives", "symmetrise_grid", "symmetrise_volume"]


def coset_representatives(
    group: SymmetryGroup,
) -> tuple[Float[Tensor, "a 3 3"], Float[Tensor, "b 3 3"]]:
    """Split a group into rotations that map the grid onto itself and one of each remaining kind.

    Returns
    -------
    representatives, exact
        Every group element is ``representatives[i] @ exact[j]`` for one pair (i, j): a grid
        read at all representatives of k, then that one at all exact images of k, is read at all
        group images of k. The ``exact`` ones permute grid points; only the others need
        interpolation.
    """
    matrices = group.matrices
    is_exact = (matrices - matrices.round()).abs().amax((-1, -2)) < 1e-9
    exact = matrices[is_exact].round()
    left = list(range(group.order))
    chosen = []
    while left:
        element = matrices[left[0]]
        chosen.append(element)
        coset = element @ exact
        left = [i for i in left if float((coset - matrices[i]).abs().amax((-1, -2)).min()) > 1e-6]
    return torch.stack(chosen), exact


def _permute(core: Tensor, centre: int, rotation: Tensor) -> Tensor:
    """Return the half grid ``out(k) = full(R k)`` for a signed permutation R."""
    # Full cube from the half one: x < 0 by Hermitian symmetry (real grids: plain symmetry).
    mirror = core[:, :, 1:].flip(0, 1, 2)
    full = torch.cat([mirror.conj() if core.is_complex() else mirror, core], -1)
    # out[k] = full[R k]: axis a of the result (x, y, z) feeds component p of R k with a sign.
    order = [int(rotation[:, a].abs().argmax()) for a in range(3)]  # column a: where k_a goes
    signs = [float(rotation[order[a], a]) for a in range(3)]
    # Array axes are z, y, x = components 2, 1, 0.
    permuted = full.permute([2 - order[2], 2 - order[1], 2 - order[0]])
    flips = [2 - a for a in range(3) if signs[a] < 0]
    if flips:
        permuted = permuted.flip(flips)
    return permuted[:, :, centre:]


def symmetrise_grid(
    values: Complex[Tensor, "z y x"],
    weights: Float[Tensor, "z y x"],
    *,
    centre: int,
    step: float,
    group: SymmetryGroup,
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
    """
    representatives, exact = coset_representatives(group)
    passes = 0
    if len(representatives) > 1:
        mirror_v = values[:, :, 1 : HALO + 1].flip(0, 1, 2).conj()
        mirror_w = weights[:, :, 1 : HALO + 1].flip(0, 1, 2)
        with_halo_v = torch.cat([mirror_v, values], -1).contiguous()
        with_halo_w = torch.cat([mirror_w, weights], -1).contiguous()
        # The identity goes through the kernel like the others, so that one apodisation fits all.
        values, weights = rotate_grid(with_halo_v, with_halo_w, centre, step, representatives)
        passes = 1
    if len(exact) > 1:
        values = sum((_permute(values, centre, r) for r in exact[1:]), values.clone())
        weights = sum((_permute(weights, centre, r) for r in exact[1:]), weights.clone())
    return values, weights, passes


def symmetrise_volume(
    volume: Float[Tensor, "z y x"], group: SymmetryGroup
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
    for matrix in group.matrices.numpy():
        turned = matrix[::-1, ::-1]  # array axes are z, y, x
        total += ndimage.affine_transform(
            coefficients, turned, origin - turned @ origin, order=3, prefilter=False
        )
    return torch.from_numpy(total / group.order)
