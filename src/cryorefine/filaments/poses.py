"""Where segments of a run's filaments may lie, and earlier poses as they are compared with."""

import math
from dataclasses import replace

import numpy as np
import torch

from cryorefine.assign.axis_prior import AxisPrior
from cryorefine.errors import InputError
from cryorefine.geometry.segments import HelicalStep
from cryorefine.state.helix import present_helix
from cryorefine.state.state import Inputs, Poses, State

__all__ = ["axis_prior", "helical_step", "with_poses_beside"]

_PSI, _TILT, _RATIO = "rlnAnglePsiPrior", "rlnAngleTiltPrior", "rlnAnglePsiFlipRatio"


def helical_step(inputs: Inputs, state: State, unit_A: float = 1.0) -> HelicalStep | None:
    """Return the step of a run's present helix for shifts in some unit; None without a helix."""
    last = state.history[-1].helix if state.history else None
    helix = present_helix(inputs.settings, inputs.group.name, last)
    return None if helix is None else HelicalStep.of(helix, unit_A)


def axis_prior(inputs: Inputs) -> AxisPrior | None:
    """Return what the particle file says of where filaments lie; None where it says nothing.

    ``rlnAnglePsiFlipRatio`` of 0 means that the direction along the filament is known; any other
    value, or no such column, that it is not.

    Raises
    ------
    InputError
        If a column holds no numbers.
    """
    settings = inputs.settings
    if not settings.has_helix or _PSI not in inputs.table.extra:
        return None
    psi_deg, tilt_deg = _column(inputs, _PSI, math.nan), _column(inputs, _TILT, math.nan)
    return AxisPrior(
        psi_rad=torch.from_numpy(np.radians(psi_deg)),
        tilt_rad=torch.from_numpy(np.radians(tilt_deg)),
        has_both=torch.from_numpy(_column(inputs, _RATIO, 0.5) != 0),
        psi_reach_rad=math.radians(settings.helical_psi_range_deg),
        tilt_reach_rad=math.radians(settings.helical_max_out_of_plane_deg),
    )


def _column(inputs: Inputs, label: str, unknown: float) -> np.ndarray:
    values = inputs.table.extra.get(label)
    if values is None:
        return np.full(len(inputs.table), unknown)
    try:
        found = values.astype(np.float64)
    except ValueError:
        raise InputError(
            "the column holds no numbers",
            where=f"{inputs.table.source}, column _{label}",
            do="correct it, or leave the column out",
        ) from None
    return np.where(np.isfinite(found), found, unknown)


def with_poses_beside(inputs: Inputs, state: State, found: Poses) -> State:
    """Return a state whose earlier poses are, of those alike by the helix, nearest to found ones.

    For comparisons only: to turn by the twist and move by the rise is no change.
    """
    step = helical_step(inputs, state)
    if step is None:
        return state

    def beside(poses: Poses | None) -> Poses | None:
        if poses is None:
            return None
        rotations, shift_A = step.beside(
            (poses.rotations, poses.shift_A),
            (found.rotations, found.shift_A),
            inputs.group,
            inputs.geometry.radius_A,
        )
        return replace(poses, rotations=rotations, shift_A=shift_A)

    return replace(state, poses=beside(state.poses), previous=beside(state.previous))
