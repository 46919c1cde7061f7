"""The rotation axes of a point group: where they point, how many-fold, and which are alike."""

import math
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from cryorefine.geometry.rotation import rotvec_from_matrix
from cryorefine.geometry.symmetry import SymmetryGroup

__all__ = ["GroupAxis", "group_axes"]

_SAME = 1e-6  # entries of directions and matrices of different elements differ by more


@dataclass(frozen=True, eq=False)
class GroupAxis:
    """One of a group's axes.

    Attributes
    ----------
    fold
        Of the highest order about this direction.
    direction
        Unit vector (x, y, z).
    kind
        Number from 0 of the class: axes of one class are taken to each other by the group, those of
        two are not, and a map can have one without the other.
    """

    fold: int
    direction: Float[Tensor, "3"]
    kind: int


def group_axes(group: SymmetryGroup) -> list[GroupAxis]:
    """Return all axes of a group, those of the highest order first."""
    vectors = rotvec_from_matrix(group.matrices[1:])
    angles = vectors.norm(dim=1)
    found: list[tuple[int, Tensor]] = []
    for direction, angle in zip(vectors / angles[:, None], angles.tolist(), strict=True):
        fold = round(2 * math.pi / angle)
        if abs(fold * angle - 2 * math.pi) > _SAME:
            continue  # several steps of an axis that another element is one step of
        at = [i for i, (_, d) in enumerate(found) if abs(float(d @ direction)) > 1 - _SAME]
        if not at:
            found.append((fold, direction))
        elif found[at[0]][0] < fold:
            found[at[0]] = (fold, found[at[0]][1])
    found.sort(key=lambda axis: -axis[0])
    kinds: list[Tensor] = []
    axes = []
    for fold, direction in found:
        copies = group.matrices @ direction
        kind = next(
            (i for i, d in enumerate(kinds) if float((copies @ d).abs().max()) > 1 - _SAME),
            len(kinds),
        )
        if kind == len(kinds):
            kinds.append(direction)
        axes.append(GroupAxis(fold, direction, kind))
    return axes
