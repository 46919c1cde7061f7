"""Work voxel by voxel on large maps: a few planes at a time, in all threads."""

import math
from collections.abc import Callable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from cryorefine.compiled import in_threads

__all__ = ["values_where", "voxelwise"]

_SLAB_PX = 4
"""Planes of a slab: temporaries of 1 MB each at 256 px, which a core's cache holds."""


def values_where(
    volume: Float[Tensor, "z y x"], where: Bool[Tensor, "z y x"]
) -> Float[Tensor, "m"]:
    """Return the values of some voxels, as ``volume[where]`` does.

    On the CPU numpy finds them: torch would write down the three places of each, 24 bytes.
    """
    if volume.device.type != "cpu":
        return volume[where]
    return torch.from_numpy(volume.numpy()[where.numpy()])


def voxelwise(
    function: Callable[..., Float[Tensor, "k y x"]],
    *volumes: Tensor,
    out: Float[Tensor, "z y x"] | None = None,
) -> Float[Tensor, "z y x"]:
    """Return what a function makes of voxels, which must not look at their neighbours.

    Parameters
    ----------
    function
        Of as many tensors as there are volumes, of a few planes each. It must not change them.
    out
        Where the result goes: one of the volumes, which is needed no more. None: a new one.
    """
    first = volumes[0]
    if first.device.type != "cpu":
        found = function(*volumes)
        return found if out is None else out.copy_(found)
    n = len(first)
    made = torch.empty_like(first) if out is None else out

    def work(begin: int, end: int) -> None:
        for start in range(begin * _SLAB_PX, min(end * _SLAB_PX, n), _SLAB_PX):
            part = slice(start, min(start + _SLAB_PX, n))
            made[part] = function(*(volume[part] for volume in volumes))

    in_threads(work, math.ceil(n / _SLAB_PX))
    return made
