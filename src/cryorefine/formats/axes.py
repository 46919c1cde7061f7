"""Axes of point groups, where programs have others: what a group is called, and in which axes."""

from jaxtyping import Float
from torch import Tensor

from cryorefine.errors import InputError
from cryorefine.geometry.axis_settings import setting_rotation
from cryorefine.geometry.symmetry import parse_symmetry

__all__ = ["HAS_OTHER_AXES", "turn_between"]

HAS_OTHER_AXES = "cryosparc"
"""The format whose program puts the 2-folds of Dn and the axes of T elsewhere than RELION."""

_WITHOUT_AXES = ("cistem", "cryodrgn")
"""Formats of which no axes are known here, or whose program imposes no symmetry."""


def turn_between(
    name: str, source: str, target: str
) -> tuple[Float[Tensor, "3 3"], tuple[str, str]]:
    """Return the rotation of an object from the axes of one format's program to another's.

    Parameters
    ----------
    name
        Of the point group, as the source's program calls it: d7 means cryoSPARC's D7 in its files.
        Names of other axes, such as d7y in a STAR file, are taken as they are.
    source, target
        Names of the formats.

    Returns
    -------
    rotation, names
        Active on object coordinates, and the names of both settings as ``docs/symmetry.md`` has
        them.

    Raises
    ------
    InputError
        If the name is unknown, or the target has no axes that are known here.
    """
    group = parse_symmetry(name).name
    kind = group[0]
    if kind in "dti" and target in _WITHOUT_AXES:
        raise InputError(
            f"which axes {target} has for {group} is not known here",
            where="--symmetry",
            do="leave the option out; 'cryorefine symmetry convert' turns poses and maps",
        )
    from_name = _in_cryosparc(group) if source == HAS_OTHER_AXES else group
    if target == HAS_OTHER_AXES:
        to_name = "i1" if from_name in ("i3", "i4") else _in_cryosparc(from_name)
    else:
        to_name = {"t222": "t"}.get(from_name, from_name.removesuffix("y"))
    return setting_rotation(from_name, to_name), (from_name, to_name)


def _in_cryosparc(group: str) -> str:
    """Return the name of the axes that cryoSPARC has for a group; icosahedra have both of ours."""
    if group[0] == "d":
        return f"{group.removesuffix('y')}y"
    return "t222" if group == "t" else group
