"""How far poses have moved since they were last found, and weights from it."""

import torch
from jaxtyping import Float
from torch import Tensor

from cryorefine.geometry.protocol import Symmetry

__all__ = ["pose_change", "stability_weight"]

_MAD_TO_SIGMA = 1.4826  # of a Gaussian
_MIN_SIGMA_DEG = 1.0
"""Least spread of changes: where nearly all poses stand still, small changes must not cost a
particle its weight. Not measured."""


def pose_change(
    rotations: Float[Tensor, "n 3 3"],
    shift_A: Float[Tensor, "n 2"],
    earlier_rotations: Float[Tensor, "n 3 3"],
    earlier_shift_A: Float[Tensor, "n 2"],
    group: Symmetry,
) -> tuple[Float[Tensor, "n"], Float[Tensor, "n"]]:
    """Return how far each pose is from an earlier one, as an angle and a distance.

    Returns
    -------
    angle_deg
        Geodesic, in degrees, to the nearest of the symmetric equivalents; NaN where a pose is.
    shift_A
        Length of the difference of the shifts in Å.
    """
    angle_rad = group.distance(rotations, earlier_rotations)
    return torch.rad2deg(angle_rad), (shift_A - earlier_shift_A).norm(dim=1)


def stability_weight(angle_diff_deg: Float[Tensor, "n"]) -> Float[Tensor, "n"]:
    """Return weights that fall as a Gaussian of the angle by which a particle has turned.

    Its standard deviation is 1.4826 times the median angle, and 1° at least: once all particles
    stand nearly still, small turns are no sign of a bad one.

    Parameters
    ----------
    angle_diff_deg
        Between the last two poses. NaN where there is no earlier one; the weight is 1 then.
    """
    known = angle_diff_deg[~angle_diff_deg.isnan()]
    if not len(known):
        return torch.ones_like(angle_diff_deg)
    sigma_deg = (_MAD_TO_SIGMA * known.quantile(0.5)).clamp_min(_MIN_SIGMA_DEG)
    return (-0.5 * (angle_diff_deg / sigma_deg).square()).exp().nan_to_num(nan=1.0)
