"""Symmetry of maps: settings of its axes, and conversion of maps and particles between them.

    import cryorefine as cr

    cr.symmetry.convert("map_i2.mrc", "i2", "i1").write("map_i1.mrc")

``docs/symmetry.md`` lists the names of groups and their axes.

Examples
--------
>>> import cryorefine as cr
>>> cr.symmetry.operators("d7y").shape
(14, 3, 3)
"""

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from torch import Tensor

from cryorefine.api.boundary import library_call, threads_restored
from cryorefine.api.particles import Particles
from cryorefine.api.volume import Volume, as_tensor, as_volume, require_same_grid
from cryorefine.engine.threads import use_threads
from cryorefine.geometry.axis_settings import setting_rotation
from cryorefine.geometry.symmetry import parse_symmetry
from cryorefine.symmetry.find import FoundSymmetry, default_groups, find_symmetry
from cryorefine.symmetry.turn import turned_map

__all__ = ["FoundSymmetry", "convert", "find", "operators", "orient", "rotation", "symmetry"]


@library_call
def operators(name: str) -> Float[np.ndarray, "g 3 3"]:
    """Return all rotations of a point group, identity first; they act on (x, y, z)."""
    return parse_symmetry(name).matrices.numpy().copy()


@library_call
def rotation(from_: str, to: str) -> Float[np.ndarray, "3 3"]:
    """Return the rotation that turns an object from one setting of its symmetry to another.

    Examples
    --------
    >>> import cryorefine as cr
    >>> cr.symmetry.rotation("i2", "i1").round(3)
    array([[ 0., -1.,  0.],
           [ 1.,  0.,  0.],
           [ 0.,  0.,  1.]])
    """
    return setting_rotation(from_, to).numpy()


@library_call
def convert(what: Any, from_: str, to: str) -> Any:
    """Turn a map, or the poses of particles, from one setting of a point group to another.

    Parameters
    ----------
    what
        A Volume, the path of a map, or Particles.
    from_, to
        Names of the two settings: of i1, i2, i3 and i4; of dN and dNy; of t and t222.

    Returns
    -------
    A Volume, or Particles with other angles. Shifts and all else stay.

    Raises
    ------
    InputError
        For names of different groups, and for particles without poses, or with priors of angles
        that would have to be turned, too.

    Examples
    --------
    >>> import cryorefine as cr
    >>> cr.symmetry.convert("truth_map.mrc", "t222", "t")
    <Volume: 32³ voxels of 5 Å>
    """
    turn = setting_rotation(from_, to)
    if isinstance(what, Particles):
        return what.turned(turn)
    return _turned(as_volume(what, "what"), turn)


@library_call
def find(
    map1: Any,
    map2: Any = None,
    *,
    groups: Sequence[str] | None = None,
    max_fold: int = 12,
    resolution_angstrom: float | None = None,
) -> FoundSymmetry:
    """Find which point group a map shows and where its axes lie; no orientation is assumed.

    Parameters
    ----------
    map1, map2
        A map, or two half maps, each a Volume or a path.
    groups
        Names of the groups to look for; None looks for all up to ``max_fold``.
    resolution_angstrom
        Finest detail to compare; None takes what the maps have, of a single map to 8 Å.

    Returns
    -------
    A record: ``name`` of the largest group that the map shows, ``c1`` if none; ``candidates`` with
    ``agreement``, ``is_supported`` and ``reason`` of each; ``rotation`` and ``centre_A``, which
    :func:`orient` uses.

    Raises
    ------
    InputError
        If the map shows no particle, its detail is too coarse to judge by, or a name is unknown.

    Examples
    --------
    >>> import cryorefine as cr
    >>> found = cr.symmetry.find("truth_map.mrc", groups=["c3", "d2"], resolution_angstrom=15)
    >>> found.name
    'd2'
    """
    first = as_volume(map1, "map1")
    maps = [first]
    if map2 is not None:
        second = as_volume(map2, "map2")
        require_same_grid(second, "map2", first, "map1")
        maps.append(second)
    names = default_groups(max_fold) if groups is None else list(groups)
    with threads_restored():
        use_threads(None)
        tensors = [as_tensor(m) for m in maps]
        return find_symmetry(
            tensors, names, voxel_A=first.voxel_A, resolution_A=resolution_angstrom
        )


@library_call
def orient(map: Any, found: FoundSymmetry) -> Volume:
    """Return a map turned and centred so that its axes lie as the name of its group says."""
    volume = as_volume(map, "map")
    return _turned(volume, found.rotation, found.shift_A / volume.voxel_A)


def _turned(volume: Volume, rotation: Tensor, shift_px: Tensor | None = None) -> Volume:
    with threads_restored():
        use_threads(None)
        moved = turned_map(as_tensor(volume), rotation, shift_px)
    return Volume(moved.numpy(), volume.voxel_A)


symmetry = sys.modules[__name__]
"""This module, under the name that the package offers it by."""
