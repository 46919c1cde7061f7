"""The helix of a run: what an iteration imposed, and which one the next begins with."""

import math
from dataclasses import dataclass
from typing import Any

from cryorefine.geometry.helix import Helix
from cryorefine.settings import RefineSettings

__all__ = ["HelixRecord", "helix_from_values", "present_helix"]

Pair = tuple[float, float]


@dataclass(frozen=True)
class HelixRecord:
    """The helix of an iteration's half maps. Pairs are twist in degrees and rise in ångströms.

    Attributes
    ----------
    twist_deg, rise_A
        What was imposed on both half maps: the mean of what both showed, and more where that moves
        steadily from iteration to iteration.
    twist_uncertainty_deg, rise_uncertainty_A
        Half widths of the range that holds the truth in 95 of 100 cases; None where nothing was
        found.
    given
        What the settings said: a search goes on from the last iteration while this is the same.
    halves
        What each half map showed by itself; empty where nothing was found.
    radius_A
        Of the cylinder that half maps were confined to.
    resolution_before_A
        Of the half maps before the helix was imposed; None where they share nothing.
    refused
        Why what a search found was not used; empty where it was, or where none was asked for.
    """

    twist_deg: float
    rise_A: float
    twist_uncertainty_deg: float | None
    rise_uncertainty_A: float | None
    given: Pair
    halves: tuple[Pair, ...]
    radius_A: float
    resolution_before_A: float | None
    refused: str = ""


def helix_from_values(values: dict[str, Any] | None) -> HelixRecord | None:
    """Return a record from what JSON has of it; None of nothing.

    Raises
    ------
    TypeError, ValueError, KeyError
        If it is no record of a helix.
    """
    if values is None:
        return None
    record = HelixRecord(
        **{
            **values,
            "given": _pair(values["given"]),
            "halves": tuple(_pair(half) for half in values["halves"]),
        }
    )
    numbers = (record.twist_deg, record.rise_A, record.radius_A, *record.given)
    optional = (
        record.twist_uncertainty_deg, record.rise_uncertainty_A, record.resolution_before_A
    )  # fmt: skip
    for value in (*numbers, *(value for value in optional if value is not None)):
        if not math.isfinite(float(value)):
            raise ValueError("a helix has finite numbers")
    if not (record.rise_A > 0 and record.radius_A > 0):
        raise ValueError("rise and radius of a helix are positive")
    return record


def _pair(values: Any) -> Pair:
    first, second = values
    return float(first), float(second)


def present_helix(
    settings: RefineSettings, symmetry: str, last: HelixRecord | None
) -> Helix | None:
    """Return the helix that the next half maps are taken to have; None where there is none.

    Parameters
    ----------
    symmetry
        Name of the point group, cN or dN.
    last
        Of the iteration before, which the search goes on from unless other values were given since.
    """
    twist_deg, rise_A = settings.helical_twist_deg, settings.helical_rise_angstrom
    if twist_deg is None or rise_A is None:
        return None
    if settings.searches_helix and last is not None and last.given == (twist_deg, rise_A):
        twist_deg, rise_A = last.twist_deg, last.rise_A
    return Helix(twist_deg, rise_A, int(symmetry[1:]), symmetry.startswith("d"))
