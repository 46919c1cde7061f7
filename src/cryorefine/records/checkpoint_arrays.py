"""The arrays of a checkpoint's file, each looked at before it is used."""

import math
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tokenize import TokenError
from typing import Any, Literal
from zipfile import ZIP_STORED, BadZipFile, ZipFile, ZipInfo

import numpy as np
import torch
from numpy.lib import format as npy
from torch import Tensor

from cryorefine.errors import InputError
from cryorefine.io.atomic import name_file

__all__ = ["CheckpointArrays", "damage_named", "read_arrays", "write_arrays"]

Kind = Literal["real", "complex", "whole", "number", "flag", "text"]

_KINDS: dict[Kind, tuple[str, str, str]] = {
    "real": ("f", "f4 f8", "real numbers"),
    "complex": ("c", "c8 c16", "complex numbers"),
    "whole": ("iu", "i1 i8", "whole numbers"),
    "number": ("fiu", "f4 f8 i8", "numbers"),
    "flag": ("b", "b1", "truth values"),
    "text": ("U", "", "text"),
}
"""The letters that numpy has for a kind of values, its types in checkpoints (of text any length),
and what a message calls it."""

_SURROGATES = (0xD800, 0xDC80, 0xDD00, 0xE000)
"""Code points that are no characters, but for those in the middle: bytes of a file's name."""


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
        letters, types, words = _KINDS[kind]
        is_kind = found.dtype.kind in letters and found.dtype.isnative
        if not is_kind or not (found.dtype.str[1:] in types.split() or not types) or not fits:
            raise self.unexpected(
                name,
                f"{words} of shape {_shown(shape)}",
                f"{found.dtype} of shape {_shown(found.shape)}",
            )
        if kind == "text" and not _is_text(found):
            raise self.unexpected(name, "text", "none: it has characters that do not exist")
        return found

    def tensor(self, name: str, kind: Kind, shape: tuple[int | None, ...] = ()) -> Tensor:
        """Return the same as a tensor."""
        return torch.from_numpy(self.array(name, kind, shape))

    def optional_real(self, name: str, shape: tuple[int | None, ...] = ()) -> Tensor | None:
        """Return real numbers; None where there is no array of that name."""
        return self.real(name, shape) if name in self else None

    def real(
        self, name: str, shape: tuple[int | None, ...] = (), *, dtype: torch.dtype = torch.float64
    ) -> Tensor:
        """Return real numbers of one precision as a tensor."""
        found = self.tensor(name, "real", shape)
        if found.dtype != dtype:
            raise self.unexpected(name, _precision(dtype), _precision(found.dtype))
        return found

    def unexpected(self, name: str, expected: str, found: str) -> InputError:
        """Return the error of an array that is not what it has to be."""
        return self._error(f"{name!r} should be {expected}, and is {found}")

    def _error(self, reason: str) -> InputError:
        return InputError(
            f"the checkpoint cannot be read ({reason})", where=str(self._path), do=self._do
        )


def _shown(shape: tuple[int | None, ...]) -> str:
    return "(" + ", ".join("any" if length is None else str(length) for length in shape) + ")"


def _precision(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _is_text(found: np.ndarray) -> bool:
    codes = np.ascontiguousarray(found).reshape(-1).view(np.uint32)
    first, bytes_from, bytes_to, last = _SURROGATES
    is_none = (codes >= first) & (codes < last) & ~((codes >= bytes_from) & (codes < bytes_to))
    return not bool((is_none | (codes > 0x10FFFF)).any())


_DAMAGE = (
    OSError, EOFError, ValueError, KeyError, TypeError, IndexError, OverflowError, BadZipFile,
    RuntimeError,  # of an archive that is encrypted, or packed in an unknown way
    struct.error,
)  # fmt: skip
"""What reading an archive raises that is none, or is damaged."""


@contextmanager
def damage_named(path: Path, do: str) -> Iterator[None]:
    """Turn what reading a damaged checkpoint raises into an error that names the file."""
    try:
        yield
    except _DAMAGE as error:
        reason = f"lacks {error}" if isinstance(error, KeyError) else str(error)
        raise InputError(
            f"the checkpoint cannot be read ({reason})", where=str(path), do=do
        ) from None


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Return all arrays of a file by name.

    What a file declares is compared with its size before anything is made of it: a short file
    cannot fill the memory.

    Raises
    ------
    ValueError, OSError, BadZipFile
        If it is none of those that :func:`write_arrays` writes.
    """
    with open(path, "rb") as raw, ZipFile(raw) as archive:
        members = archive.infolist()
        size = os.fstat(raw.fileno()).st_size
        if any(entry.compress_type != ZIP_STORED for entry in members):
            raise ValueError("an array is compressed, which this program does not do")
        if sum(entry.file_size for entry in members) > size:
            raise ValueError(f"its arrays are said to be larger than the file of {size} bytes")
        arrays = {}
        for entry in members:
            name = entry.filename.removesuffix(".npy")
            if name in arrays:
                raise ValueError(f"has {name!r} twice")
            _require_length(archive, entry, name)
            with archive.open(entry) as member:
                arrays[name] = npy.read_array(member, allow_pickle=False)
    return arrays


def _require_length(archive: ZipFile, entry: ZipInfo, name: str) -> None:
    """Refuse an array whose values are not as many as it says."""
    with archive.open(entry) as member:
        try:
            version = npy.read_magic(member)
            read = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}[version]
            shape, _, dtype = read(member)
        except (
            ValueError,
            KeyError,
            SyntaxError,
            TokenError,
            RecursionError,
            MemoryError,
        ) as error:
            raise ValueError(f"{name!r} is no array: {error}") from None
        size = entry.file_size - member.tell()
    if dtype.hasobject:
        raise ValueError(f"{name!r} holds objects, which are not loaded")
    if min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize != size:
        raise ValueError(f"{name!r} is not as long as its shape {shape} says")


def write_arrays(path: Path, arrays: dict[str, Any]) -> None:
    """Write arrays to a file, and that to the disk."""
    try:
        with open(path, "wb") as file:
            np.savez(file, **arrays)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        name_file(error, path)
        raise
