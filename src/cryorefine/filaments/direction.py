"""One direction along each filament: its segments decide together which one it is."""

from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from cryorefine.geometry.segments import axis_in_image
from cryorefine.particles.half_sets import filaments
from cryorefine.state.scores import measured
from cryorefine.state.state import Inputs, OtherPoses, Poses

__all__ = ["with_one_direction"]

_UNTOLD = 0.02
"""Most that poses of a direction may share of which none is told: less likely ones are left out by
the search (``assign.align``)."""


def with_one_direction(inputs: Inputs, poses: Poses) -> Poses:
    """Return poses whose probabilities know of the other segments of their filament and half.

    A filament has one direction. A single segment may hardly show which, as long as the map has
    none itself; what all say together is many times as sure. Poses of the direction that the others
    speak against lose their share, and where the best one does, a pose of the other direction takes
    its place. Segments that have none of that direction stay as they are. Without
    ``rlnHelicalTubeID``, and for dihedral helices, which have no direction, nothing changes.
    """
    settings, others = inputs.settings, poses.others
    tube = filaments(inputs.table) if settings.has_helix else None
    if tube is None or others is None or inputs.group.name.startswith("d"):
        return poses
    key = torch.from_numpy(np.unique(2 * tube + (inputs.half - 1), return_inverse=True)[1])
    sign, sign_of_others = _signs(poses, others, key)
    best = measured(poses.scores.probability).nan_to_num(1.0)
    share = torch.zeros(len(best), 2, dtype=torch.float64)  # along, against
    share[torch.arange(len(best)), sign] += best
    share.index_put_((others.row, sign_of_others), others.probability, accumulate=True)
    ratio = (share[:, 0].clamp_min(_UNTOLD) / share[:, 1].clamp_min(_UNTOLD)).log()
    total = torch.zeros(int(key.max()) + 1, dtype=torch.float64).index_add_(0, key, ratio)
    rest = total[key] - ratio
    # Of each direction, by what the others say: e^±rest/2, written so that none overflows.
    weight = torch.stack([torch.sigmoid(rest), torch.sigmoid(-rest)], 1)
    new_best = best * weight[torch.arange(len(best)), sign]
    new_others = others.probability * weight[others.row, sign_of_others]
    return _ranked(poses, others, new_best, new_others)


def _signs(
    poses: Poses, others: OtherPoses, key: Int[Tensor, "n"]
) -> tuple[Int[Tensor, "n"], Int[Tensor, "m"]]:
    """Return 0 for poses along their filament's line, 1 for those against it."""
    axis = axis_in_image(poses.rotations)
    angle = torch.atan2(axis[:, 1], axis[:, 0])
    # Directions that are opposite are one line: their doubled angles are the same.
    doubled = torch.polar(torch.ones_like(angle), 2 * angle)
    line = torch.zeros(int(key.max()) + 1, dtype=doubled.dtype).index_add_(0, key, doubled)
    along = line.angle()[key] / 2
    to = torch.stack([along.cos(), along.sin()], -1)
    axis_of_others = axis_in_image(others.rotations)
    against = (axis * to).sum(1) < 0
    return against.long(), ((axis_of_others * to[others.row]).sum(1) < 0).long()


def _ranked(
    poses: Poses, others: OtherPoses, best: Float[Tensor, "n"], rest: Float[Tensor, "m"]
) -> Poses:
    """Return poses with other shares, which they are divided by the sum of; the largest is best."""
    n = len(best)
    total = best.clone().index_add_(0, others.row, rest)
    best, rest = best / total, rest / total[others.row]
    largest = torch.zeros(n, dtype=torch.float64).scatter_reduce(0, others.row, rest, "amax")
    takes = (rest >= largest[others.row]) & (rest > best[others.row])
    # The first of equals.
    first = torch.full((n,), len(rest)).scatter_reduce(
        0, others.row[takes], torch.nonzero(takes)[:, 0], "amin"
    )
    rows = torch.nonzero(first < len(rest))[:, 0]
    at = first[rows]
    rotations, shift_A = poses.rotations.clone(), poses.shift_A.clone()
    rotations[rows], shift_A[rows] = others.rotations[at], others.shift_A[at]
    new_rotations, new_shift_A = others.rotations.clone(), others.shift_A.clone()
    new_rotations[at], new_shift_A[at] = poses.rotations[rows], poses.shift_A[rows]
    score = measured(poses.scores.score).clone()
    score[rows] += (others.probability[at] / measured(poses.scores.probability)[rows]).log()
    swapped, best = best.clone(), best.clone()
    swapped[rows] = rest[at]
    rest[at] = best[rows]
    rest = torch.where(rest >= _UNTOLD, rest, 0.0)
    total = swapped.clone().index_add_(0, others.row, rest)
    swapped, rest = swapped / total, rest / total[others.row]
    entropy = -swapped * swapped.clamp_min(1e-300).log()
    entropy = entropy.index_add(0, others.row, -rest * rest.clamp_min(1e-300).log())
    scores = poses.scores.replace(score=score, probability=swapped, n_effective=entropy.exp())
    kept = OtherPoses(others.row, new_rotations, new_shift_A, rest).at(rest > 0)
    return replace(
        poses,
        rotations=rotations,
        shift_A=shift_A,
        scores=scores,
        others=kept if len(kept.row) else None,
    )
