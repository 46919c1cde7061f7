"""What stacks that a library decodes have in common: opening them, and the errors of that."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from cryorefine.errors import InputError

__all__ = ["NUMBER_KINDS", "opened_by_library"]

NUMBER_KINDS = "fiu"
"""Of numpy's types: those of pixels that are numbers."""


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
