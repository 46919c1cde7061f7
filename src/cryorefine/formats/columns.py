"""Labels of a format, what they mean, in which unit and by which convention: declared once each."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import pi

import numpy as np

__all__ = ["TO_DEG", "Column", "in_relion_units", "in_units_of"]

TO_DEG = 180.0 / pi
"""Degrees of a radian: RELION's angles are in degrees."""


@dataclass(frozen=True)
class Column:
    """One column of a format.

    Attributes
    ----------
    label
        As the format writes it, without the leading underscore of STAR files.
    relion
        Labels of RELION that mean the same, in RELION's order; empty if it has none.
    unit
        Of the format's numbers; empty for names, counts and ratios.
    scale
        RELION's number is the format's times this. 0: more than a factor is between them, and
        ``convention`` says what.
    convention
        What else a reader must know: sign, origin, direction.
    """

    label: str
    relion: tuple[str, ...] = ()
    unit: str = ""
    scale: float = 0.0
    convention: str = ""


def in_relion_units(
    columns: Iterable[Column], values: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Return the columns that differ from RELION's by a factor, by RELION's labels.

    Parameters
    ----------
    values
        By the format's labels; those that are not there are left out.
    """
    return {
        column.relion[0]: np.asarray(values[column.label], np.float64) * column.scale
        for column in columns
        if column.scale and column.label in values
    }


def in_units_of(
    columns: Iterable[Column], values: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Return the inverse of :func:`in_relion_units`: by the format's labels, from RELION's."""
    return {
        column.label: np.asarray(values[column.relion[0]], np.float64) / column.scale
        for column in columns
        if column.scale and column.relion[0] in values
    }
