"""MRC maps and image stacks: read at their places, written through ``mrcfile``."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mrcfile
import numpy as np
import torch
from jaxtyping import Float
from mrcfile.dtypes import HEADER_DTYPE
from torch import Tensor

from cryorefine.errors import InputError
from cryorefine.io.atomic import atomic_path
from cryorefine.io.spider import spider_volume
from cryorefine.io.stack import StackHeader
from cryorefine.io.unreadable import require_no_pipe, unreadable

__all__ = [
    "LARGEST_VOXEL_A",
    "SMALLEST_VOXEL_A",
    "Volume",
    "read_stack_header",
    "read_volume",
    "write_stack",
    "write_volume",
]

_HEADER_BYTES = 1024
"""Length of the header, by the MRC2014 standard."""

_MODES = {0: "i1", 1: "i2", 2: "f4", 6: "u2", 12: "f2"}
_OTHER_MODES = (3, 4, 101)  # of the MRC standard, not of images or maps that we know
_LARGEST_GREY, _SMALLEST_GREY = 1e9, 1e-12
"""Largest value of maps that are read, at most and at least. Sums over a box of a thousand voxels
have squares within single precision then; programs write values from 1e-5 to 1e4."""

SMALLEST_VOXEL_A, LARGEST_VOXEL_A = 0.01, 1000.0
"""Voxels of maps, from far below the size of an atom to far above that of a ribosome's domains."""

_BIG_ENDIAN = b"\x11\x11"
"""Machine stamp of a file in big-endian order; whatever else there is counts as little-endian."""

_COMPRESSED = (b"\x1f\x8b", b"BZh")


@dataclass(frozen=True, eq=False)
class Volume:
    """A cubic map.

    Attributes
    ----------
    data
        float32, axes z, y, x; the origin is at voxel ``n // 2`` of each axis.
    voxel_A
        Side of a voxel in ångströms.
    """

    data: Float[Tensor, "z y x"]
    voxel_A: float

    @property
    def size_px(self) -> int:
        """Voxels along a side."""
        return self.data.shape[-1]


def _open_header(path: Path, kind: str):
    path = Path(path)
    require_no_pipe(path, kind)
    try:
        with open(path, "rb") as file:
            content = file.read(_HEADER_BYTES)
    except OSError as error:
        raise unreadable(path, error, kind) from None
    if content.startswith(_COMPRESSED):
        raise InputError("the file is compressed", where=str(path), do="decompress it first")
    if len(content) < _HEADER_BYTES:
        raise InputError(
            f"{len(content)} bytes are too few for an MRC header",
            where=str(path),
            do="was the file copied whole?",
        )
    return _header_of(content)


def _header_of(content: bytes) -> np.recarray:
    """Return a header in the byte order that it says, or in the other where its mode is one there.

    Not by ``mrcfile.open``: it warns of much that programs write, and Python has one list of the
    warnings to be kept quiet, which threads that read at the same time would change for each other.
    """
    little = np.frombuffer(content, HEADER_DTYPE.newbyteorder("<")).reshape(()).view(np.recarray)
    big = little.view(HEADER_DTYPE.newbyteorder(">"), np.recarray)
    said, other = (big, little) if bytes(little.machst)[:2] == _BIG_ENDIAN else (little, big)
    modes = (*_MODES, *_OTHER_MODES)
    return other if int(said.mode) not in modes and int(other.mode) in modes else said


def read_stack_header(path: Path) -> StackHeader:
    """Read the header of an MRC image stack (modes 0, 1, 2, 6, 12; either byte order).

    Raises
    ------
    InputError
        If the file is missing, not MRC, of another mode, or shorter than its header says.
    """
    path = Path(path)
    header = _open_header(path, "image stack")
    mode = int(header.mode)
    if mode not in _MODES and mode not in _OTHER_MODES:
        raise InputError(
            f"not an MRC file (its mode would be {mode})", where=str(path), do="give an MRC file"
        )
    if mode not in _MODES:
        raise InputError(
            f"MRC mode {mode} is not supported",
            where=str(path),
            do="convert the images to float32 (mode 2) or float16 (mode 12)",
        )
    nx, ny, nz = int(header.nx), int(header.ny), int(header.nz)
    if min(nx, ny, nz) < 1:
        raise InputError(
            f"header gives size {nx}×{ny}×{nz}", where=str(path), do="restore the file"
        )
    dtype = np.dtype(_MODES[mode]).newbyteorder(header.nx.dtype.byteorder)
    offset = _HEADER_BYTES + max(0, int(header.nsymbt))
    stack = StackHeader(path, nz, (ny, nx), dtype, offset, _pixel_A(header))
    stack.require_whole()
    return stack


def _pixel_A(header) -> float:
    """Return the header's sampling along x; 0 where it has none."""
    return _voxel_sides_A(header)[0]


def _voxel_sides_A(header) -> tuple[float, float, float]:
    """Return the header's sampling along x, y and z: that of x where it has none."""
    cell = header.cella
    counts_lengths = ((header.mx, cell.x), (header.my, cell.y), (header.mz, cell.z))
    sides = [float(a) / int(n) if int(n) > 0 else 0.0 for n, a in counts_lengths]
    x, y, z = (v if np.isfinite(v) and v > 0 else 0.0 for v in sides)
    return x, y or x, z or x


def read_volume(path: Path, *, voxel_A: float | None = None, voxel_option: str = "") -> Volume:
    """Read a cubic map, MRC or SPIDER, bringing its axes to z, y, x order.

    Parameters
    ----------
    voxel_A
        Voxel size to use instead of the header's.
    voxel_option
        Name of the option that gives ``voxel_A``, for the message to one whose header has none.

    Raises
    ------
    InputError
        If the file is missing, truncated, not a map, not cubic, has no voxel size or holds values
        that are not finite.
    """
    path = Path(path)
    stack, sides, axes = spider_volume(path), (0.0, 0.0, 0.0), (3, 2, 1)
    if stack is None:
        header = _open_header(path, "map")
        stack, sides = read_stack_header(path), _voxel_sides_A(header)
        axes = (int(header.maps), int(header.mapr), int(header.mapc))
    shape_xyz = (*stack.size_yx_px[::-1], stack.n_images)
    if len(set(shape_xyz)) != 1:
        raise InputError(
            "the map is not cubic ({}×{}×{} voxels)".format(*shape_xyz),
            where=str(path),
            do="pad or crop it to a cube",
        )
    if voxel_A is None:
        voxel_A = sides[0]
        if voxel_A == 0:
            raise InputError(
                "the header has no voxel size",
                where=str(path),
                do="set it in the header" + (f", or give {voxel_option}" if voxel_option else ""),
            )
        if max(sides) > 1.01 * min(sides):
            raise InputError(
                "voxels of {:.4g} × {:.4g} × {:.4g} Å are not cubes".format(*sides),
                where=str(path),
                do="resample the map to one voxel size"
                + (f", or give {voxel_option} if the header is wrong" if voxel_option else ""),
            )
    if not SMALLEST_VOXEL_A <= voxel_A <= LARGEST_VOXEL_A:
        raise InputError(
            f"voxels of {voxel_A:g} Å are none of a map ({SMALLEST_VOXEL_A:g} to "
            f"{LARGEST_VOXEL_A:g} Å)",
            where=str(path),
            do="correct the header" + (f", or give {voxel_option}" if voxel_option else ""),
        )
    data = np.asarray(stack.read(), dtype=np.float32)
    if sorted(axes) == [1, 2, 3] and axes != (3, 2, 1):
        data = np.ascontiguousarray(data.transpose([axes.index(a) for a in (3, 2, 1)]))
    if not np.isfinite(data).all():
        raise InputError(
            "the map holds NaN or infinite values", where=str(path), do="repair the map"
        )
    _require_computable(data, path)
    return Volume(torch.from_numpy(data), voxel_A)


def _require_computable(data: np.ndarray, path: Path) -> None:
    """Refuse grey values whose transform has no square in single precision."""
    largest = float(np.abs(data).max())
    if largest > _LARGEST_GREY or 0 < largest < _SMALLEST_GREY:
        raise InputError(
            f"grey values up to {largest:.3g} cannot be computed with",
            where=str(path),
            do=f"rescale the map, to values about 1 ({_SMALLEST_GREY:g} to {_LARGEST_GREY:g} will "
            "do)",
        )


@contextmanager
def _new_file(path: Path) -> Iterator[Any]:
    """Make an MRC file atomically; it is closed also where there is no room for it."""
    with atomic_path(path) as temporary:
        mrc = mrcfile.new(temporary, overwrite=True)
        try:
            yield mrc
            mrc.close()
        finally:
            # mrcfile leaves it open where a write fails; to close it tries that write again.
            with suppress(OSError):
                mrc._iostream.close()


def write_volume(
    path: Path, volume: Float[Tensor, "z y x"], voxel_A: float, *, labels: tuple[str, ...] = ()
) -> None:
    """Write a map atomically as float32 with its voxel size.

    Parameters
    ----------
    labels
        Up to nine texts of 80 characters at most for the header.
    """
    with _new_file(path) as mrc:
        mrc.set_data(volume.detach().cpu().float().contiguous().numpy())
        mrc.voxel_size = voxel_A
        for label in labels:
            mrc.add_label(label)


def write_stack(path: Path, images: Float[Tensor, "n y x"], pixel_A: float, *, half: bool) -> None:
    """Write a stack of images atomically, float32 or (``half``) float16."""
    dtype = np.float16 if half else np.float32
    with _new_file(path) as mrc:
        mrc.set_data(images.detach().cpu().numpy().astype(dtype))
        mrc.set_image_stack()
        mrc.voxel_size = pixel_A
