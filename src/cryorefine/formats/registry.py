"""All particle formats: which one a file is of, by what it holds, and which one is to be written.

A format is one module behind one protocol; it is listed here and nowhere else.
"""

import os
from pathlib import Path

from cryorefine.errors import InputError
from cryorefine.formats.cistem import CistemFormat
from cryorefine.formats.cryodrgn import CryodrgnFormat
from cryorefine.formats.cryosparc import CryosparcFormat
from cryorefine.formats.protocol import ParticleFormat
from cryorefine.formats.relion_format import RelionFormat
from cryorefine.formats.xmipp import XmippFormat, without_block
from cryorefine.io.unreadable import unreadable

__all__ = ["FORMATS", "format_of", "format_to_write"]

FORMATS: tuple[ParticleFormat, ...] = (
    CryosparcFormat(),
    CryodrgnFormat(),
    XmippFormat(),
    CistemFormat(),
    RelionFormat(),
)
"""In the order in which they are asked whether a file is theirs."""

_HEAD_BYTES = 1 << 16
"""First bytes of a file that tell its format: STAR files have their labels there, whatever blocks
and comments come before them."""


def format_of(path: Path) -> ParticleFormat:
    """Return the format of a file: by its first bytes, or by its suffix where they tell nothing.

    Raises
    ------
    InputError
        If neither tells.
    """
    head = b""
    place = without_block(path)
    if os.path.isfile(place):
        try:
            with open(place, "rb") as file:
                head = file.read(_HEAD_BYTES)
        except OSError as error:
            raise unreadable(path, error) from None
    for one in FORMATS:
        if head and one.recognises(path, head):
            return one
    by_suffix = _of_suffix(path)
    if by_suffix is None:
        raise InputError(
            f"particle files of type '{path.suffix or path.name}' cannot be read",
            where=str(path),
            do=f"give one of: {_all_suffixes()}",
        )
    return by_suffix


def format_to_write(path: Path, name: str | None = None) -> ParticleFormat:
    """Return the format of a file to be written: that of a name, or of the path's suffix.

    Raises
    ------
    InputError
        If there is no such format, or the suffix is that of none.
    """
    if name is not None:
        found = next((one for one in FORMATS if one.name == name), None)
        if found is None:
            names = ", ".join(sorted(one.name for one in FORMATS))
            raise InputError(f"there is no format '{name}'", where="--to", do=f"say one of {names}")
        return found
    by_suffix = _of_suffix(path)
    if by_suffix is None:
        raise InputError(
            f"no format has files of type '{path.suffix or path.name}'",
            where=str(path),
            do=f"end the name in one of {_all_suffixes()}, or say the format with --to",
        )
    return by_suffix


def _of_suffix(path: Path) -> ParticleFormat | None:
    # RELION comes last, and has .star by its suffix before cisTEM.
    found = [one for one in FORMATS if path.suffix.lower() in one.suffixes]
    return found[-1] if found else None


def _all_suffixes() -> str:
    return ", ".join(sorted({f"*{s}" for one in FORMATS for s in one.suffixes}))
