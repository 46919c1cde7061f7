"""Measure two half maps: mask, FSC, resolution, coverage; at the end the worst direction."""

import dataclasses
import math

import torch
from jaxtyping import Float
from torch import Tensor

from cryorefine.evaluate.coverage import coverage_efficiency
from cryorefine.evaluate.directional import directional_resolution
from cryorefine.evaluate.fsc import FscCurves, fsc_within, half_map_fsc
from cryorefine.events import EventLog
from cryorefine.filaments.imposition import mask_of_filament
from cryorefine.masks.soft import solvent_mask
from cryorefine.state.state import Evaluation, Inputs, Poses

__all__ = ["evaluate_halves", "found_mask", "measure_directions"]

_MASK_RESOLUTION_A = 15.0
"""Resolution of the mask that the FSC is measured in, or coarser: finer ones follow the noise of
the map that they are found in. Not measured."""

_UNEVEN, _HARDLY_COVERED = 0.5, 0.1
"""Coverage below which directions are measured one by one, and below which a warning says that
halves may share errors. The D7 sets of ``docs/decisions.md`` ("A warning where preferred views
leave the tilt undetermined") have 0.04 and 0.002 where their maps are wrong."""

_MUCH_WORSE = 1.2
"""Worst direction over reported resolution from which a warning is given: sets whose poses are
right have up to 1.16, sets whose tilts are wrong 1.5 and more (same section)."""


def evaluate_halves(
    inputs: Inputs,
    halves: tuple[Float[Tensor, "z y x"], Float[Tensor, "z y x"]],
    poses: Poses,
    *,
    limit_A: float,
    seed: int,
) -> tuple[Float[Tensor, "z y x"], Evaluation]:
    """Measure two half maps.

    The mask is the user's, or that of a filament, or found in the average of the halves low-passed
    to 15 Å.

    Parameters
    ----------
    limit_A
        Half maps are empty beyond this resolution; the curves end there.
    """
    average = torch.add(*halves) / 2
    mask = inputs.mask
    if mask is None and inputs.settings.has_helix:
        mask = mask_of_filament(inputs, average)
    if mask is None:
        mask = found_mask(inputs, average, limit_A)
    curves = half_map_fsc(halves[0], halves[1], voxel_A=inputs.voxel_A, mask=mask, seed=seed)
    curves = _cut(curves, limit_A)
    criterion = inputs.settings.fsc_criterion
    comparison = None
    if inputs.comparison is not None:
        comparison = fsc_within(average, inputs.comparison, mask)
    return mask, Evaluation(
        curves=curves,
        resolution_A=curves.resolution_A(criterion),
        resolution_unmasked_A=curves.resolution_A(criterion, curve="unmasked"),
        comparison_fsc=comparison,
        coverage=coverage_efficiency(poses.rotations.to(inputs.device), inputs.group),
    )


def measure_directions(
    inputs: Inputs,
    halves: tuple[Float[Tensor, "z y x"], Float[Tensor, "z y x"]],
    mask: Float[Tensor, "z y x"],
    evaluation: Evaluation,
    events: EventLog,
) -> Evaluation:
    """Where views are uneven, measure the worst direction, and tell what no mean over all shows."""
    if evaluation.coverage >= _UNEVEN:
        return evaluation
    found = directional_resolution(
        *halves,
        mask,
        evaluation.curves,
        inputs.group,
        voxel_A=inputs.voxel_A,
        threshold=inputs.settings.fsc_criterion,
    )
    if found.worst_A > _MUCH_WORSE * evaluation.resolution_A:
        reach = "nothing" if found.worst_A == math.inf else f"{found.worst_A:.1f} Å"
        events.warn(
            f"preferred views: {evaluation.resolution_A:.2f} Å is the mean over all directions of "
            f"Fourier space; about the direction {found.tilt_deg:.0f}° from the z axis the half "
            f"maps agree to {reach}"
        )
    if evaluation.coverage < _HARDLY_COVERED:
        events.warn(
            f"preferred views: coverage {evaluation.coverage:.2g} leaves the map's extent along "
            "the common view hardly determined; both halves may share an error of it, and of the "
            "poses, that their FSC does not show"
        )
    return dataclasses.replace(evaluation, resolution_worst_A=found.worst_A)


def found_mask(
    inputs: Inputs, volume: Float[Tensor, "z y x"], limit_A: float
) -> Float[Tensor, "z y x"]:
    """Return a soft mask about what a map low-passed to 15 Å shows; all of the box if nothing."""
    mask = solvent_mask(
        volume,
        voxel_A=inputs.voxel_A,
        radius_px=inputs.radius_px,
        resolution_A=max(_MASK_RESOLUTION_A, limit_A),
    )
    return mask if bool((mask > 0).any()) else torch.ones_like(volume)


def _cut(curves: FscCurves, limit_A: float) -> FscCurves:
    """Zero the curves where the half maps hold nothing, but for what their masks leaked there."""
    beyond = curves.frequency_per_A > (1 / limit_A - 0.5 * curves.frequency_per_A[1])
    if not bool(beyond[:-1].any()):
        return curves  # filled up to Nyquist
    names = ("unmasked", "masked", "randomised", "corrected", "outside")
    values = {name: torch.where(beyond, 0.0, getattr(curves, name)) for name in names}
    return dataclasses.replace(curves, **values)
