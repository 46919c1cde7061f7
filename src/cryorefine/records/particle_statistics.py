"""The numbers of a run's particles, for ``summary.json`` and ``statistics.json``."""

import dataclasses
import math
from typing import Any

import torch

from cryorefine.assign.align import can_be_tilted
from cryorefine.expectation.assign_poses import DECIDED
from cryorefine.records.particle_tables import without_pose
from cryorefine.refine.counting import counts_of, is_in_maps
from cryorefine.state.counts import ParticleCounts
from cryorefine.state.plan import IterationRecord
from cryorefine.state.scores import measured
from cryorefine.state.state import Inputs, Poses, State, unknown_poses

__all__ = ["counts_now", "particle_statistics", "summary_counts"]


def counts_now(inputs: Inputs, state: State) -> ParticleCounts:
    """Return the counts of the last iteration; before the first, of what was given."""
    known = state.history[-1].counts if state.history else None
    return counts_of(inputs, state.poses) if known is None else known


def summary_counts(inputs: Inputs, state: State) -> dict[str, Any]:
    """Return the counts of ``summary.json``: those of the last iteration, and of its poses."""
    counts = counts_now(inputs, state)
    return {
        "n_particles": counts.n_given,
        "n_used": counts.n_used,
        "n_rejected": counts.n_set_aside,
        "n_half1": int((inputs.half == 1).sum()),
        "n_half2": int((inputs.half == 2).sum()),
        "n_used_half1": counts.n_reconstructed[0],
        "n_used_half2": counts.n_reconstructed[1],
        "n_aligned": counts.n_aligned,
        "n_not_drawn": counts.n_not_drawn,
        "n_left_out": counts.n_left_out,
        "set_aside": counts.set_aside,
        "left_out": counts.left_out,
        **_pose_counts(inputs, state.poses),
        **_fit_counts(state.poses),
    }


def particle_statistics(inputs: Inputs, state: State) -> dict[str, Any]:
    """Return how many particles came in, were used and were not, and what they are like.

    Counts are those of ``summary.json``, with each iteration's in ``by_iteration``;
    ``effective_particles`` is the number of equal weights that say as much as those in use.
    """
    poses = state.poses
    if poses is None:
        raise ValueError("there are no particles' numbers before the first iteration")
    counts = summary_counts(inputs, state)
    assigned = poses.is_assigned
    weight = measured(poses.scores.weight)[is_in_maps(poses)]
    means = {
        name: _number(float(values[assigned].nanmean()))
        for name, values in poses.scores.columns().items()
        if name not in ("gap", "defocus_group")
    }
    return {
        "n_input": counts["n_particles"],
        **counts,
        "n_without_weight": counts["n_left_out"],
        "rejected_because": counts["set_aside"],
        "half_sets": [counts["n_half1"], counts["n_half2"]],
        "by_iteration": [_by_iteration(record) for record in state.history],
        "mean_effective_poses": means.get("n_effective"),
        "effective_particles": _number(float(weight.sum() ** 2 / weight.square().sum()))
        if len(weight)
        else 0.0,
        "means": means,
    }


def _by_iteration(record: IterationRecord) -> dict[str, Any]:
    """Return an iteration's counts; runs of earlier versions kept none."""
    head = {"iteration": record.iteration, "mode": record.mode, "subset": record.subset}
    return head if record.counts is None else {**head, **dataclasses.asdict(record.counts)}


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _pose_counts(inputs: Inputs, poses: Poses | None) -> dict[str, int]:
    """Return of how many particles there is no pose, only the file's, one at or outside a limit."""
    n = len(inputs.table)
    poses = unknown_poses(n) if poses is None else poses
    lacks, assigned = without_pose(inputs, poses), poses.is_assigned
    at_limit = poses.scores.at_tilt_limit
    at_limit = torch.zeros(n, dtype=torch.bool) if at_limit is None else at_limit == 1
    outside = assigned & ~can_be_tilted(poses.rotations, inputs.group, inputs.tilt_range_rad)
    return {
        "n_without_pose": int(lacks.sum()),
        "n_pose_of_file": int((~assigned.numpy() & ~lacks).sum()),
        "n_at_tilt_limit": int((at_limit & ~outside).sum()),
        "n_outside_tilts": int(outside.sum()),
    }


def _fit_counts(poses: Poses | None) -> dict[str, int]:
    """Return how many particles fit nothing, and how many fit several poses alike."""
    if poses is None or poses.scores.fits_nothing is None:
        return {"n_fit_nothing": 0, "n_undecided": 0}
    fits_nothing = poses.scores.fits_nothing == 1
    undecided = (measured(poses.scores.n_effective) >= DECIDED) & ~fits_nothing
    return {"n_fit_nothing": int(fits_nothing.sum()), "n_undecided": int(undecided.sum())}
