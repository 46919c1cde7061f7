"""Restore finished half maps as the settings say, and make the processed map of them.

Raw half maps are not changed, and what an iteration hands on, its FSC included, is made of those.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from cryorefine.errors import InputError
from cryorefine.evaluate.fsc import FscCurves, half_map_fsc
from cryorefine.geometry.protocol import Symmetry
from cryorefine.geometry.rotation import matrix_from_euler
from cryorefine.geometry.symmetry import parse_symmetry
from cryorefine.refine.user_command import run_user_command, variables_of_run
from cryorefine.restore.align_halves import AlignHalves
from cryorefine.restore.deconvolve import Deconvolve
from cryorefine.restore.denoise_real import DenoiseReal
from cryorefine.restore.difference import EvaluateDifference
from cryorefine.restore.filter_bank import FilterBank
from cryorefine.restore.laplacian import Laplacian
from cryorefine.restore.mask_ad_hoc import AdHocMask
from cryorefine.restore.protocol import Context, Halves, Restoration
from cryorefine.restore.registry import RestoredHalves, restore_halves
from cryorefine.restore.sharpen import weight_map
from cryorefine.restore.symmetrise_within import SymmetriseWithin, oriented
from cryorefine.restore.undershoot import AttenuateUndershoot
from cryorefine.restore.user_command import UserCommand
from cryorefine.settings.restoration import RestorationSettings
from cryorefine.state.state import Inputs, State

__all__ = [
    "Masks",
    "Processed",
    "check_restorations",
    "process",
    "record_of",
    "requested_restorations",
    "restore_run_halves",
]


@dataclass(frozen=True, eq=False)
class Masks:
    """The masks that restorations need of their own; None where not given."""

    post_symmetry_mask: Float[Tensor, "z y x"] | None
    post_mask: Float[Tensor, "z y x"] | None


@dataclass(frozen=True, eq=False)
class Processed:
    """What people look at.

    Attributes
    ----------
    map
        Of the processed half maps, weighted by the FSC of the raw ones.
    restored, curves
        The processed half maps and their FSC, which is no measure of resolution; None where only
        the map was processed.
    """

    map: Float[Tensor, "z y x"]
    restored: RestoredHalves | None = None
    curves: FscCurves | None = None


def check_restorations(settings: RestorationSettings) -> None:
    """Refuse restorations that cannot be done.

    Raises
    ------
    InputError
        If the point group is unknown.
    """
    if settings.post_symmetry is None:
        return
    try:
        group = parse_symmetry(settings.post_symmetry)
    except InputError as error:
        raise InputError(error.what, where="--post-symmetry", do=error.do) from None
    if group.order == 1:
        raise InputError(
            "symmetry c1 has no copies to average",
            where="--post-symmetry",
            do="give another group, or leave it out",
        )


def requested_restorations(
    settings: RestorationSettings,
    masks: Masks,
    imposed: Symmetry,
    *,
    command_shell: bool = False,
    variables: dict[str, object] | None = None,
) -> list[Restoration]:
    """Return the restorations that the settings ask for.

    Parameters
    ----------
    imposed
        Symmetry of the whole map, which tells what of a movement is free.
    command_shell, variables
        Of the command; see :class:`~cryorefine.restore.user_command.UserCommand`.
    """
    out: list[Restoration] = []
    if settings.post_symmetry is not None and masks.post_symmetry_mask is not None:
        group = parse_symmetry(settings.post_symmetry)
        if settings.post_symmetry_angles_deg:
            angles = [math.radians(angle) for angle in settings.post_symmetry_angles_deg]
            # RELION's matrix takes the map to where its axes lie as usual.
            turn = matrix_from_euler(torch.tensor(angles, dtype=torch.float64)).T
            group = oriented(group, turn)
        out.append(SymmetriseWithin(group, masks.post_symmetry_mask))
    if settings.post_command is not None:
        out.append(UserCommand(settings.post_command, command_shell, variables or {}))
    if settings.post_align_halves:
        out.append(AlignHalves(imposed))
    if settings.post_denoise:
        out.append(DenoiseReal())
    if settings.post_filter_bank:
        out.append(FilterBank())
    if settings.post_laplacian:
        out.append(Laplacian())
    if settings.post_deconvolve:
        out.append(Deconvolve())
    if settings.post_undershoot_sigmas is not None:
        out.append(AttenuateUndershoot(settings.post_undershoot_sigmas))
    if settings.post_difference:
        out.append(EvaluateDifference())
    if masks.post_mask is not None:
        out.append(AdHocMask(masks.post_mask))
    return out


def restore_run_halves(
    inputs: Inputs, halves: Halves, context: Context, iteration: int
) -> RestoredHalves:
    """Return a run's half maps after all that its settings ask for; mask and command included.

    Raises
    ------
    InputError
        If the command fails.
    """
    settings = inputs.settings
    with variables_of_run(inputs, settings.post_command or "", iteration) as variables:
        restorations = requested_restorations(
            settings,
            Masks(inputs.post_symmetry_mask, inputs.post_mask),
            inputs.group,
            command_shell=settings.command_shell,
            variables=variables,
        )
        return restore_halves(halves, restorations, context)


def process(
    inputs: Inputs, state: State, weighted: Float[Tensor, "z y x"], *, is_last: bool
) -> Processed | None:
    """Return what a run's settings make of its maps; None where they ask for nothing.

    Half maps are restored when a run ends. A mask and a command alone change the map of every
    iteration.

    Parameters
    ----------
    weighted
        The map as it is without: the average of the half maps, weighted by their FSC.

    Raises
    ------
    InputError
        If the command fails.
    """
    settings = inputs.settings
    if settings.restores_halves:
        return _restored(inputs, state) if is_last else None
    if inputs.post_mask is None and settings.post_command is None:
        return None
    if settings.post_command is not None:
        weighted = run_user_command(inputs, weighted, settings.post_command, 0, state.iteration)
    if inputs.post_mask is not None:
        weighted = weighted * inputs.post_mask
    return Processed(weighted)


def _restored(inputs: Inputs, state: State) -> Processed | None:
    if state.halves is None or state.mask is None or state.evaluation is None:
        return None
    halves = state.halves[0].to(inputs.device), state.halves[1].to(inputs.device)
    curves, mask = state.evaluation.curves, state.mask.to(inputs.device)
    context = Context(inputs.voxel_A, mask, curves)
    restored = restore_run_halves(inputs, halves, context, state.iteration)
    after = half_map_fsc(
        *restored.halves, voxel_A=inputs.voxel_A, mask=mask, seed=inputs.settings.seed
    )
    average = (restored.halves[0] + restored.halves[1]) / 2
    return Processed(weight_map(average, curves), restored, after)


def record_of(restored: RestoredHalves, raw: FscCurves, after: FscCurves) -> dict[str, Any]:
    """Return what was done, as JSON can hold it; resolutions are null where there is none."""

    def shown(value: float) -> float | None:
        return value if math.isfinite(value) else None

    return {
        "mixes_halves": restored.mixes_halves,
        "steps": [
            {
                "name": step.name,
                "title": step.title,
                "mixes_halves": step.mixes_halves,
                "facts": step.facts,
            }
            for step in restored.steps
        ],
        "resolution_of_raw_halves_A": shown(raw.resolution_A()),
        "fsc_0.143_of_processed_halves_A": shown(after.resolution_A()),
    }
