"""The rotation from one setting of a point group's axes to another, such as from i2 to i1."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from cryorefine.errors import InputError
from cryorefine.geometry.rotation import geodesic_angle, matrix_from_rotvec
from cryorefine.geometry.symmetry import SymmetryGroup, parse_symmetry

__all__ = ["is_signed_permutation", "setting_rotation", "settings_of"]

_TO_FIVEFOLD_RAD = math.atan(2 / (1 + math.sqrt(5)))
"""From the 2-fold on z of i2 to the 5-fold nearest to it: the slope is 1 over the golden ratio."""

_EXACT = 1e-12
"""Entries of matrices this near to 0 and ±1 are: products of a few rotations in float64."""

_SAME = 1e-6
"""Entries of different elements of a group differ by more, those of one by rounding."""


def settings_of(group: SymmetryGroup) -> tuple[str, ...]:
    """Return the names of all settings of a group's axes, its own among them."""
    if group.name[0] == "i":
        return ("i1", "i2", "i3", "i4")
    if group.name[0] == "t":
        return ("t", "t222")
    if group.name[0] == "d":
        name = group.name.removesuffix("y")
        return (name, f"{name}y")
    return (group.name,)


def setting_rotation(from_name: str, to_name: str) -> Float[Tensor, "3 3"]:
    """Return the rotation that turns an object from one setting of its symmetry to another.

    Of the equivalent rotations one that takes axes to axes is returned where there is one, because
    maps are turned by it without interpolation; otherwise the smallest. Two placements that the
    group does not make equivalent remain for dihedral groups (they differ by half a step about z)
    and for the tetrahedron (a quarter of a turn): the 2-fold on y is the one that was on x, and
    the 3-fold on z the one that was on (1, 1, 1).

    Returns
    -------
    R, float64, active on object coordinates: ``R g Rᵀ`` are the elements of the second setting. A
    map becomes ``V(Rᵀ x)``, and a pose ``A Rᵀ``.

    Raises
    ------
    InputError
        For unknown names, and for names of two different groups.
    """
    source, target = parse_symmetry(from_name), parse_symmetry(to_name)
    if target.name not in settings_of(source):
        raise InputError(
            f"{source.name} and {target.name} are not the same group in two settings",
            where="--to",
            do=f"give one of {', '.join(settings_of(source))}",
        )
    apart = (source.matrices[:, None] - target.matrices).abs().amax((-1, -2)).amin(1)
    if float(apart.max()) < _SAME:
        return torch.eye(3, dtype=torch.float64)
    between = _from_first(target.name) @ _from_first(source.name).T
    rotations = _snapped(between @ source.matrices)
    angles = geodesic_angle(rotations, torch.eye(3).to(rotations).expand_as(rotations))
    interpolates = torch.tensor([not is_signed_permutation(r) for r in rotations])
    return rotations[int((angles + 10 * interpolates).argmin())]


def is_signed_permutation(rotation: Float[Tensor, "3 3"]) -> bool:
    """Tell whether a rotation takes coordinate axes to coordinate axes, and so voxels to voxels."""
    return float((rotation - rotation.round()).abs().max()) < _EXACT


def _from_first(name: str) -> Tensor:
    """Return the rotation from i2, t222 or dN to a setting of it."""
    quarter_about_z = matrix_from_rotvec(torch.tensor([0, 0, math.pi / 2], dtype=torch.float64))
    if name == "i1" or name.endswith("y"):
        return _snapped(quarter_about_z)
    if name in ("i3", "i4"):
        angle = _TO_FIVEFOLD_RAD if name == "i4" else -_TO_FIVEFOLD_RAD
        return matrix_from_rotvec(torch.tensor([0, angle, 0], dtype=torch.float64))
    if name == "t":
        # Rows are what becomes x, y and z: the 3-fold goes to z, the 2-fold on z towards y.
        threefold = torch.ones(3, dtype=torch.float64) / math.sqrt(3)
        y = torch.tensor([-1.0, -1.0, 2.0], dtype=torch.float64) / math.sqrt(6)
        return torch.stack([torch.linalg.cross(y, threefold), y, threefold])
    return torch.eye(3, dtype=torch.float64)


def _snapped(rotations: Tensor) -> Tensor:
    exact = rotations.round()
    return torch.where((rotations - exact).abs() < _EXACT, exact, rotations)
