"""HDF5 stacks as EMAN writes them, decoded by ``h5py``; read only."""

from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, Integer

from cryorefine.errors import InputError
from cryorefine.io.library_stack import NUMBER_KINDS, opened_by_library, require_stored
from cryorefine.io.open_files import OpenFiles

__all__ = ["HDF5_MAGIC", "Hdf5Stack"]

HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"
"""First bytes of every HDF5 file."""

_IMAGES = "MDF/images"
"""Where EMAN keeps its images, each in a group that is called by its number."""

_PIXEL = "EMAN.apix_x"


def _opened(path: Path) -> AbstractContextManager[Any]:
    def open_file() -> AbstractContextManager[Any]:
        import h5py

        return h5py.File(path, "r")

    return opened_by_library(path, "HDF5", "h5py", open_file)


def _image(file: Any, index: int, path: Path) -> Any:
    """Return the dataset of an image."""
    name = f"{_IMAGES}/{index}/image"
    if name not in file:
        raise InputError(
            f"has no image {index + 1} where EMAN keeps it ({name})",
            where=str(path),
            do="give a stack that EMAN wrote, or convert the images to MRC",
        )
    image = file[name]
    require_stored(path, index + 1, image.shape, image.dtype, image.id.get_storage_size())
    return image


@dataclass(frozen=True)
class Hdf5Stack:
    """Images of an EMAN file."""

    path: Path
    n_images: int
    size_yx_px: tuple[int, int]
    pixel_A: float

    @classmethod
    def opened(cls, path: Path) -> "Hdf5Stack":
        """Look at a file, and at its first image.

        Raises
        ------
        InputError
            If it is damaged, is none of EMAN's, its first image is none, or the library is missing.
        """
        with _opened(path) as file:
            first = _image(file, 0, path)
            if len(first.shape) != 2 or first.dtype.kind not in NUMBER_KINDS:
                raise InputError(
                    f"its first image has {len(first.shape)} dimensions of type {first.dtype}",
                    where=str(path),
                    do="give a stack of images",
                )
            n = sum(name.isdigit() for name in file[_IMAGES])
            pixel = np.asarray(file[f"{_IMAGES}/0"].attrs.get(_PIXEL, 0.0), np.float64).reshape(-1)
            pixel_A = float(pixel[0]) if len(pixel) and np.isfinite(pixel[0]) else 0.0
            size_yx_px = int(first.shape[0]), int(first.shape[1])
            return cls(path, n, size_yx_px, max(0.0, pixel_A))

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
            If the file is gone or damaged, or an image is missing or of another size.
        """
        del files
        with _opened(self.path) as file:
            for index, place in zip(indices.tolist(), places.tolist(), strict=True):
                image = _image(file, index, self.path)
                if tuple(image.shape) != self.size_yx_px:
                    raise InputError(
                        f"image {index + 1} has another size than the first",
                        where=str(self.path),
                        do="give images of one size",
                    )
                out[place] = image[()]
