"""TIFF stacks: an image a page, decoded by ``tifffile``; read only."""

import logging
import os
import struct
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from jaxtyping import Float32, Integer

from cryorefine.errors import InputError
from cryorefine.io.library_stack import (
    NUMBER_KINDS,
    opened_by_library,
    require_stored,
)
from cryorefine.io.open_files import OpenFiles

__all__ = ["TIFF_MAGICS", "TiffStack"]

TIFF_MAGICS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
"""First bytes of TIFF and BigTIFF, in either byte order."""

# The library tells of everything odd in a file, tag by tag: what matters of it is refused here. A
# program that listens to the library's log still hears it.
logging.getLogger("tifffile").addHandler(logging.NullHandler())


def _opened(path: Path) -> AbstractContextManager[Any]:
    def open_file() -> AbstractContextManager[Any]:
        import tifffile

        return tifffile.TiffFile(path)

    return opened_by_library(path, "TIFF", "tifffile", open_file)


def _count_pages(path: Path) -> int:
    """Follow the chain of pages, which the library ends in silence where it leads nowhere.

    Raises
    ------
    InputError
        If it leads out of the file, or back to an earlier page.
    """
    with open(path, "rb") as file:
        head = file.read(4)
        order = "<" if head.startswith(b"II") else ">"
        is_big = 43 in head[2:]  # 42 in files whose offsets have 4 bytes
        offset_form, count_form, tag_bytes = ("Q", "Q", 20) if is_big else ("I", "H", 12)
        n_bytes, seen = os.fstat(file.fileno()).st_size, set[int]()
        place = 8 if is_big else 4
        while True:
            page = _number(file, place, order + offset_form)
            if page == 0:
                return len(seen)
            count = None if page is None else _number(file, page, order + count_form)
            if page is None or count is None or page in seen:
                found = f"after page {len(seen)} the file leads to no other, nor says that it ends"
                raise InputError(found, where=str(path), do="was it copied whole?")
            seen.add(page)
            place = min(page + struct.calcsize(count_form) + tag_bytes * count, n_bytes)


def _number(file: BinaryIO, place: int, form: str) -> int | None:
    """Return a number at a place of a file; None where the file ends before."""
    file.seek(place)
    content = file.read(struct.calcsize(form))
    return struct.unpack(form, content)[0] if len(content) == struct.calcsize(form) else None


@dataclass(frozen=True)
class TiffStack:
    """Pages of a TIFF file, which has no pixel size that could be trusted."""

    path: Path
    n_images: int
    size_yx_px: tuple[int, int]
    pixel_A: float = 0.0

    @classmethod
    def opened(cls, path: Path) -> "TiffStack":
        """Look at a file.

        Raises
        ------
        InputError
            If it is damaged, its pages are no images of one size, or the library is missing.
        """
        with _opened(path) as file:
            n, n_bytes = _count_pages(path), path.stat().st_size
            first = file.pages[0]
            shape, kind = tuple(first.shape), first.dtype.kind if first.dtype is not None else ""
            if len(shape) != 2 or kind not in NUMBER_KINDS:
                raise InputError(
                    f"pages of {'×'.join(map(str, shape))} are no grey images",
                    where=str(path),
                    do="save one image a page, in grey",
                )
            for number, page in enumerate(file.pages, 1):
                if tuple(page.shape) != shape:
                    raise InputError(
                        f"page {number} has another size than the first",
                        where=str(path),
                        do="give images of one size",
                    )
                stored = sum(page.databytecounts)
                if stored > n_bytes:  # the library would take memory for them
                    raise InputError(
                        f"page {number} is said to take {stored} bytes, and the file has {n_bytes}",
                        where=str(path),
                        do="was it copied whole?",
                    )
                require_stored(path, number, shape, page.dtype, stored)
            if len(file.pages) != n:
                raise InputError(
                    f"{n} pages are in it, and {len(file.pages)} can be read",
                    where=str(path),
                    do="was it copied whole?",
                )
            return cls(path, n, (int(shape[0]), int(shape[1])))

    def read_images(
        self,
        files: OpenFiles,
        indices: Integer[np.ndarray, " k"],
        out: Float32[np.ndarray, "n y x"],
        places: Integer[np.ndarray, " k"],
    ) -> None:
        """Read images to their places in ``out``; the file is opened for each call.

        Raises
        ------
        InputError
            If the file is gone or damaged, or has other pages than when it was looked at.
        """
        del files
        with _opened(self.path) as file:
            for index, place in zip(indices.tolist(), places.tolist(), strict=True):
                image = file.pages[index].asarray()
                if image.shape != self.size_yx_px:
                    raise InputError(
                        f"page {index + 1} has changed its size",
                        where=str(self.path),
                        do="restore the file, and begin or resume again",
                    )
                out[place] = image
