"""The values that single particles have of their own, as the passes over all particles use them."""

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from cryorefine.assign.align import AlignmentOptions, BatchPoses, is_tilt_allowed, pull_back, spread
from cryorefine.assign.comparison import Reference
from cryorefine.assign.particle_optics import (
    GroupImages,
    OpticsPrior,
    refine_particle_optics,
    without_offset,
)
from cryorefine.settings import RefineSettings

__all__ = ["optics_prior", "refine_batch", "without_common_part"]


def optics_prior(
    settings: RefineSettings, *, is_last: bool, has_defocus: bool
) -> OpticsPrior | None:
    """Return what a local iteration refines beside poses, within which bounds; None if nothing.

    Parameters
    ----------
    is_last
        Whether the run ends with it: some schedules then refine what was not asked for.
    has_defocus
        Whether the images show their defocus.
    """
    at_end = settings.refines_values_at_end and is_last
    prior = OpticsPrior(
        grey=settings.refine_grey or at_end,
        scale=settings.refine_scale or at_end,
        magnification=settings.refine_magnification,
        defocus=settings.refine_defocus or (at_end and has_defocus),
        max_grey_scale_change=settings.max_grey_scale_change_percent / 100,
        max_grey_offset=settings.max_grey_offset,
        max_magnification_change=settings.max_magnification_change_percent / 100,
        max_defocus_change_A=settings.max_defocus_change_angstrom,
    )
    return prior if len(prior.active()) else None


def refine_batch(
    reference: Reference,
    images: GroupImages,
    found: BatchPoses,
    values: Float[Tensor, "b v"],
    prior: OpticsPrior,
    options: AlignmentOptions,
    *,
    start: tuple[Float[Tensor, "b 3 3"], Float[Tensor, "b 2"]],
) -> tuple[BatchPoses, Float[Tensor, "b v"]]:
    """Refine a batch's poses together with the particles' own values.

    Parameters
    ----------
    images
        Their coefficients, from which the offsets in ``values`` have been taken.
    values
        As they were in the last iteration.
    start
        Poses of the last iteration: the limits of local refinement are about them.

    Returns
    -------
    poses, values
        Score, gap and the like stay those of the alignment before.
    """
    whole = replace(images, x=without_offset(images.view, images.x, -values[:, 1]))
    refined = refine_particle_optics(
        reference, whole, found.rotations, found.shifts_px, values, prior, options
    )
    within = pull_back(refined.rotations, refined.shifts_px, *start, options.local)
    if within is not None:
        refined = replace(refined, rotations=within[0], shifts_px=within[1])
    keeps = is_tilt_allowed(refined.rotations, options.tilt_range_rad)[:, None]
    shifts = torch.where(keeps, refined.shifts_px, found.shifts_px)
    sigma_rotation, sigma_shift = spread(refined.covariance, options)
    poses = replace(
        found,
        rotations=torch.where(keeps[..., None], refined.rotations, found.rotations),
        shifts_px=shifts,
        covariance=refined.covariance,
        sigma_rotation_rad=sigma_rotation,
        sigma_shift_px=sigma_shift,
        at_edge=shifts.norm(dim=1) > options.max_shift_px * (1 - 1e-6),
    )
    return poses, refined.values


def without_common_part(values: Float[Tensor, "n v"]) -> Float[Tensor, "n v"]:
    """Take out what belongs to the map of these particles: mean grey scale 1, mean scale 1."""
    out = values.clone()
    grey = 1 + values[:, 0]
    out[:, 0] = grey / grey.mean() - 1
    out[:, 2] = values[:, 2] - values[:, 2].mean()
    return out
