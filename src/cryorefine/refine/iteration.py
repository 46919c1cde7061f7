"""One iteration, as the steps of the method follow each other."""

from dataclasses import dataclass, replace

from cryorefine.engine.protocol import Engine
from cryorefine.events import EventLog
from cryorefine.expectation.assign_poses import assign_poses
from cryorefine.expectation.grey_scale import scale_references
from cryorefine.expectation.iteration_record import iteration_record
from cryorefine.filaments.direction import with_one_direction
from cryorefine.filaments.frame import in_one_frame
from cryorefine.filaments.imposition import with_helix
from cryorefine.filaments.poses import with_poses_beside
from cryorefine.kernels.grid import SliceGrid
from cryorefine.refine.backprojection import (
    HalvesInserted,
    ResidualModel,
    reconstruct_halves,
    solve_halves,
)
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
from cryorefine.state.plan import IterationPlan
from cryorefine.state.state import Inputs, Poses, State

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
    state, references = _references(inputs, state, plan, events, engine)
    found = assign_poses(inputs, state, references.grids, plan, events, engine)
    given, poses = _weighed(inputs, state, found.poses, plan)
    state = replace(state, group_scale=found.group_scale)
    inserted = _backprojected(inputs, state, poses, references, plan, events, engine)
    solved, poses = in_one_frame(inputs, state, solve_halves(inputs, inserted.sums), poses, plan)
    halves, helix = with_helix(inputs, state.history, solved, events)
    limit_A, seed = plan.reconstruct_resolution_A, plan.iteration
    mask, evaluation = evaluate_halves(inputs, halves, poses, limit_A=limit_A, seed=seed)
    processed = processed_halves(inputs, halves, mask, evaluation, helix, plan.iteration)
    following, own = next_references(inputs, poses, halves, inserted, evaluation, processed)
    record = iteration_record(inputs, given, poses, plan, evaluation, found.missed_fraction, helix)
    after = replace(
        state, iteration=plan.iteration, poses=poses, references=following, noise=inserted.noise,
        halves=(halves[0].cpu(), halves[1].cpu()), mask=mask.cpu(), evaluation=evaluation,
        history=[*state.history, record], own_share=own, used_references=references.volumes,
        sums=None if plan.subset is None else inserted.sums,
        unsymmetrised=None if helix is None else (solved[0].cpu(), solved[1].cpu()),
    )  # fmt: skip
    return Iteration(inputs, plan, state, references.grids, after, found.n_aligned)


def _references(
    inputs: Inputs, state: State, plan: IterationPlan, events: EventLog, engine: Engine
) -> tuple[State, PreparedReferences]:
    """Return what images are compared with, and the state, both on the images' grey scale."""
    prepared = prepare_references(inputs, state, plan)
    if state.is_scaled:
        return state, prepared
    scaled = scale_references(inputs, state, prepared.grids, plan, events, engine)
    return scaled.state, prepared.scaled(scaled.grids, scaled.factors)


def _weighed(
    inputs: Inputs, state: State, found: Poses, plan: IterationPlan
) -> tuple[State, Poses]:
    """Return found poses with their weights, and the state with the poses that they changed from.

    Of a helix those are, of all that are alike by it, the nearest.
    """
    require_finite_poses(inputs, found)
    poses = found if plan.mode == "none" else with_one_direction(inputs, found)
    given = with_poses_beside(inputs, state, poses)
    return given, weigh_particles(inputs, given, poses, plan)


def _backprojected(
    inputs: Inputs,
    state: State,
    poses: Poses,
    references: PreparedReferences,
    plan: IterationPlan,
    events: EventLog,
    engine: Engine,
) -> HalvesInserted:
    """Return the sums of all images; of a random subset, mixed with those of the ones before."""
    inserted = reconstruct_halves(
        inputs, state, poses, ResidualModel(references.grids, plan.align_resolution_A),
        resolution_A=plan.reconstruct_resolution_A, events=events, engine=engine,
    )  # fmt: skip
    if plan.subset is None:
        return inserted
    sums = mixed_sums(state.sums, inserted.sums, inputs.settings.stochastic_mixing)
    return replace(inserted, sums=sums, data_per_shell=None)
