"""Whether poses are as accurate as their covariances say, where the truth is known."""

import torch
from jaxtyping import Float
from torch import Tensor

from cryorefine.geometry.protocol import Symmetry
from cryorefine.geometry.rotation import rotvec_from_matrix

__all__ = ["chi_squared", "pose_errors"]

_PLAUSIBLE = 40.0
"""Squared error, in variances, beyond which a pose lies on another maximum: chance goes beyond 40
with five degrees of freedom once in seven million."""


def pose_errors(
    rotations: Float[Tensor, "n 3 3"],
    shift_A: Float[Tensor, "n 2"],
    true_rotations: Float[Tensor, "n 3 3"],
    true_shift_A: Float[Tensor, "n 2"],
    group: Symmetry,
) -> Float[Tensor, "n 5"]:
    """Return what has to be added to the true poses: rotation vector (image frame, rad), shift (Å).

    The nearest of the true pose's symmetric equivalents counts.
    """
    nearest = group.nearest(true_rotations, rotations)
    turn = rotvec_from_matrix(rotations @ nearest.transpose(1, 2))
    return torch.cat([turn, shift_A - true_shift_A], 1)


def chi_squared(
    errors: Float[Tensor, "n 5"],
    covariance: Float[Tensor, "n 5 5"],
    rotations: Float[Tensor, "n 3 3"],
    group: Symmetry,
) -> Float[Tensor, "n"]:
    """Return ``eᵀ C⁻¹ e`` of each pose, of 5 degrees of freedom if the covariances are right.

    A map may turn and move as a whole, and all poses with it: that common part of the errors is
    fitted and taken out first, so the particles must be those of one half map. The symmetry axes
    stay where they are: only turns and moves that the point group allows are fitted. Poses that are
    wrong altogether are left out of the fit.
    """
    precision = torch.linalg.inv(covariance)
    allowed = group.point_group.mean(0)  # projects on the vectors that every rotation leaves alone
    n = len(errors)
    design = torch.zeros(n, 5, 6, dtype=torch.float64)
    design[:, :3, :3] = rotations @ allowed
    design[:, 3:, 3:] = rotations[:, :2] @ allowed
    left = errors
    chi2 = torch.einsum("na,nab,nb->n", left, precision, left)
    use = chi2 < chi2.median() * 4
    for _ in range(4):
        weighted = design[use].transpose(1, 2) @ precision[use]
        normal = (weighted @ design[use]).sum(0)
        drift = torch.linalg.pinv(normal, hermitian=True) @ (weighted @ errors[use][..., None]).sum(
            0
        )
        left = errors - (design @ drift)[..., 0]
        chi2 = torch.einsum("na,nab,nb->n", left, precision, left)
        use = chi2 < _PLAUSIBLE
    return chi2
