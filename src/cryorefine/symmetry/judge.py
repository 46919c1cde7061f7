"""Whether a map shows a group: how well its axes agree, and how well other directions do."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from cryorefine.geometry.rotation import random_rotations
from cryorefine.geometry.symmetry import SymmetryGroup
from cryorefine.symmetry.group_axes import GroupAxis, group_axes
from cryorefine.symmetry.prepared import VOXELS_PER_DETAIL, Prepared
from cryorefine.symmetry.rings import agreement, frames, harmonics, make_rings
from cryorefine.symmetry.search import (
    AxisTable,
    Placement,
    axis_table,
    first_placement,
    fit_placement,
    noise_harmonics,
)

__all__ = ["NEEDED", "Candidate", "Judge", "judged", "make_judge"]

NEEDED = 0.7
"""Agreement of each kind of axis that supports a group, of what its noise lets a symmetric map
have. Simulated maps at 8 to 15 Å have 0.9 and more about their own axes, and less than 0.3 about
others (`tests/symmetry/test_find.py`)."""

_OF_THE_BEST = 0.85
"""Agreement of a kind of axis, of that of the kind that agrees best, below which it is said to be
less: two rings of which a third of the residues are others have about that, and so has noise."""

_WORTH_FITTING = 0.2
"""Agreement in the coarse table below which a group is not placed finely: a true one has twice that
half a step from its axes, whose smaller features are then blurred."""

_SIGMAS = 5.0
"""Standard deviations above directions that are no axes: of the thousand directions of a table the
best is at 3 to 4."""

_RANDOM_AXES = 24
"""Directions that are no axes, of which median and deviation are taken: to 15 %."""

_SCORED_AXES = 4  # of each kind: their mean varies less than their noise

_NEAR = 0.998  # cosine of 3.6°, a step of the coarse table


@dataclass(frozen=True, eq=False)
class Candidate:
    """A group, and what the map says of it.

    Attributes
    ----------
    name
        Of the group.
    agreement
        Of the kind of axis that agrees least with the map, 1 for a symmetric map whatever its
        noise; about 0 for none.
    is_supported
        Whether the map shows it.
    reason
        Why, or why not.
    placement
        Of a group that was placed finely, in ångströms from the box's origin; None otherwise.
    """

    name: str
    agreement: float
    is_supported: bool
    reason: str
    placement: Placement | None = None


@dataclass(frozen=True, eq=False)
class Judge:
    """What candidates are judged by.

    Attributes
    ----------
    table
        Of the coarse map.
    coarse, fine
        The map at two levels of detail.
    noise
        Power of noise in each harmonic of the fine map.
    background
        By fold, the agreement about directions that are no axes: its median and deviation.
    """

    table: AxisTable
    coarse: Prepared
    fine: Prepared
    noise: Tensor | None
    background: dict[int, tuple[float, float]]


def make_judge(coarse: Prepared, fine: Prepared, folds: list[int]) -> Judge:
    """Score all directions of the coarse map, and random ones of the fine one."""
    turns = random_rotations(_RANDOM_AXES, torch.Generator().manual_seed(0))
    power, noise = _power(fine, turns, torch.zeros(3)), noise_harmonics(fine)
    background = {}
    for fold in folds:
        # Median and deviation about it: a few directions may hit an axis.
        found = agreement(power, fold, noise)
        middle = found.median()
        background[fold] = float(middle), 1.48 * float((found - middle).abs().median())
    return Judge(axis_table(coarse, folds), coarse, fine, noise, background)


def judged(
    judge: Judge, group: SymmetryGroup, larger: tuple[SymmetryGroup, Placement] | None
) -> Candidate:
    """Return what a map says of a group.

    Parameters
    ----------
    larger
        A group that the map shows, and where: parts of it are not placed again.
    """
    start, at_start = first_placement(judge.table, group)
    if min(at_start) < _WORTH_FITTING:
        return Candidate(group.name, min(at_start), False, "no direction agrees at low resolution")
    if larger is not None and _is_part(group, start, *larger):
        return Candidate(group.name, 1.0, True, f"is part of {larger[0].name}")
    placed = fit_placement(judge.coarse, group, start)
    placed = replace(placed, shift=placed.shift * judge.coarse.voxel_A / judge.fine.voxel_A)
    placed = fit_placement(judge.fine, group, placed)
    return _verdict(judge, group, placed)


def _is_part(
    group: SymmetryGroup, start: Placement, larger: SymmetryGroup, placed: Placement
) -> bool:
    """Tell whether all axes of a placement are, about, axes of a larger group that was found."""
    if larger.order % group.order:
        return False
    return all(
        any(
            other.fold % axis.fold == 0
            and abs(float((placed.rotation @ other.direction) @ (start.rotation @ axis.direction)))
            > _NEAR
            for other in group_axes(larger)
        )
        for axis in group_axes(group)
    )


def _verdict(judge: Judge, group: SymmetryGroup, placed: Placement) -> Candidate:
    by_kind: dict[int, list[GroupAxis]] = {}
    for axis in group_axes(group):
        by_kind.setdefault(axis.kind, []).append(axis)
    found: list[tuple[float, int, bool]] = []
    for axes in by_kind.values():
        chosen = axes[:_SCORED_AXES]
        directions = torch.stack([placed.rotation @ axis.direction for axis in chosen])
        power = _power(judge.fine, frames(directions), placed.shift)
        fold = chosen[0].fold
        value = float(agreement(power, fold, judge.noise).mean())
        middle, deviation = judge.background[fold]
        found.append((value, fold, value > middle + _SIGMAS * deviation))
    (least, fold, _), (most, *_) = min(found), max(found)
    if least < NEEDED:
        reason = f"its {fold}-fold axes agree to {least:.2f}, {NEEDED:g} is needed"
    elif not all(is_beyond for *_, is_beyond in found):
        reason = "its axes agree no better than other directions may"
    elif least < _OF_THE_BEST * most:
        reason = f"its {fold}-fold axes agree to {least:.2f}, others to {most:.2f}: look at them"
        return Candidate(group.name, least, True, reason, placed)
    else:
        return Candidate(group.name, least, True, "all its axes agree", placed)
    return Candidate(group.name, least, False, reason, placed)


def _power(ready: Prepared, turns: Tensor, shift_px: Tensor) -> Tensor:
    rings = make_rings(ready.radius_A / ready.voxel_A, VOXELS_PER_DETAIL)
    return harmonics(ready.maps, rings, turns, shift_px)
