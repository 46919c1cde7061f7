"""The state before the first iteration: references from poses that were given."""

import dataclasses
import math

import torch
from jaxtyping import Float
from torch import Tensor

from cryorefine.assign.align import can_be_tilted
from cryorefine.engine.freed_memory import release_memory
from cryorefine.engine.protocol import Engine
from cryorefine.engine.threads import side_by_side
from cryorefine.errors import InputError
from cryorefine.evaluate.contrast import is_dark
from cryorefine.events import EventLog, StartResolutionMeasured
from cryorefine.fourier.filter import low_pass
from cryorefine.reconstruct.solve import solve
from cryorefine.refine.backprojection import reconstruct_halves, solve_halves
from cryorefine.refine.evaluation import evaluate_halves
from cryorefine.refine.particle_weights import require_weights
from cryorefine.refine.reference import next_reference, reference_ssnr
from cryorefine.state.earlier_values import earlier_weights
from cryorefine.state.state import Inputs, Poses, State

__all__ = ["reconstruct_start", "start_from_poses"]


def reconstruct_start(inputs: Inputs, state: State, events: EventLog, engine: Engine) -> State:
    """Make each half's first reference from the poses in the particle file.

    The noise is the power of the images. The references of a local run are as fine as both half
    maps agree, and so is its first comparison; those of a search, or where an initial low-pass
    was given, are low-passed as an initial map would be. Poses that are kept need neither.
    """
    settings = inputs.settings
    if state.poses is None:
        raise ValueError("the particle file has no poses")
    nyquist_A = inputs.geometry.nyquist_A
    seen = _known_and_seen(inputs, state.poses).double()
    weights = earlier_weights(inputs.table)
    if weights is not None:
        seen = seen * weights
        require_weights(inputs, seen)
    inserted = reconstruct_halves(
        inputs,
        state,
        dataclasses.replace(state.poses, scores=state.poses.scores.replace(weight=seen)),
        None,
        resolution_A=nyquist_A,
        events=events,
        engine=engine,
    )
    both, halves = inputs.working_memory.both_halves, solve_halves(inputs, inserted.sums)
    _, evaluation = evaluate_halves(inputs, halves, state.poses, limit_A=nyquist_A, seed=0)
    if all(is_dark(half, voxel_A=inputs.voxel_A) for half in halves):
        events.warn(
            f"{settings.particles}: with the given poses the particle is dark, and masks are made "
            f"for white ones: {settings.contrast_advice(of_file=inputs.table.is_inverted)}"
        )
    ssnr = reference_ssnr(evaluation.curves, evaluation.resolution_A)
    references = tuple(
        side_by_side(lambda total: solve(total, ssnr=ssnr), inserted.sums, at_once=both)
    )
    release_memory()
    start_A = math.nan
    if settings.starts_from_poses:
        start_A = evaluation.resolution_A
        if start_A >= settings.initial_lowpass_angstrom and not settings.reference:
            events.warn(
                f"{settings.particles}: the half maps of the given poses agree to less than "
                f"{settings.initial_lowpass_angstrom:g} Å, too little to refine them from: search "
                "with --alignment automatic and an initial map (--reference)"
            )
        references = tuple(
            next_reference(inputs, half, volume, ssnr, evaluation)[0]
            for half, volume in zip(halves, references, strict=True)
        )
        # Strict readers of the log know no infinity.
        known_A = start_A if math.isfinite(start_A) else None
        events.emit(StartResolutionMeasured(resolution_A=known_A))
    elif settings.alignment != "none":
        references = tuple(
            low_pass(
                volume,
                voxel_A=inputs.voxel_A,
                resolution_A=settings.initial_lowpass_angstrom,
            )
            for volume in references
        )
    references = (references[0].cpu(), references[1].cpu())
    return dataclasses.replace(
        state, references=references, noise=inserted.noise, is_scaled=True, start_A=start_A
    )


def _known_and_seen(inputs: Inputs, poses: Poses) -> Float[Tensor, "n"]:
    """Return 1 for given poses, 0 where there is none or where it is set aside for its tilt."""
    known = torch.from_numpy(~inputs.table.lacks_pose)
    if inputs.settings.alignment in ("local", "none"):
        known &= can_be_tilted(poses.rotations, inputs.group, inputs.tilt_range_rad)
    for half in (1, 2):
        if not known[torch.from_numpy(inputs.half == half)].any():
            raise InputError(
                f"no particle of half {half} has a pose that may be used",
                where=str(inputs.settings.particles),
                do="give poses, other half sets, or wider --min-tilt-deg and --max-tilt-deg",
            )
    return known.float()


def start_from_poses(inputs: Inputs, state: State, events: EventLog, engine: Engine) -> State:
    """Begin a local run where its poses are, unless the given reference shows more than they do.

    A reference that was low-passed would send poses that are known finely astray.
    """
    own = reconstruct_start(inputs, state, events, engine)
    lowpass_A = inputs.settings.initial_lowpass_angstrom
    shown = " and ".join(map(str, inputs.settings.reference))
    if own.start_A >= lowpass_A:
        events.warn(
            f"{inputs.settings.particles}: the half maps of the given poses agree to less than "
            f"{lowpass_A:g} Å, and the run begins from {shown}: search with --alignment automatic "
            "if the poses are not to be trusted"
        )
        return state
    events.warn(
        f"{shown}: the given poses support {own.start_A:.2f} Å, and the run begins from their own "
        "half maps instead: give --initial-lowpass-angstrom to begin from the reference"
    )
    return own
