"""Iterations over a part of the particles: which ones, and what becomes of the others."""

import dataclasses

import numpy as np
import torch

from cryorefine.errors import InputError
from cryorefine.reconstruct.solve import FoldedSums
from cryorefine.state.plan import IterationPlan
from cryorefine.state.scores import ParticleScores
from cryorefine.state.state import Inputs, Poses, State, unknown_poses

__all__ = ["mixed_sums", "plain_poses", "rows_in_use", "select_state", "with_the_others"]


def rows_in_use(inputs: Inputs, plan: IterationPlan) -> np.ndarray | None:
    """Return which particles an iteration uses, ascending; None if it uses all."""
    if plan.subset is not None:
        return _drawn(inputs, plan.subset, plan.iteration)
    return plan.rows(len(inputs.table)) if plan.share < 1 else None


def _drawn(inputs: Inputs, subset: int, iteration: int) -> np.ndarray:
    """Draw particles of each half at random, ascending; all where there are not more."""
    generator = np.random.default_rng([inputs.settings.seed, iteration])
    rows = [generator.permutation(np.flatnonzero(inputs.half == half))[:subset] for half in (1, 2)]
    return np.sort(np.concatenate(rows))


def plain_poses(poses: Poses) -> Poses:
    """Return poses without what only the last iteration's are asked for."""
    return Poses(poses.rotations, poses.shift_A, ParticleScores(score=poses.scores.score))


def select_state(state: State, rows: np.ndarray) -> State:
    """Return a state with the poses of some particles only."""
    poses = None if state.poses is None else state.poses.select(rows)
    previous = None if state.previous is None else state.previous.select(rows)
    return dataclasses.replace(state, poses=poses, previous=previous)


def with_the_others(after: State, state: State, rows: np.ndarray, n: int) -> State:
    """Return the state after an iteration over some of n particles with the poses of all.

    Those that were not used keep what they had in ``state``, the one before.
    """
    if after.poses is None:
        raise AssertionError("an iteration always finds poses")
    before = None
    if state.poses is not None:
        poses = plain_poses(state.poses.select(rows))
        before = (state.previous or unknown_poses(n)).updated(rows, poses)
    return dataclasses.replace(
        after,
        poses=(state.poses or unknown_poses(n)).updated(rows, after.poses),
        previous=before,
    )


def mixed_sums(
    old: tuple[FoldedSums, FoldedSums] | None, new: tuple[FoldedSums, FoldedSums], share: float
) -> tuple[FoldedSums, FoldedSums]:
    """Return ``(1 - share) old + share new``, numerators and denominators alike; new at first.

    Every image then counts by what it says at each frequency, which a mean of maps would not do.

    Raises
    ------
    InputError
        If they are on different grids.
    """
    if old is None:
        return new
    for a, b in zip(old, new, strict=True):
        if (a.values.shape, a.centre, a.step) != (b.values.shape, b.centre, b.step):
            raise InputError(
                "the sums of the iterations before are on another grid than these",
                do="begin the run anew",
            )
    first, second = (
        dataclasses.replace(
            b,
            values=torch.lerp(a.values.to(b.values), b.values, share),
            weights=torch.lerp(a.weights.to(b.weights), b.weights, share),
            evenness=(1 - share) * a.evenness + share * b.evenness,
        )
        for a, b in zip(old, new, strict=True)
    )
    return first, second
