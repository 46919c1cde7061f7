"""Image stacks of any known format, told by what a file holds."""

import os
from pathlib import Path

from cryorefine.io.hdf5 import HDF5_MAGIC, Hdf5Stack
from cryorefine.io.mrc import read_stack_header
from cryorefine.io.spider import spider_stack
from cryorefine.io.stack import ImageStack
from cryorefine.io.tiff import TIFF_MAGICS, TiffStack

__all__ = ["open_stack"]


def open_stack(path: Path) -> ImageStack:
    """Look at the header of an image stack: MRC, SPIDER, TIFF or HDF5 (EMAN).

    A file that is none of the others is taken for MRC, as messages say of one that is not.

    Raises
    ------
    InputError
        If the file is missing or damaged, holds no images of one size, or needs a package that is
        not installed.
    """
    path = Path(path)
    head = _head(path)
    if head.startswith(TIFF_MAGICS):
        return TiffStack.opened(path)
    if head.startswith(HDF5_MAGIC):
        return Hdf5Stack.opened(path)
    return spider_stack(path) or read_stack_header(path)


def _head(path: Path) -> bytes:
    try:
        if not os.path.isfile(path):
            return b""
        with open(path, "rb") as file:
            return file.read(8)
    except OSError:
        return b""
