"""One iteration, as the steps of the method follow each other."""

import math
from dataclasses import dataclass, replace

import torch

from cryorefine.engine.protocol import Engine
from cryorefine.events import EventLog
from cryorefine.expectation.assign_poses import (
    DECIDED,
    WORSE_THAN_RIGHT,
    assign_poses,
    is_unsearched,
)
from cryorefine.expectation.grey_scale import scale_references
from cryorefine.filaments.direction import with_one_direction
from cryorefine.filaments.frame import in_one_frame
from cryorefine.filaments.imposition import with_helix
from cryorefine.filaments.poses import with_poses_beside
from cryorefine.kernels.grid import SliceGrid
from cryorefine.refine.backprojection import ResidualModel, reconstruct_halves, solve_halves
from cryorefine.refine.evaluation import evaluate_halves
from cryorefine.refine.finite import require_finite_poses
from cryorefine.refine.particle_weights import weigh_particles
from cryorefine.refine.processed_halves import processed_halves
from cryorefine.refine.reference import (
    PreparedReferences,
    next_references,
    prepare_references,
)
from cryorefine.refine.subset import mixed_sums
from cryorefine.state.particle_batches import is_assigned
from cryorefine.state.plan import IterationPlan, IterationRecord, shown_share
from cryorefine.state.scores import measured
from cryorefine.state.state import Evaluation, Inputs, Poses, State

__all__ = ["Iteration", "iterate"]


@dataclass(frozen=True, eq=False)
class Iteration:
    """An iteration that was made.

    Attributes
    ----------
    inputs, plan
        What it worked on, and how.
    before
        The state that it began with, its references on the images' grey scale.
    references
        What images were compared with, by half.
    after
        The state that it ended with.
    n_aligned
        Particles that were compared with the references for their pose.
    """

    inputs: Inputs
    plan: IterationPlan
    before: State
    references: tuple[SliceGrid, SliceGrid]
    after: State
    n_aligned: int


def iterate(
    inputs: Inputs, state: State, plan: IterationPlan, events: EventLog, engine: Engine
) -> Iteration:
    """Assign poses, rebuild both half maps, measure them, and make the next references.

    Raises
    ------
    InputError
        If images have changed since they were screened, or anything is no number any more.
    """
    references = prepare_references(inputs, state, plan)
    if not state.is_scaled:
        state, references = _scaled(inputs, state, references, plan, events, engine)
    found = assign_poses(inputs, state, references.grids, plan, events, engine)
    require_finite_poses(inputs, found.poses)
    poses = found.poses if plan.mode == "none" else with_one_direction(inputs, found.poses)
    beside = with_poses_beside(inputs, state, poses)
    poses = weigh_particles(inputs, beside, poses, plan)
    state = replace(state, group_scale=found.group_scale)
    inserted = reconstruct_halves(
        inputs, state, poses, ResidualModel(references.grids, plan.align_resolution_A),
        resolution_A=plan.reconstruct_resolution_A, events=events, engine=engine,
    )  # fmt: skip
    sums, data_per_shell = inserted.sums, inserted.data_per_shell
    if plan.subset is not None:
        sums = mixed_sums(state.sums, sums, inputs.settings.stochastic_mixing)
        data_per_shell = None
    solved = solve_halves(inputs, sums)
    solved, poses = in_one_frame(inputs, state, solved, poses, plan)
    halves, helix = with_helix(inputs, state.history, solved, events)
    limit_A = plan.reconstruct_resolution_A
    mask, evaluation = evaluate_halves(inputs, halves, poses, limit_A=limit_A, seed=plan.iteration)
    processed = halves  # of helices: their sums have none
    if helix is None:
        processed = processed_halves(inputs, halves, mask, evaluation, plan.iteration)
    following, own_share = next_references(
        inputs, poses, halves, sums, evaluation, data_per_shell, processed
    )
    record = _record(inputs, beside, poses, plan, evaluation, found.missed_fraction)
    record = replace(record, helix=helix)
    after = replace(
        state, iteration=plan.iteration, poses=poses, references=following, noise=inserted.noise,
        halves=(halves[0].cpu(), halves[1].cpu()), mask=mask.cpu(), evaluation=evaluation,
        history=[*state.history, record], own_share=own_share,
        sums=None if plan.subset is None else sums, used_references=references.volumes,
        unsymmetrised=None if helix is None else (solved[0].cpu(), solved[1].cpu()),
    )  # fmt: skip
    return Iteration(inputs, plan, state, references.grids, after, found.n_aligned)


def _scaled(
    inputs: Inputs,
    state: State,
    references: PreparedReferences,
    plan: IterationPlan,
    events: EventLog,
    engine: Engine,
) -> tuple[State, PreparedReferences]:
    """Return a state and what images are compared with on the images' grey scale."""
    scaled = scale_references(inputs, state, references.grids, plan, events, engine)
    return scaled.state, references.scaled(scaled.grids, scaled.factors)


def _record(
    inputs: Inputs,
    state: State,
    poses: Poses,
    plan: IterationPlan,
    evaluation: Evaluation,
    missed_fraction: float,
) -> IterationRecord:
    """Return what the iteration showed, as the schedule needs it."""
    turn = jumped = jumped_at_least = math.nan
    n_effective = measured(poses.scores.n_effective)
    fits = measured(poses.scores.fit_z) > WORSE_THAN_RIGHT
    undecided = (n_effective >= DECIDED)[fits]
    if state.poses is not None:
        angle = inputs.group.distance(poses.rotations, state.poses.rotations)
        # The first iteration is compared with the file's poses.
        known = is_assigned(state, len(angle)) if state.history else ~inputs.table.lacks_pose
        if known.any():
            turn = float(torch.rad2deg(angle[torch.from_numpy(known)].median()))
        searched = plan.is_searched(len(angle)) & known
        # Those that were not searched could not jump; where nobody was, all are counted. Images
        # that fit nothing, or several poses alike, jump for ever and say nothing of the run.
        counted = torch.from_numpy(searched if searched.any() else known)
        counted &= fits & (n_effective < DECIDED)
        far = 4 * torch.deg2rad(measured(poses.scores.sigma_rotation_deg))
        far = far.clamp_min(plan.align_resolution_A / inputs.geometry.radius_A)
        n_counted, n_jumped = int(counted.sum()), int((angle > far)[counted].sum())
        jumped, jumped_at_least = n_jumped / max(n_counted, 1), shown_share(n_jumped, n_counted)
    return IterationRecord(
        iteration=plan.iteration,
        mode=plan.mode,
        resolution_A=evaluation.resolution_A,
        align_resolution_A=plan.align_resolution_A,
        reconstruct_resolution_A=plan.reconstruct_resolution_A,
        median_turn_deg=turn,
        jumped_fraction=jumped,
        jumped_at_least=jumped_at_least,
        mean_fsc=float(evaluation.curves.corrected.mean()),
        median_sigma_rotation_deg=float(measured(poses.scores.sigma_rotation_deg).median()),
        share=plan.share,
        missed_fraction=missed_fraction,
        undecided_fraction=float(undecided.double().mean()) if len(undecided) else 0.0,
        unsearched_fraction=float(is_unsearched(poses, plan.align_resolution_A).mean()),
    )
