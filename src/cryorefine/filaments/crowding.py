"""Segments of one filament that lie too near to each other to be two."""

import numpy as np
from jaxtyping import Bool

from cryorefine.events import EventLog
from cryorefine.particles.half_sets import filaments
from cryorefine.particles.identity import SAME_PLACE_PX, coordinates_px
from cryorefine.particles.table import ParticleTable

__all__ = ["warn_of_crowded_segments"]

_TRACK = "rlnHelicalTrackLengthAngst"

_ROUNDING = 0.99
"""Share of the rise from which segments are a rise apart: particle files have lengths with few
decimals."""


def warn_of_crowded_segments(table: ParticleTable, rise_A: float, events: EventLog) -> None:
    """Warn of segments that lie nearer than a rise to another of their filament.

    Such segments show the same subunits at the same place: they are one, given twice, and count
    twice. Lengths along the filament tell it, or else equal coordinates in the micrograph.
    """
    filament = filaments(table)
    if filament is None:
        return
    is_near = _near_along(table, filament, rise_A)
    where = f"{table.source}, column _{_TRACK}"
    if is_near is None:
        is_near = _at_one_place(table, filament)  # none where places are not known
        where = f"{table.source}, columns _rlnCoordinateX and _rlnCoordinateY"
    if is_near.any():
        first = int(np.argmax(is_near))
        events.warn(
            f"{where}: {int(is_near.sum())} of {len(table)} segments lie less than a rise "
            f"({rise_A:g} Å) from another of their filament (first: {table.names[first]}), and "
            "count twice: leave duplicates out"
        )


def _near_along(
    table: ParticleTable, filament: np.ndarray, rise_A: float
) -> Bool[np.ndarray, "n"] | None:
    """Tell which segments follow another by less than a rise; None where lengths do not tell."""
    if _TRACK not in table.extra:
        return None
    try:
        track_A = table.extra[_TRACK].astype(np.float64)
    except ValueError:
        return None
    order = np.lexsort((track_A, filament))
    follows = np.diff(filament[order]) == 0
    near = follows & (np.diff(track_A[order]) < _ROUNDING * rise_A)
    out = np.zeros(len(table), bool)
    out[order[1:][near]] = True
    return out


def _at_one_place(table: ParticleTable, filament: np.ndarray) -> Bool[np.ndarray, "n"]:
    """Tell which segments have the coordinates of another."""
    place_px = coordinates_px(table)
    order = np.lexsort((place_px[:, 1], place_px[:, 0], filament))
    follows = np.diff(filament[order]) == 0
    near = follows & (np.abs(np.diff(place_px[order], axis=0)) < SAME_PLACE_PX).all(1)
    out = np.zeros(len(table), bool)
    out[order[1:][near]] = True
    return out
