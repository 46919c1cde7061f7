"""Sums of the particles whose poses are known, for random subsets to be mixed into."""

import dataclasses

import torch

from cryorefine.assign.align import can_be_tilted
from cryorefine.engine.protocol import Engine
from cryorefine.events import EventLog
from cryorefine.reconstruct.solve import FoldedSums
from cryorefine.refine.backprojection import reconstruct_halves
from cryorefine.refine.particle_weights import reconstructed_tilts_rad
from cryorefine.state.plan import IterationPlan
from cryorefine.state.scores import measured
from cryorefine.state.state import Inputs, State

__all__ = ["with_earlier_sums"]


def with_earlier_sums(
    inputs: Inputs, state: State, plan: IterationPlan, events: EventLog, engine: Engine
) -> State:
    """Return a state whose sums hold the map that a run has reached.

    A run that goes on with random subsets has none where the iterations before used all particles,
    or images that now take no part: they are made once of all that do, at their poses and with
    their weights, and count as much as the images of one subset. ``inputs`` and ``state`` are those
    of all particles. Before the first iteration the state is returned as it is.
    """
    poses = state.poses
    if plan.subset is None or state.sums is not None or state.halves is None or poses is None:
        return state
    tilts = reconstructed_tilts_rad(inputs.settings)  # others than before, maybe
    may_count = can_be_tilted(poses.rotations, inputs.group, tilts)
    weight = measured(poses.scores.weight).nan_to_num(0.0) * may_count
    known = dataclasses.replace(poses, scores=poses.scores.replace(weight=weight))
    made = reconstruct_halves(
        inputs, state, known, None, resolution_A=plan.reconstruct_resolution_A, events=events,
        engine=engine,
    )  # fmt: skip
    first, second = (
        _counting_as(sums, plan.subset, float(weight[torch.from_numpy(inputs.half == half)].sum()))
        for half, sums in enumerate(made.sums, 1)
    )
    marked = poses.scores.replace(is_in_maps=(weight > 0).double())
    poses = dataclasses.replace(poses, scores=marked)
    return dataclasses.replace(state, poses=poses, sums=(first, second))


def _counting_as(sums: FoldedSums, subset: int, total: float) -> FoldedSums:
    """Scale sums of a total weight to that of a subset; it has the mean weight 1."""
    factor = min(1.0, subset / max(total, 1.0))
    return dataclasses.replace(sums, values=sums.values * factor, weights=sums.weights * factor)
