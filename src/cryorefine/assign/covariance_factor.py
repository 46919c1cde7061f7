"""How much less certain poses are than the Gauss-Newton matrix says, measured on the images."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from cryorefine.assign.comparison import WhitenedImages
from cryorefine.assign.particle_optics import magnified
from cryorefine.geometry.rotation import rotvec_from_matrix
from cryorefine.kernels.dispatch import refine_poses
from cryorefine.kernels.grid import SliceGrid
from cryorefine.kernels.poses import (
    LevenbergMarquardt,
    PoseProblem,
    PoseResult,
    covariance_of,
)

__all__ = ["lag_factor", "split_disagreement", "variance_factor"]

_BLOCK_SHELLS = 4
"""Shells of each block of the band, which go to the two parts in turn: wide enough that noise which
neighbouring shells share is in one part, narrow enough that both parts hold like resolution. Other
widths are not on record."""

_MIN_BLOCKS = 6
"""Blocks that a band has at least: three in each part, where the band has so many shells."""

_EVALUATIONS = 12
"""Evaluations to the maximum of a part: the difference of two maxima is what is measured, and a
maximum at a fifth of the usual tolerance takes more steps than one at the usual."""

_QUANTILE_90, _MEDIAN = 9.236, 4.351  # of χ² with 5 degrees of freedom


def split_disagreement(
    grid: SliceGrid,
    images: WhitenedImages,
    rotations: Float[Tensor, "b 3 3"],
    shifts_px: Float[Tensor, "b 2"],
    *,
    max_turn_rad: float,
    optics: Float[Tensor, "b v"] | None = None,
) -> Float[Tensor, "b"]:
    """Return how far apart the poses are that two disjoint parts of each image's band lead to.

    Shells go to the two parts in blocks of four, so that the noise of the parts is independent,
    and the errors of the reference nearly so: they are correlated over the box divided by the
    particle's diameter. With C₁ and C₂ the covariances from the Gauss-Newton matrices, the result
    is ``dᵀ (C₁ + C₂)⁻¹ d`` of the difference d: χ² with 5 degrees of freedom if the matrices tell
    the truth, f times that if variances are f times as large.

    Parameters
    ----------
    grid
        A reference that the images had no part in: in their own, both parts of an image find the
        pose at which its noise was added. What ``images`` say of own noise is not needed.
    rotations, shifts_px
        Where the refinements start: poses within the right maximum.
    max_turn_rad
        Limit of a single step.
    optics
        Values that the particles have of their own; their magnification stays as it is.
    """
    if optics is not None:
        rotations = magnified(rotations, optics.to(rotations))
    view, b = images.view, len(images)

    def refine(part: Bool[Tensor, "p"], start: tuple[Tensor, Tensor]) -> PoseResult:
        index = torch.nonzero(part)[:, 0]
        problem = PoseProblem(
            x=images.x[:, index],
            c=images.c[:, index],
            points=view.points[index],
            k_px=view.k_px()[index],
            image_size_px=view.band.size_px,
            image_of=torch.arange(b, device=images.device),
            rotations=start[0],
            shifts_px=start[1],
            prior_shift_px=torch.zeros(b, 2, dtype=torch.float64, device=images.device),
        )
        options = LevenbergMarquardt(
            max_evaluations=_EVALUATIONS,
            max_shift_px=view.band.size_px,
            max_turn_rad=max_turn_rad,
            max_move_px=1.0,
            tolerance=0.01,
        )
        return refine_poses(grid, problem, options)

    shell = view.band.shell
    width = max(1, min(_BLOCK_SHELLS, view.band.n_shells // _MIN_BLOCKS))
    is_used, is_even = shell >= 1, (shell // width) % 2 == 0
    whole = refine(is_used, (rotations, shifts_px))
    start = (whole.rotations, whole.shifts_px)
    first, second = refine(is_used & is_even, start), refine(is_used & ~is_even, start)
    covariance = covariance_of(first.information) + covariance_of(second.information)
    # Of magnified particles neither matrix is a rotation, but both are the same one turned.
    back = second.rotations.transpose(1, 2) if optics is None else second.rotations.inverse()
    turn = rotvec_from_matrix(first.rotations @ back)
    return _squared_length(turn, first.shifts_px - second.shifts_px, covariance)


def _squared_length(
    turn: Float[Tensor, "n 3"], shift: Float[Tensor, "n 2"], covariance: Float[Tensor, "n 5 5"]
) -> Float[Tensor, "n"]:
    """Return ``dᵀ C⁻¹ d`` for a difference d of poses: a rotation vector and a shift."""
    d = torch.cat([turn, shift], 1)
    return (d * torch.linalg.solve(covariance, d)).sum(1)


def variance_factor(disagreement: Float[Tensor, "n"]) -> float:
    """Return by how much variances exceed those of the Gauss-Newton matrix, at least 1.

    The 90 % quantile of :func:`split_disagreement` over that of χ² with 5 degrees of freedom: far
    enough out to see tails, not so far that a few particles on another maximum count. No estimate
    is better than its information allows, so that anything below 1 is chance.
    """
    if len(disagreement) == 0:
        return 1.0
    return max(1.0, float(disagreement.quantile(0.9)) / _QUANTILE_90)


def lag_factor(
    rotations: tuple[Float[Tensor, "n 3 3"], Float[Tensor, "n 3 3"]],
    shifts: tuple[Float[Tensor, "n 2"], Float[Tensor, "n 2"]],
    covariance: Float[Tensor, "n 5 5"],
) -> float:
    """Return what poses that still move add to the factor by which variances are too small.

    A particle's own noise is in its reference, at the pose where it was: poses follow what the
    images say with a lag, and come about half as much closer in each iteration. What is left is as
    much as the last step, whose squared length in units of the covariance is taken: the median
    over that of χ² with 5 degrees of freedom, so that poses that jumped do not count.

    Parameters
    ----------
    rotations, shifts
        Before the last iteration, and after it.
    covariance
        From the Gauss-Newton matrix, in the units of the shifts.
    """
    is_known = torch.isfinite(covariance).flatten(1).all(1)
    is_known &= torch.linalg.det(covariance) > 0
    if not bool(is_known.any()):
        return 0.0
    before, after = rotations[0][is_known], rotations[1][is_known]
    turn = rotvec_from_matrix(after @ before.transpose(1, 2))
    shift = shifts[1][is_known] - shifts[0][is_known]
    length2 = _squared_length(turn, shift, covariance[is_known])
    return float(length2.median()) / _MEDIAN
