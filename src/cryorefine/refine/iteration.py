"""One iteration, as the steps of the method follow each other."""

import dataclasses
import math
from collections.abc import Callable

import torch

from cryorefine.engine.protocol import Engine
from cryorefine.engine.threads import release_memory, side_by_side
from cryorefine.events import EventLog
from cryorefine.expectation.assign_poses import (
    DECIDED,
    WORSE_THAN_RIGHT,
    assign_poses,
    is_unsearched,
)
from cryorefine.expectation.grey_scale import scale_references
from cryorefine.expectation.image_similarity import measure_image_similarity
from cryorefine.expectation.pose_uncertainty import calibrate_covariance
from cryorefine.kernels.grid import SliceGrid
from cryorefine.reconstruct.solve import solve
from cryorefine.refine.backprojection import reconstruct_halves
from cryorefine.refine.evaluation import evaluate_halves, measure_directions
from cryorefine.refine.own_noise_share import own_share
from cryorefine.refine.particle_weights import weigh_particles
from cryorefine.refine.reference import (
    next_reference,
    reference_grid,
    reference_ssnr,
    shaped_reference,
)
from cryorefine.refine.scores import measured
from cryorefine.refine.subset import (
    mixed_sums,
    plain_poses,
    rows_in_use,
    select_state,
    with_the_others,
)
from cryorefine.state.particle_batches import is_assigned
from cryorefine.state.plan import IterationPlan, IterationRecord, shown_share
from cryorefine.state.state import Evaluation, Inputs, Poses, State

__all__ = ["iterate"]

IsOver = Callable[[list[IterationRecord]], bool]


def iterate(
    inputs: Inputs,
    state: State,
    plan: IterationPlan,
    events: EventLog,
    engine: Engine,
    *,
    is_over: IsOver,
) -> State:
    """Make one iteration with the particles that it asks for; the others keep what they have.

    ``is_over`` tells from the history whether the run ends: what is only written for people to
    look at is measured then.
    """
    rows = rows_in_use(inputs, plan)
    if rows is None:
        before = None if state.poses is None else plain_poses(state.poses)
        after = _iterate(inputs, state, plan, events, engine, is_over)
        return dataclasses.replace(after, previous=before)
    part = select_state(state, rows)
    after = _iterate(inputs.select(rows), part, plan, events, engine, is_over)
    return with_the_others(after, state, rows, len(inputs.table))


def _iterate(
    inputs: Inputs,
    state: State,
    plan: IterationPlan,
    events: EventLog,
    engine: Engine,
    is_over: IsOver,
) -> State:
    """Assign poses, rebuild both half maps, measure them, and make the next references."""
    both = inputs.working_memory.both_halves

    def make_grid(half: int) -> SliceGrid:
        volume = shaped_reference(inputs, state, half)
        return reference_grid(inputs, volume, plan.align_resolution_A)

    first, second = side_by_side(make_grid, (1, 2), at_once=both)
    grids = first, second
    if not state.is_scaled:
        state, grids = scale_references(inputs, state, grids, plan, events, engine)
    found = assign_poses(inputs, state, grids, plan, events, engine)
    poses = weigh_particles(inputs, state, found.poses, plan)
    state = dataclasses.replace(state, group_scale=found.group_scale)
    release_memory()
    sums, noise = reconstruct_halves(
        inputs,
        state,
        poses,
        grids,
        model_resolution_A=plan.align_resolution_A,
        resolution_A=plan.reconstruct_resolution_A,
        weights=measured(poses.scores.weight).float(),
        events=events,
        engine=engine,
    )
    if plan.subset is not None:
        sums = mixed_sums(state.sums, sums, inputs.settings.stochastic_mixing)
    release_memory()
    first_half, second_half = side_by_side(solve, sums, at_once=both)
    halves = first_half, second_half
    mask, evaluation = evaluate_halves(
        inputs, halves, poses, limit_A=plan.reconstruct_resolution_A, seed=plan.iteration
    )
    ssnr = reference_ssnr(evaluation.curves, evaluation.resolution_A)
    made = side_by_side(
        lambda i: next_reference(inputs, halves[i], solve(sums[i], ssnr=ssnr), ssnr, evaluation),
        (0, 1),
        at_once=both,
    )
    references = tuple(volume for volume, _ in made)
    first_share, second_share = (
        own_share(inputs, state, poses, half, kept, plan.reconstruct_resolution_A)
        for half, (_, kept) in enumerate(made, 1)
    )
    release_memory()
    record = _record(inputs, state, poses, plan, evaluation, found.missed_fraction)
    if is_over([*state.history, record]):
        # For people to look at: nothing that a further iteration needs.
        evaluation = measure_directions(inputs, halves, mask, evaluation, events)
        if plan.mode != "none":
            poses = calibrate_covariance(inputs, state, poses, grids, plan, events, engine)
        similarity = measure_image_similarity(
            inputs, state, poses, grids, plan.align_resolution_A, events, engine
        )
        poses = dataclasses.replace(poses, scores=poses.scores.replace(**similarity))
        sigma_deg = _median_sigma_deg(poses)
        record = dataclasses.replace(record, median_sigma_rotation_deg=sigma_deg)
    return State(
        iteration=plan.iteration,
        poses=poses,
        references=(references[0].cpu(), references[1].cpu()),
        is_scaled=True,
        noise=noise,
        group_scale=state.group_scale,
        halves=(halves[0].cpu(), halves[1].cpu()),
        mask=mask.cpu(),
        evaluation=evaluation,
        history=[*state.history, record],
        previous=state.previous,
        sums=None if plan.subset is None else sums,
        # A stochastic run's references hold mixtures of subsets.
        own_share=(first_share, second_share) if plan.subset is None else None,
        start_A=state.start_A,
    )


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
        median_sigma_rotation_deg=_median_sigma_deg(poses),
        share=plan.share,
        missed_fraction=missed_fraction,
        undecided_fraction=float(undecided.double().mean()) if len(undecided) else 0.0,
        unsearched_fraction=float(is_unsearched(poses, plan.align_resolution_A).mean()),
    )


def _median_sigma_deg(poses: Poses) -> float:
    return float(measured(poses.scores.sigma_rotation_deg).median())
