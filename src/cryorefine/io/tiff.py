"""TIFF stacks: an image a page, decoded by ``tifffile``; read only."""

from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, Integer

from cryorefine.errors import InputError
from cryorefine.io.library_stack import NUMBER_KINDS, opened_by_library
from cryorefine.io.open_files import OpenFiles

__all__ = ["TIFF_MAGICS", "TiffStack"]

TIFF_MAGICS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
"""First bytes of TIFF and BigTIFF, in either byte order."""


def _opened(path: Path) -> AbstractContextManager[Any]:
    def open_file() -> AbstractContextManager[Any]:
        import tifffile

        return tifffile.TiffFile(path)

    return opened_by_library(path, "TIFF", "tifffile", open_file)


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
            return cls(path, len(file.pages), (int(shape[0]), int(shape[1])))

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
