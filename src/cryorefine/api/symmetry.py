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
from typing import Any

import numpy as np
from jaxtyping import Float

from cryorefine.api.boundary import library_call, threads_restored
from cryorefine.api.particles import Particles
from cryorefine.api.volume import Volume, as_tensor, as_volume
from cryorefine.engine.threads import use_threads
from cryorefine.geometry.axis_settings import setting_rotation
from cryorefine.geometry.symmetry import parse_symmetry
from cryorefine.symmetry.turn import turned_map

__all__ = ["convert", "operators", "rotation", "symmetry"]


@library_call
def operators(name: str) -> Float[np.ndarray, "g 3 3"]:
    """Return all rotations of a point group, identity first; they act on (x, y, z).

    Examples
    --------
    >>> import cryorefine as cr
    >>> cr.symmetry.operators("i1").shape
    (60, 3, 3)
    """
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
    volume = as_volume(what, "what")
    with threads_restored():
        use_threads(None)
        return Volume(turned_map(as_tensor(volume), turn).numpy(), volume.voxel_A)


symmetry = sys.modules[__name__]
"""This module, under the name that the package offers it by."""
