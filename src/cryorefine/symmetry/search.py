"""Where the axes of a point group lie in a map, if it has them: a coarse search, then a fit."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from scipy.optimize import minimize
from torch import Tensor

from cryorefine.geometry.rotation import matrix_from_rotvec, random_rotations
from cryorefine.geometry.sphere import direction_grid
from cryorefine.geometry.symmetry import SymmetryGroup
from cryorefine.symmetry.group_axes import GroupAxis, group_axes
from cryorefine.symmetry.prepared import VOXELS_PER_DETAIL, Prepared
from cryorefine.symmetry.rings import frames, harmonics, make_rings, mean_agreement, sampled

__all__ = [
    "AxisTable",
    "Placement",
    "axis_table",
    "first_placement",
    "fit_placement",
    "noise_harmonics",
]

_STEP = 0.33
"""Step of the directions in details at the particle's surface. A map at half a step from an axis,
a sixth of a detail, still correlates to nearly 1 with its copy."""

_FIRST_AXES = 12
"""Directions that a group's main axis is tried on: the best lies within a step of the truth, and
lesser axes of a symmetric map (31 of an icosahedron, some of each kind) come before it at most."""

_PSI_STEP_RAD = math.radians(4.0)  # a step of the directions, about
_FIT_AXES = 6
"""Axes that a fit uses: six parameters are well determined by fewer."""

_POINTS_PER_DETAIL = 16.0
"""Places at which copies are compared in a fit, at random in the sphere, of each cube of a detail's
side: twice as many as there are independent values. With half of them an icosahedron's centre was
found to 0.31 Å, no longer within the 0.3 Å that tests hold."""

_NOISE_AXES = 16  # directions that noise is measured about: its power to a few percent
_FIT_ITERATIONS = 30  # a fit of six parameters from within a step converges in 10 to 20


@dataclass(frozen=True, eq=False)
class AxisTable:
    """How well a coarse map agrees with its copies about directions of half the sphere.

    Attributes
    ----------
    directions
        Unit vectors; a direction and its opposite are one axis.
    scores
        By fold, from 2.
    """

    directions: Float[Tensor, "n 3"]
    scores: dict[int, Float[Tensor, "n"]]

    def at(self, directions: Float[Tensor, "*b 3"], fold: int) -> Float[Tensor, "*b"]:
        """Return the score of the nearest direction in the table."""
        nearest = (directions.to(self.directions) @ self.directions.T).abs().argmax(-1)
        return self.scores[fold][nearest]


@dataclass(frozen=True, eq=False)
class Placement:
    """How a group lies in a map.

    Attributes
    ----------
    rotation
        Takes the group's conventional axes to those in the map.
    shift
        Where the axes meet, (x, y, z) from the origin, in voxels of the map that it was found in.
    score
        Mean correlation of the map with its copies about the axes.
    """

    rotation: Float[Tensor, "3 3"]
    shift: Float[Tensor, "3"]
    score: float


def axis_table(coarse: Prepared, folds: list[int]) -> AxisTable:
    """Score all directions for all folds at once."""
    rings = make_rings(coarse.radius_A / coarse.voxel_A, VOXELS_PER_DETAIL)
    detail_A = coarse.voxel_A * VOXELS_PER_DETAIL
    grid = direction_grid(_STEP * detail_A / coarse.radius_A)
    directions = grid[grid[:, 2] >= -1e-9]
    power = harmonics(coarse.maps, rings, frames(directions))
    noise = noise_harmonics(coarse)
    scores = {n: mean_agreement(power, n, noise).double() for n in folds}
    return AxisTable(directions, scores)


def noise_harmonics(ready: Prepared) -> Float[Tensor, "h"] | None:
    """Return the power that noise alone has in each harmonic, on the average over directions."""
    if ready.noise is None:
        return None
    rings = make_rings(ready.radius_A / ready.voxel_A, VOXELS_PER_DETAIL)
    turns = random_rotations(_NOISE_AXES, torch.Generator().manual_seed(1))
    return harmonics((ready.noise,), rings, turns).mean(0)


def first_placement(table: AxisTable, group: SymmetryGroup) -> tuple[Placement, list[float]]:
    """Return a group's best placement by the table, and the mean score of each kind of axis."""
    axes = group_axes(group)
    main = axes[0]
    starts = _apart(table, table.scores[main.fold], _FIRST_AXES)
    home = frames(main.direction[None])[0]
    n_psi = 1 if len(axes) == 1 else math.ceil(2 * math.pi / main.fold / _PSI_STEP_RAD)
    about = torch.zeros(n_psi, 3, dtype=torch.float64)
    about[:, 2] = torch.arange(n_psi) * (2 * math.pi / main.fold / n_psi)
    turns = frames(table.directions[starts])[:, None] @ matrix_from_rotvec(about) @ home.T
    turns = turns.flatten(0, 1)
    scores = torch.stack([table.at(turns @ axis.direction, axis.fold) for axis in axes])
    best = int(scores.mean(0).argmax())
    kinds = torch.tensor([axis.kind for axis in axes])
    by_kind = [float(scores[kinds == k, best].mean()) for k in range(int(kinds.max()) + 1)]
    nowhere = torch.zeros(3, dtype=torch.float64)
    return Placement(turns[best], nowhere, float(scores[:, best].mean())), by_kind


def _apart(table: AxisTable, score: Tensor, most: int) -> list[int]:
    """Return the best directions that are three steps and more from each other."""
    nearest = (table.directions @ table.directions.T).abs().fill_diagonal_(0).amax(1).median()
    closest = math.cos(min(3 * math.acos(min(float(nearest), 1.0)), math.pi / 4))
    chosen: list[int] = []
    left = score.clone()
    for _ in range(most):
        i = int(left.argmax())
        if not math.isfinite(float(left[i])):
            break
        chosen.append(i)
        left[(table.directions @ table.directions[i]).abs() > closest] = -math.inf
    return chosen


def fit_placement(ready: Prepared, group: SymmetryGroup, start: Placement) -> Placement:
    """Turn and shift the axes to where copies about them correlate best with the map.

    Rotation vector and shift are fitted together, by L-BFGS on the mean correlation of one step
    about each of a few axes. What a cyclic group leaves free (rotation about and shift along its
    axis) stays at its start.
    """
    steps = torch.stack([_step(axis) for axis in _spread(group_axes(group))])
    radius_px = ready.radius_A / ready.voxel_A
    generator = torch.Generator().manual_seed(0)
    n_points = int(_POINTS_PER_DETAIL * (2 * radius_px / VOXELS_PER_DETAIL) ** 3)
    points = torch.rand(n_points, 3, generator=generator) * 2 - 1
    points = points[points.norm(dim=1) < 1] * radius_px
    volume = ready.mean
    # What is free of rotation and shift: all, or what is across the axis.
    across = torch.eye(3, dtype=torch.float64)
    if len(group_axes(group)) == 1:
        along = start.rotation[:, 2]
        across = across - along[:, None] * along

    def moved(values: Tensor) -> tuple[Tensor, Tensor]:
        # Both in voxels: a rotation by as much at the particle's surface.
        x, y, z = (across @ values[:3] / radius_px).unbind()
        zero = torch.zeros_like(x)
        skew = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero]).view(3, 3)
        rotation = torch.linalg.matrix_exp(skew) @ start.rotation
        return rotation, start.shift + across @ values[3:]

    def cost(values: np.ndarray) -> tuple[float, np.ndarray]:
        p = torch.tensor(values, requires_grad=True)
        rotation, origin = moved(p)
        operators = (rotation @ steps @ rotation.T).float()
        here = sampled(volume, points + origin.float())
        copies = sampled(volume, points @ operators.mT + origin.float())
        norm = (here.square().sum() * copies.square().sum(1)).sqrt().clamp_min(1e-30)
        result = -((here * copies).sum(1) / norm).mean()
        (gradient,) = torch.autograd.grad(result, p)
        return float(result.detach()), gradient.numpy()

    found: Any = minimize(
        cost, np.zeros(6), jac=True, method="L-BFGS-B", options={"maxiter": _FIT_ITERATIONS}
    )
    rotation, origin = moved(torch.from_numpy(found.x))
    return Placement(rotation, origin, -float(found.fun))


def _step(axis: GroupAxis) -> Tensor:
    return matrix_from_rotvec(axis.direction * (2 * math.pi / axis.fold))


def _spread(axes: list[GroupAxis]) -> list[GroupAxis]:
    """Return up to so many axes, of all kinds in turn."""
    by_kind: dict[int, list[GroupAxis]] = {}
    for axis in axes:
        by_kind.setdefault(axis.kind, []).append(axis)
    chosen: list[GroupAxis] = []
    for rank in range(max(len(kind) for kind in by_kind.values())):
        chosen += [kind[rank] for kind in by_kind.values() if rank < len(kind)]
    return chosen[:_FIT_AXES]
