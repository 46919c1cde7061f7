"""Image stacks: what all formats have, and those whose images lie at regular places of a file."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float32, Integer, Shaped

from cryorefine.errors import InputError
from cryorefine.io.open_files import OpenFile, OpenFiles
from cryorefine.io.unreadable import unreadable

__all__ = ["ImageStack", "StackHeader"]

_CONVERTED_BYTES = 512 << 10
"""Images of other precisions are read so much at a time: it stays in a core's cache."""

_AT_ONCE_PX = (1 << 15) - 1
"""Pixels that torch converts at a time: of 32,768 and more it would begin threads of its own."""


@runtime_checkable
class ImageStack(Protocol):
    """A file of images of one size. It can be pickled, and threads may read at the same time.

    Attributes
    ----------
    pixel_A
        Pixel size of the file; 0 where it has none.
    """

    @property
    def path(self) -> Path: ...  # noqa: D102
    @property
    def n_images(self) -> int: ...  # noqa: D102
    @property
    def size_yx_px(self) -> tuple[int, int]: ...  # noqa: D102
    @property
    def pixel_A(self) -> float: ...  # noqa: D102

    def read_images(
        self,
        files: OpenFiles,
        indices: Integer[np.ndarray, " k"],
        out: Float32[np.ndarray, "n y x"],
        places: Integer[np.ndarray, " k"],
    ) -> None:
        """Read images to their places in ``out``; see :meth:`StackHeader.read_images`."""
        ...


@dataclass(frozen=True)
class StackHeader:
    """What one needs to read images of a stack whose images lie at regular places.

    Attributes
    ----------
    dtype
        Of a pixel, byte order included.
    offset_bytes
        Where the first image starts, behind any extended header.
    gap_bytes
        Between the end of an image and the next one, where each has a header of its own.
    pixel_A
        Pixel size of the header; 0 where it has none.
    """

    path: Path
    n_images: int
    size_yx_px: tuple[int, int]
    dtype: np.dtype
    offset_bytes: int
    pixel_A: float
    gap_bytes: int = 0

    def require_whole(self) -> None:
        """Refuse a file that is shorter than its header says.

        Raises
        ------
        InputError
            If so, or the file is gone.
        """
        nz, (ny, nx) = self.n_images, self.size_yx_px
        try:
            actual = self.path.stat().st_size
        except OSError as error:
            raise unreadable(self.path, error, "image stack") from None
        if actual < self._end_bytes:
            stride = self.image_bytes + self.gap_bytes
            complete = max(0, (actual - self.offset_bytes + self.gap_bytes) // stride)
            raise InputError(
                f"truncated: the header promises {nz} images of {nx}×{ny} pixels, {complete} are "
                "whole",
                where=str(self.path),
                do="copy the file again",
            )

    @property
    def image_bytes(self) -> int:
        """Size of an image in the file."""
        return self.size_yx_px[0] * self.size_yx_px[1] * self.dtype.itemsize

    @property
    def _end_bytes(self) -> int:
        return (
            self.offset_bytes
            + self.n_images * (self.image_bytes + self.gap_bytes)
            - (self.gap_bytes)
        )

    def read(self) -> Shaped[np.ndarray, "n y x"]:
        """Return all images, in the precision and byte order that they have in the file.

        Raises
        ------
        InputError
            If the file is gone, cannot be read, or is shorter by now than its header says.
        """
        out = np.empty((self.n_images, *self.size_yx_px), self.dtype)
        with self._readable():
            file, stride = OpenFile(self.path), self.image_bytes + self.gap_bytes
            if self.gap_bytes == 0:
                file.read_into([_bytes_of(out)], self.offset_bytes)
            else:
                for i, image in enumerate(out):
                    file.read_into([_bytes_of(image)], self.offset_bytes + i * stride)
        return out

    def read_images(
        self,
        files: OpenFiles,
        indices: Integer[np.ndarray, " k"],
        out: Float32[np.ndarray, "n y x"],
        places: Integer[np.ndarray, " k"],
    ) -> None:
        """Read images to their places in ``out``; those that follow each other are one read.

        Parameters
        ----------
        indices
            Of the images in the stack, from 0.
        places
            Of the same images in ``out``.

        Raises
        ------
        InputError
            As :meth:`read`.
        """
        order = np.argsort(indices, kind="stable")
        indices, places = indices[order], places[order]
        is_ready = self.dtype == np.float32  # in the byte order of this machine, that is
        most = len(indices) if is_ready else max(1, _CONVERTED_BYTES // self.image_bytes)
        images = out if is_ready else np.empty((most, *self.size_yx_px), self.dtype)
        memory, size = _bytes_of(images), self.image_bytes
        with self._readable():
            file = files.opened(self.path)
            if file.size_bytes < self._end_bytes:
                raise EOFError
            stride = size + self.gap_bytes
            for begin, end in _consecutive(indices, most if stride == size else 1):
                to = places[begin:end].tolist()
                at = to if is_ready else range(end - begin)
                pieces = [memory[i * size : (i + 1) * size] for i in at]
                file.read_into(pieces, self.offset_bytes + int(indices[begin]) * stride)
                if not is_ready:
                    _convert(images[: end - begin], out, to)

    @contextmanager
    def _readable(self) -> Iterator[None]:
        """Say of a file that fails to be read what is wrong with it."""
        do = "restore the file, and begin or resume again"
        try:
            yield
        except EOFError:
            self.require_whole()
            raise InputError(
                "ended too early while it was read", where=str(self.path), do=do
            ) from None
        except OSError as error:
            what = f"cannot be read any more ({error.strerror})"
            raise InputError(what, where=str(self.path), do=do) from None


def _consecutive(indices: Integer[np.ndarray, " k"], most: int) -> Iterator[tuple[int, int]]:
    """Yield where parts begin and end, at most so long, within which indices count up by one."""
    begins = np.flatnonzero(np.diff(indices, prepend=-2) != 1).tolist()
    for begin, end in zip(begins, [*begins[1:], len(indices)], strict=True):
        for first in range(begin, end, most):
            yield first, min(first + most, end)


def _convert(
    images: Shaped[np.ndarray, "k y x"], out: Float32[np.ndarray, "n y x"], places: list[int]
) -> None:
    """Take images of another precision or byte order to their places in ``out``."""
    if images.dtype != np.float16:
        out[places] = images
        return
    # By torch: numpy takes fifteen times as long for half precision.
    old, new = torch.from_numpy(images).flatten(1), torch.from_numpy(out).flatten(1)
    for begin in range(0, old.shape[1], _AT_ONCE_PX):
        end = begin + _AT_ONCE_PX
        for i, k in enumerate(places):
            new[k, begin:end].copy_(old[i, begin:end])


def _bytes_of(array: Shaped[np.ndarray, "..."]) -> memoryview:
    """Return the memory of a contiguous array."""
    return array.reshape(-1).view(np.uint8).data
