"""What an iteration showed of poses and maps, as the schedule needs it."""

import math

import torch

from cryorefine.expectation.assign_poses import DECIDED, WORSE_THAN_RIGHT, is_unsearched
from cryorefine.state.helix import HelixRecord
from cryorefine.state.particle_batches import is_assigned
from cryorefine.state.plan import IterationPlan, IterationRecord, shown_share
from cryorefine.state.scores import measured
from cryorefine.state.state import Evaluation, Inputs, Poses, State

__all__ = ["iteration_record"]


def iteration_record(
    inputs: Inputs,
    before: State,
    poses: Poses,
    plan: IterationPlan,
    evaluation: Evaluation,
    missed_fraction: float,
    helix: HelixRecord | None,
) -> IterationRecord:
    """Return what an iteration showed.

    Parameters
    ----------
    before
        The state with the poses that the iteration's are compared with.
    poses, evaluation, helix
        What it found.
    missed_fraction
        See :class:`~cryorefine.expectation.assign_poses.Assignment`.
    """
    turn = jumped = jumped_at_least = math.nan
    n_effective = measured(poses.scores.n_effective)
    fits = measured(poses.scores.fit_z) > WORSE_THAN_RIGHT
    undecided = (n_effective >= DECIDED)[fits]
    if before.poses is not None:
        angle = inputs.group.distance(poses.rotations, before.poses.rotations)
        # The first iteration is compared with the file's poses.
        known = is_assigned(before, len(angle)) if before.history else ~inputs.table.lacks_pose
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
        helix=helix,
    )
