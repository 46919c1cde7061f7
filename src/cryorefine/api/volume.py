"""A map as a Python object: a numpy array and the size of its voxels."""

import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from cryorefine.api.boundary import library_call
from cryorefine.errors import InputError
from cryorefine.io.mrc import read_volume as read_map
from cryorefine.io.mrc import write_volume as write_map
from cryorefine.io.output_path import check_output_file

__all__ = ["Volume", "as_tensor", "as_volume", "read_volume", "require_same_grid"]

_SAME_VOXEL = 1e-3  # relative; headers are written with three to four digits


class Volume:
    """A cubic map: its values and the size of its voxels.

    Attributes
    ----------
    data
        float32, axes z, y, x; the origin is at voxel ``n // 2`` of each axis. What is given is
        converted: an array of any numbers, a tensor or a list.
    voxel_A
        Side of a voxel in ångströms.

    Raises
    ------
    InputError
        If the array is not cubic, not finite, or the voxel size is not positive.

    Examples
    --------
    >>> import numpy as np
    >>> import cryorefine as cr
    >>> start = cr.read_volume("reference.mrc")
    >>> hand = cr.Volume(start.data[:, :, ::-1], start.voxel_A)
    >>> hand.write("other_hand.mrc")
    """

    def __init__(self, data: Any, voxel_A: float) -> None:
        self.data: Float[np.ndarray, "z y x"] = _checked(data)
        self.voxel_A: float = _positive(voxel_A)

    @property
    def size_px(self) -> int:
        """Voxels along a side."""
        return self.data.shape[-1]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """Return the values, so that numpy's functions take a map."""
        return np.array(self.data, dtype=dtype, copy=copy)

    def __repr__(self) -> str:
        return f"<Volume: {self.size_px}³ voxels of {self.voxel_A:.4g} Å>"

    @library_call
    def write(self, path: str | os.PathLike[str]) -> None:
        """Write an MRC file, replacing one that is there.

        Raises
        ------
        InputError
            If the folder does not exist.
        """
        check_output_file(Path(path), overwrite=True)
        write_map(Path(path), torch.from_numpy(self.data), self.voxel_A)


def _checked(values: Any) -> np.ndarray:
    data = np.ascontiguousarray(np.asarray(values), dtype=np.float32)
    if data.ndim != 3 or len(set(data.shape)) != 1 or data.size == 0:
        raise InputError(
            f"an array of shape {data.shape} is no cubic map", where="data", do="give (n, n, n)"
        )
    if not np.isfinite(data).all():
        raise InputError("the map holds NaN or infinite values", where="data", do="repair the map")
    return data


def _positive(voxel_A: Any) -> float:
    value = float(voxel_A)
    if not (math.isfinite(value) and value > 0):
        raise InputError(
            f"{value:g} Å is no size of a voxel", where="voxel_A", do="give a positive number"
        )
    return value


@library_call
def read_volume(path: str | os.PathLike[str], *, voxel_A: float | None = None) -> Volume:
    """Read a map from an MRC file.

    Parameters
    ----------
    voxel_A
        Size of its voxels, if the header's is wrong or missing.

    Raises
    ------
    InputError
        If the file is missing, truncated, no cubic map, without a voxel size, or not finite.

    Examples
    --------
    >>> import cryorefine as cr
    >>> cr.read_volume("reference.mrc")
    <Volume: 32³ voxels of 5 Å>
    """
    found = read_map(Path(path), voxel_A=voxel_A, voxel_option="voxel_A=")
    return Volume(found.data.numpy(), found.voxel_A)


def as_volume(value: Any, name: str, voxel_A: float | None = None) -> Volume:
    """Return what a caller gave as a map: an object, a path, or an array with its voxel size.

    Raises
    ------
    InputError
        If it cannot be read, or is an array without a voxel size; ``name`` is the parameter.
    """
    if isinstance(value, Volume):
        return value
    if isinstance(value, str | os.PathLike):
        found = read_map(Path(value), voxel_A=voxel_A, voxel_option="voxel_A=")
        return Volume(found.data.numpy(), found.voxel_A)
    if voxel_A is None:
        raise InputError(
            "an array has no voxel size",
            where=name,
            do="give cryorefine.Volume(array, voxel_A) or a path",
        )
    return Volume(np.asarray(value), voxel_A)


def as_tensor(volume: Volume) -> Tensor:
    """Return a map's values for the functions below."""
    return torch.from_numpy(volume.data)


def require_same_grid(volume: Volume, name: str, like: Volume, like_name: str) -> None:
    """Refuse a map of another box or sampling.

    Raises
    ------
    InputError
        Naming both parameters.
    """
    same = math.isclose(volume.voxel_A, like.voxel_A, rel_tol=_SAME_VOXEL)
    if volume.size_px != like.size_px or not same:
        raise InputError(
            f"{volume.size_px} voxels of {volume.voxel_A:.4g} Å, but {like_name} has "
            f"{like.size_px} of {like.voxel_A:.4g} Å",
            where=name,
            do="give maps of one box and sampling",
        )
