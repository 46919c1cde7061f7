"""Count the particles of an iteration, and mark those whose images are in its half maps."""

from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from cryorefine.assign.align import can_be_tilted
from cryorefine.refine.particle_weights import reconstructed_tilts_rad
from cryorefine.state.counts import ParticleCounts, counted_reasons
from cryorefine.state.plan import IterationPlan
from cryorefine.state.scores import measured
from cryorefine.state.state import Inputs, Poses, State

__all__ = ["counts_of", "is_in_maps", "with_counts"]

OUTSIDE_TILTS = "poses outside the tilt limits"
NOT_RECONSTRUCTED = "tilts that are not reconstructed"
NO_WEIGHT = "a weight of zero"


def with_counts(
    inputs: Inputs,
    before: State,
    after: State,
    plan: IterationPlan,
    rows: np.ndarray | None,
    n_aligned: int,
) -> State:
    """Return the state after an iteration with its counts in the last record of the history.

    Parameters
    ----------
    inputs
        Of all particles.
    before, after
        The states around it, with the poses of all particles.
    rows
        The particles that it used; None: all.
    n_aligned
        Of them, those that were compared with a reference.
    """
    if after.poses is None:
        raise ValueError("an iteration always finds poses")
    n = len(inputs.table)
    used = torch.ones(n, dtype=torch.bool)
    if rows is not None:
        used = torch.zeros(n, dtype=torch.bool).index_fill(0, torch.from_numpy(rows), True)
    in_maps = used & (measured(after.poses.scores.weight) > 0)  # NaN is not
    keeps_old = inputs.settings.stochastic_mixing < 1 and before.sums is not None
    is_mixed = plan.subset is not None and keeps_old
    if is_mixed and before.poses is not None:
        in_maps |= is_in_maps(before.poses)
    poses = replace(after.poses, scores=after.poses.scores.replace(is_in_maps=in_maps.double()))
    counts = counts_of(inputs, poses, used=used, n_aligned=n_aligned)
    record = replace(after.history[-1], subset=plan.subset, counts=counts)
    return replace(after, poses=poses, history=[*after.history[:-1], record])


def is_in_maps(poses: Poses | None) -> Bool[Tensor, "n"]:
    """Tell whose images are in the half maps.

    Runs of earlier versions did not mark them: there it is who has a weight.
    """
    if poses is None:
        return torch.zeros(0, dtype=torch.bool)
    scores = poses.scores
    if scores.is_in_maps is not None:
        return scores.is_in_maps == 1
    if scores.weight is not None:
        return scores.weight > 0
    return torch.zeros(len(poses.rotations), dtype=torch.bool)


def counts_of(
    inputs: Inputs,
    poses: Poses | None,
    *,
    used: Bool[Tensor, "n"] | None = None,
    n_aligned: int = 0,
) -> ParticleCounts:
    """Return the counts of all particles.

    Parameters
    ----------
    used
        Those that the iteration looked at; None: those that have a pose of this run.
    n_aligned
        As in :class:`~cryorefine.state.counts.ParticleCounts`.
    """
    n = len(inputs.table)
    in_maps = torch.zeros(n, dtype=torch.bool) if poses is None else is_in_maps(poses)
    left_out, n_not_drawn = {}, n - int(in_maps.sum())
    if poses is not None:
        seen = poses.is_assigned if used is None else used
        left_out = _left_out(inputs, poses, poses.is_assigned & seen & ~in_maps)
        n_not_drawn -= sum(left_out.values())
    half = torch.from_numpy(inputs.half)
    return ParticleCounts(
        n_given=n + len(inputs.rejected),
        set_aside=counted_reasons(inputs.rejected_reasons),
        n_not_drawn=n_not_drawn,
        n_aligned=n_aligned,
        left_out=left_out,
        n_reconstructed=(int(in_maps[half == 1].sum()), int(in_maps[half == 2].sum())),
    )


def _left_out(inputs: Inputs, poses: Poses, chosen: Bool[Tensor, "n"]) -> dict[str, int]:
    """Return why how many of the chosen particles are in no half map."""
    rows = torch.nonzero(chosen)[:, 0]
    if len(rows) == 0:
        return {}
    rotations = poses.rotations[rows]
    outside = ~can_be_tilted(rotations, inputs.group, inputs.tilt_range_rad)
    tilted = can_be_tilted(rotations, inputs.group, reconstructed_tilts_rad(inputs.settings))
    found = {
        OUTSIDE_TILTS: int(outside.sum()),
        NOT_RECONSTRUCTED: int((~outside & ~tilted).sum()),
        NO_WEIGHT: int((~outside & tilted).sum()),
    }
    return {why: number for why, number in found.items() if number}
