"""How twist and rise move from iteration to iteration, and how far they are carried on.

A reference leaves its own helix in the map that is made with it. Of the way to the true one each
iteration goes a part only: the less, the coarser the map.
"""

import math
from collections.abc import Sequence
from dataclasses import replace

from cryorefine.geometry.helix import Helix
from cryorefine.helices.half_maps import HelixFound
from cryorefine.settings import RefineSettings
from cryorefine.state.helix import HelixRecord

__all__ = ["carried_on", "is_moving"]

_STILL = 0.25
"""Movement in units of the uncertainty that is no movement any more: an eighth of a standard
deviation of 95 %. Not measured."""

_CARRY = 0.5
"""Movements that are added to one that goes on in the direction of the one before. An iteration
goes none of the way at 14 Å, a tenth at 13, a third at 12, half at 10 and 0.6 at 8 (300 segments
of 48 px, from 5 % beside the truth): twice the movement leads beyond the truth from 12 Å on, where
one half can stay. Of 28 to 30 runs each 2 left five at 0.18 to 0.29°, 1 one, 0.5 and 0 none; they
took 13.9, 12.3, 12.3 and 13.7 iterations (``benchmarks/RESULTS.md``, "Helices")."""


def is_moving(records: Sequence[HelixRecord | None]) -> bool:
    """Tell whether twist or rise moved in the last iteration by more than they are uncertain."""
    move = _move(records, len(records) - 1)
    last = records[-1] if records else None
    if move is None or last is None:
        return False
    return any(abs(x) > _STILL * (u or 0.0) for x, u in zip(move, _uncertainty(last), strict=True))


def carried_on(
    found: HelixFound,
    records: Sequence[HelixRecord | None],
    settings: RefineSettings,
) -> Helix:
    """Return the helix to impose: what was found, carried on where it moves steadily.

    Parameters
    ----------
    records
        Of the iterations before.
    settings
        Ranges of twist and rise: what would lie beyond them is not carried on.
    """
    before, last = _move(records, len(records) - 1), records[-1] if records else None
    if before is None or last is None:
        return found.helix
    helix, sector = found.helix, 360 / found.helix.fold
    move = (math.remainder(helix.twist_deg - last.twist_deg, sector), helix.rise_A - last.rise_A)
    uncertainty = (found.twist_uncertainty_deg, found.rise_uncertainty_A)
    twist, rise = (
        _CARRY * now if now * then > 0 and abs(now) > _STILL * unsure else 0.0
        for now, then, unsure in zip(move, before, uncertainty, strict=True)
    )
    return replace(
        helix,
        twist_deg=_carried(helix.twist_deg, twist, settings.helical_twist_range_deg),
        rise_A=_carried(helix.rise_A, rise, settings.helical_rise_range_angstrom),
    )


def _carried(found: float, further: float, limits: tuple[float, ...]) -> float:
    """Return what is found, carried on unless that leads out of its range or to the end of it."""
    low, high = limits
    return found + further if low < found + further < high else found


def _move(records: Sequence[HelixRecord | None], at: int) -> tuple[float, float] | None:
    """Return by how much what was found in an iteration lies from what the one before imposed."""
    this = records[at] if 0 <= at < len(records) else None
    if this is None or not this.halves:
        return None
    earlier = records[at - 1] if at > 0 else None
    goes_on = earlier is not None and earlier.given == this.given
    begun = (earlier.twist_deg, earlier.rise_A) if earlier is not None and goes_on else this.given
    (twist1, rise1), (twist2, rise2) = this.halves
    # Twists of an n-fold axis are the same a sector apart; both halves are near each other.
    return (twist1 + twist2) / 2 - begun[0], (rise1 + rise2) / 2 - begun[1]


def _uncertainty(record: HelixRecord) -> tuple[float | None, float | None]:
    return record.twist_uncertainty_deg, record.rise_uncertainty_A
