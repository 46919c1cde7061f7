"""The arrays of a checkpoint's file, each looked at before it is used."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal
from zipfile import BadZipFile

import numpy as np
import torch
from torch import Tensor

from cryorefine.errors import InputError

__all__ = ["CheckpointArrays", "damage_named", "read_arrays", "write_arrays"]

Kind = Literal["real", "complex", "whole", "number", "flag", "text"]

_KINDS: dict[Kind, tuple[str, str]] = {
    "real": ("f", "real numbers"),
    "complex": ("c", "complex numbers"),
    "whole": ("iu", "whole numbers"),
    "number": ("fiu", "numbers"),
    "flag": ("b", "truth values"),
    "text": ("U", "text"),
}
"""The letters that numpy has for a kind of values, and what a message calls it."""


class CheckpointArrays:
    """What a file holds, by name; whoever asks for an array says what it has to be.

    Parameters
    ----------
    arrays
        As read.
    path
        Of the file, for messages.
    do
        What to do about a damaged file, as :class:`~cryorefine.errors.InputError` has it.
    """

    def __init__(self, arrays: dict[str, np.ndarray], path: Path, do: str) -> None:
        self._arrays, self._path, self._do = arrays, path, do

    def __contains__(self, name: str) -> bool:
        return name in self._arrays

    def names(self, prefix: str) -> list[str]:
        """Return what follows a prefix in the names that have it, in the order of the file."""
        return [name.removeprefix(prefix) for name in self._arrays if name.startswith(prefix)]

    def array(self, name: str, kind: Kind, shape: tuple[int | None, ...] = ()) -> np.ndarray:
        """Return an array of a kind and shape; None stands for any length.

        Raises
        ------
        InputError
            If it is not there, or is another kind of array: naming the file, the array, and what
            was expected and found.
        """
        if name not in self._arrays:
            raise self._error(f"lacks {name!r}")
        found = self._arrays[name]
        fits = found.ndim == len(shape) and all(
            length in (None, actual) for length, actual in zip(shape, found.shape, strict=True)
        )
        letters, words = _KINDS[kind]
        if found.dtype.kind not in letters or not fits:
            raise self.unexpected(
                name,
                f"{words} of shape {_shown(shape)}",
                f"{found.dtype} of shape {_shown(found.shape)}",
            )
        return found

    def tensor(self, name: str, kind: Kind, shape: tuple[int | None, ...] = ()) -> Tensor:
        """Return the same as a tensor."""
        return torch.from_numpy(self.array(name, kind, shape))

    def optional_tensor(
        self, name: str, kind: Kind, shape: tuple[int | None, ...] = ()
    ) -> Tensor | None:
        """Return the same; None where there is no array of that name."""
        return self.tensor(name, kind, shape) if name in self else None

    def unexpected(self, name: str, expected: str, found: str) -> InputError:
        """Return the error of an array that is not what it has to be."""
        return self._error(f"{name!r} should be {expected}, and is {found}")

    def _error(self, reason: str) -> InputError:
        return InputError(
            f"the checkpoint cannot be read ({reason})", where=str(self._path), do=self._do
        )


def _shown(shape: tuple[int | None, ...]) -> str:
    return "(" + ", ".join("any" if length is None else str(length) for length in shape) + ")"


@contextmanager
def damage_named(path: Path, do: str) -> Iterator[None]:
    """Turn what reading a damaged checkpoint raises into an error that names the file."""
    try:
        yield
    except (OSError, EOFError, ValueError, KeyError, TypeError, BadZipFile) as error:
        reason = f"lacks {error}" if isinstance(error, KeyError) else str(error)
        raise InputError(
            f"the checkpoint cannot be read ({reason})", where=str(path), do=do
        ) from None


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Return all arrays of a file by name."""
    with open(path, "rb") as raw, np.load(raw, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


def write_arrays(path: Path, arrays: dict[str, Any]) -> None:
    """Write arrays to a file, and that to the disk."""
    with open(path, "wb") as file:
        np.savez(file, **arrays)
        file.flush()
        os.fsync(file.fileno())
