"""SPIDER images, stacks and maps, in either byte order; read only.

A header is a row of 32-bit floats as long as some whole lines of the image. A stack has a header of
its own and one before each image. Source: the file format of the SPIDER manual, and Xmipp's use of
it.
"""

import os
from pathlib import Path
from typing import Literal

import numpy as np

from cryorefine.io.stack import StackHeader

__all__ = ["spider_stack", "spider_volume"]

_HEADER_WORDS = 256
"""Words that every header has at least: 1024 bytes."""

_SLICES, _LINES, _FORM, _COLUMNS, _RECORDS, _BYTES, _RECORD_BYTES, _STACK, _LAST = (
    0, 1, 4, 11, 12, 21, 22, 23, 25,
)  # fmt: skip
"""Places of: slices, lines, form (1: an image, 3: a map), columns, lines of the header, bytes of
the header, bytes of a line, whether it is a stack, and the number of its last image."""

_IMAGE, _MAP = 1, 3
"""Forms of a file."""

_MOST = 1 << 24
"""Above this floats cannot count by one, and no header can hold a size."""


def _header(path: Path) -> tuple[dict[int, int], Literal["<", ">"]] | None:
    """Return the header's numbers by their places, and the byte order; None if it is no such file.

    Header and lines must fit each other, which no file of another format does by chance.
    """
    try:
        if not os.path.isfile(path):  # what is a pipe would be waited for
            return None
        with open(path, "rb") as file:
            content = file.read(4 * _HEADER_WORDS)
    except OSError:
        return None
    if len(content) < 4 * _HEADER_WORDS:
        return None
    for order in ("<", ">"):
        words = np.frombuffer(content, f"{order}f4")[: _LAST + 1]
        if not (np.isfinite(words).all() and (np.abs(words) < _MOST).all()):
            continue
        values = {place: int(words[place]) for place in range(len(words))}
        places = (_SLICES, _LINES, _FORM, _COLUMNS, _RECORDS, _BYTES, _RECORD_BYTES)
        are_whole = all(words[place] == values[place] for place in places)
        size = values[_RECORD_BYTES]
        fits = (
            min(values[_SLICES], values[_LINES], values[_COLUMNS]) > 0
            and values[_FORM] in (_IMAGE, _MAP)
            and size == 4 * values[_COLUMNS]
            and values[_BYTES] == values[_RECORDS] * size
            and values[_BYTES] >= 4 * _HEADER_WORDS
        )
        if are_whole and fits:
            return values, order
    return None


def spider_stack(path: Path) -> StackHeader | None:
    """Return what is needed to read the images of a SPIDER file; None if it holds none.

    Raises
    ------
    InputError
        If the file is shorter than its header says.
    """
    found = _header(path)
    if found is None or found[0][_FORM] != _IMAGE:
        return None
    values, order = found
    is_stack = values[_STACK] > 0
    own = values[_BYTES]
    stack = StackHeader(
        path,
        max(1, values[_LAST]) if is_stack else 1,
        (values[_LINES], values[_COLUMNS]),
        np.dtype(f"{order}f4"),
        2 * own if is_stack else own,
        0.0,
        own if is_stack else 0,
    )
    stack.require_whole()
    return stack


def spider_volume(path: Path) -> StackHeader | None:
    """Return what is needed to read a SPIDER map, slice by slice; None if it is none.

    Raises
    ------
    InputError
        If the file is shorter than its header says.
    """
    found = _header(path)
    if found is None or found[0][_FORM] != _MAP or found[0][_STACK] > 0:
        return None
    values, order = found
    size_yx_px = values[_LINES], values[_COLUMNS]
    dtype = np.dtype(f"{order}f4")
    stack = StackHeader(path, values[_SLICES], size_yx_px, dtype, values[_BYTES], 0.0)
    stack.require_whole()
    return stack
