"""The files of a cryoSPARC result: tables of fields, joined by the particles' uid."""

import re
import struct
import tokenize
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.lib import format as npy

from cryorefine.errors import InputError
from cryorefine.io.unreadable import require_no_pipe, unreadable

__all__ = ["NUMPY_MAGIC", "STREAM_MAGIC", "read_fields", "read_result"]

NUMPY_MAGIC = b"\x93NUMPY"
STREAM_MAGIC = (b"\x94CSDAT", b"\x95CSDAT")
"""First bytes of the compressed form that cryoSPARC's tools write when they are asked to."""

_LARGEST_HEADER = 1 << 22
"""Bytes of a file's list of fields: numpy takes 10,000 by itself, and a refinement of a hundred
classes has a hundred times as many fields as one of one class, of 60 bytes each."""

_LARGEST_GROUP = 1 << 20
"""Bytes of a ``.csg`` file, which has some hundred."""

_METAFILE = re.compile(r"""^\s*metafile:\s*['"]?>?([^'"\n]+?)['"]?\s*$""", re.MULTILINE)

_VERSION = re.compile(r"^version:[^\n]*\n", re.MULTILINE)
"""Last line of a ``.csg`` file, whose keys are in the order of the alphabet."""


def read_result(path: Path) -> tuple[dict[str, np.ndarray], list[Path], list[str]]:
    """Return the fields of a ``.cs`` or ``.csg`` file and of what belongs to it: (n, ...) each.

    The files that a ``.csg`` names are joined by uid. Of a ``.cs`` the passthrough file of the same
    job that lies beside it is joined, if it has fields that the file lacks.

    Returns
    -------
    fields, companions, remarks
        By name; the other files that were read; and what a user should hear.

    Raises
    ------
    InputError
        If a file is missing or damaged, or particles of the first are not in the others.
    """
    if path.suffix.lower() == ".csg":
        places, remarks = _files_of_group(path)
        fields = read_fields(places[0])
        for other in places[1:]:
            _join(fields, read_fields(other), where=f"{other} (named in {path})")
        return fields, places, remarks
    fields, remarks = read_fields(path), []
    beside = _passthrough(path)
    for other in beside:
        more = read_fields(other)
        if "uid" in fields and set(more) - set(fields):
            try:
                _join(fields, more, where=str(other))
                remarks.append(f"{path}: {other.name} beside it is read, too, joined by uid")
            except InputError as error:
                remarks.append(f"{path}: {other.name} beside it is not used: {error.what}")
    return fields, beside, remarks


def _passthrough(path: Path) -> list[Path]:
    """Return the passthrough files of a particle file's job: ``P1_J2_passthrough_particles.cs``."""
    if "passthrough" in path.name:
        return []
    jobs = set(re.findall(r"J\d+", path.name))
    try:
        beside = sorted(path.parent.glob("*passthrough_particles*.cs"))
    except OSError:
        return []
    return [p for p in beside if p != path and set(re.findall(r"J\d+", p.name)) == jobs]


def _files_of_group(path: Path) -> tuple[list[Path], list[str]]:
    """Return the files that a ``.csg`` names, each once, and what a user should hear.

    That of the poses comes first.
    """
    require_no_pipe(path)
    try:
        with open(path, "rb") as file:
            text = file.read(_LARGEST_GROUP).decode("utf-8", "replace")
    except OSError as error:
        raise unreadable(path, error) from None
    names = dict.fromkeys(_METAFILE.findall(text))
    if not names:
        raise InputError(
            "names no file (metafile: '>...')", where=str(path), do="export the particles again"
        )
    ordered = sorted(names, key=lambda name: "passthrough" in name)
    if any("\0" in name for name in ordered):
        raise InputError("names a file with a NUL", where=str(path), do="correct the name")
    said = []
    if not _VERSION.search(text):
        said.append(
            f"{path}: the file does not end in a version, as cryoSPARC writes it, and fields may "
            "be missing: was it copied whole?"
        )
    return [path.parent / name for name in ordered], said


def _join(fields: dict[str, np.ndarray], more: dict[str, np.ndarray], *, where: str) -> None:
    """Add fields of another file to those that are there, row by row of the same uid."""
    missing = [name for name in ("uid",) if name not in fields or name not in more]
    if missing:
        raise InputError("there is no field uid to join by", where=where, do="export it again")
    uid = more["uid"].reshape(-1)
    order = np.argsort(uid, kind="stable")
    if (np.diff(uid[order].astype(np.uint64)) == 0).any():
        raise InputError("a uid is there twice", where=where, do="remove duplicates")
    wanted = fields["uid"].reshape(-1)
    place = np.minimum(np.searchsorted(uid[order], wanted), max(len(uid) - 1, 0))
    found = uid[order][place] == wanted if len(uid) else np.zeros(len(wanted), bool)
    if not found.all():
        raise InputError(
            f"{int((~found).sum())} of {len(wanted)} particles are not in it (uid "
            f"{wanted[int(np.argmin(found))]} is the first)",
            where=where,
            do="give the files of one and the same job",
        )
    rows = order[place]
    for name, values in more.items():
        fields.setdefault(name, values[rows])


def read_fields(path: Path) -> dict[str, np.ndarray]:
    """Return the fields of one ``.cs`` file by name: (n, ...) each.

    Raises
    ------
    InputError
        If it is missing, is not numpy's form of a table of numbers and byte strings, or has not as
        many bytes as its rows need.
    """
    require_no_pipe(path)
    try:
        with open(path, "rb") as file:
            magic = file.read(len(NUMPY_MAGIC))
            if magic in STREAM_MAGIC:
                raise InputError(
                    "is in the compressed form of cryoSPARC's tools",
                    where=str(path),
                    do="write it as a numpy array: Dataset.load(path).save(new_path)",
                )
            file.seek(0)
            shape, dtype = _read_header(file)
            _check_dtype(dtype, path)
            offset = file.tell()
            n_bytes = file.seek(0, 2) - offset
            n = shape[0]
            if n * dtype.itemsize != n_bytes:
                raise InputError(
                    f"{n} rows of {dtype.itemsize} bytes are said to be in it, and {n_bytes} bytes "
                    "follow",
                    where=str(path),
                    do="was it copied whole?",
                )
            file.seek(offset)
            table = np.frombuffer(file.read(n_bytes), dtype)
    except OSError as error:
        raise unreadable(path, error) from None
    except (ValueError, SyntaxError, TypeError, KeyError, IndexError, struct.error, EOFError,
            RecursionError, OverflowError, tokenize.TokenError, MemoryError) as error:  # fmt: skip
        raise InputError(
            f"is no table of cryoSPARC's ({' '.join(str(error).split())[:200]})",
            where=str(path),
            do="was it copied whole?",
        ) from None
    return {str(name): np.ascontiguousarray(table[name]) for name in table.dtype.names or ()}


def _read_header(file: BinaryIO) -> tuple[tuple[int, ...], np.dtype]:
    version = npy.read_magic(file)
    if version == (1, 0):
        shape, _, dtype = npy.read_array_header_1_0(file, max_header_size=_LARGEST_HEADER)
    elif version == (2, 0):
        shape, _, dtype = npy.read_array_header_2_0(file, max_header_size=_LARGEST_HEADER)
    else:
        raise ValueError(f"version {version[0]}.{version[1]} of numpy's form")
    if len(shape) != 1:
        raise ValueError(f"an array of {len(shape)} axes")
    return shape, dtype


def _check_dtype(dtype: np.dtype, path: Path) -> None:
    """Refuse what is no table, and fields that are neither numbers nor byte strings."""
    fields = dtype.fields
    bad = not fields or dtype.itemsize == 0 or dtype.hasobject
    for name, (kind, *_) in (fields or {}).items():
        bad = bad or kind.base.kind not in "biufSU" or len(kind.shape) > 1 or not str(name)
    if bad:
        raise InputError(
            "is no table of numbers and words", where=str(path), do="give a .cs of particles"
        )
