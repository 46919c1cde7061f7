"""What stacks that a library decodes have in common: opening them, and the errors of that."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from cryorefine.errors import InputError

__all__ = ["NUMBER_KINDS", "opened_by_library", "require_stored"]

NUMBER_KINDS = "fiu"
"""Of numpy's types: those of pixels that are numbers."""

_MOST_COMPRESSED = 1100
"""Bytes of an image for each that is stored: deflate has 1,032 at most, and images of particles are
noise, which hardly shrinks. A damaged header may promise any size."""


@contextmanager
def opened_by_library(
    path: Path, kind: str, package: str, open_file: Callable[[], AbstractContextManager[Any]]
) -> Iterator[Any]:
    """Open a file with an optional library, and say of one that fails what is wrong.

    Parameters
    ----------
    kind, package
        Of the file and of the library, as messages call them.
    open_file
        Imports the library and opens the file.

    Raises
    ------
    InputError
        If the library is missing, or fails in whatever way while the file is open.
    """
    try:
        try:
            opened = open_file()
        except ImportError:
            raise InputError(
                f"reading {kind} needs the package {package}",
                where=str(path),
                do="install it (pip install 'cryorefine[stacks]'), or convert the images to MRC",
            ) from None
        with opened as file:
            yield file
    except InputError:
        raise
    # Libraries raise errors of many kinds for damaged files; all of them mean this.
    except Exception as error:
        raise InputError(
            f"cannot be read as {kind} ({type(error).__name__}: {error})",
            where=str(path),
            do="was the file copied whole?",
        ) from None


def require_stored(
    path: Path, number: int, shape: Sequence[int], dtype: Any, stored_bytes: int
) -> None:
    """Refuse an image of which the file has not the pixels, before memory is taken for them.

    Parameters
    ----------
    number
        Of the image, from 1.
    dtype
        Of its pixels.
    stored_bytes
        That the file has of it, compressed or not.

    Raises
    ------
    InputError
        If they are too few, however well compressed.
    """
    n_bytes = math.prod(int(side) for side in shape) * np.dtype(dtype).itemsize
    if n_bytes > _MOST_COMPRESSED * stored_bytes:
        raise InputError(
            f"image {number} is said to have {'×'.join(map(str, shape))} pixels, and "
            f"{stored_bytes} bytes are stored of it",
            where=str(path),
            do="was it copied whole?",
        )
