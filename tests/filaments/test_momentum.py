"""Twist and rise are carried on while they move steadily, and a run does not end meanwhile."""

from pathlib import Path

import pytest

from cryorefine.filaments.momentum import carried_on, is_moving
from cryorefine.geometry.helix import Helix
from cryorefine.helices.half_maps import HelixFound
from cryorefine.settings import make_settings
from cryorefine.state.helix import HelixRecord

GIVEN = (30.0, 12.0)
SETTINGS = make_settings(
    {
        "particles": Path("segments.star"),
        "helical_twist_deg": GIVEN[0],
        "helical_rise_angstrom": GIVEN[1],
        "helical_twist_range_deg": (25, 35),
        "helical_rise_range_angstrom": (10, 14),
    }
)


def record(twist_deg: float, rise_A: float = 12.0, found: bool = True) -> HelixRecord:
    halves = ((twist_deg, rise_A), (twist_deg, rise_A)) if found else ()
    unsure = (0.1, 0.1) if found else (None, None)
    return HelixRecord(twist_deg, rise_A, *unsure, GIVEN, halves, 50.0, 10.0)


def found(twist_deg: float, rise_A: float = 12.0, fold: int = 1) -> HelixFound:
    helix = Helix(twist_deg, rise_A, fold)
    return HelixFound(helix, 0.1, 0.1, (helix, helix))


def test_a_helix_that_moves_on_in_one_direction_is_carried_on_within_its_range():
    assert carried_on(found(30.7), [record(30.4)], SETTINGS).twist_deg == pytest.approx(30.85)
    # Further would be 35.2, out of the range: what was found is imposed, not the end of the range.
    assert carried_on(found(34.8), [record(34.0)], SETTINGS).twist_deg == 34.8
    rise_A = carried_on(found(30.0, 12.6), [record(30.0, 12.3)], SETTINGS).rise_A
    assert rise_A == pytest.approx(12.75)


def test_a_helix_that_turns_back_stands_still_or_was_not_found_before_is_not():
    for helix, before in ((30.1, record(30.4)), (30.41, record(30.4)), (30.7, record(30.0))):
        assert carried_on(found(helix), [before], SETTINGS).twist_deg == helix
    assert carried_on(found(30.7), [], SETTINGS).twist_deg == 30.7
    assert carried_on(found(30.7), [record(30.4, found=False)], SETTINGS).twist_deg == 30.7


def test_a_run_ends_only_when_twist_and_rise_stand_still():
    assert is_moving([record(30.4)])
    assert is_moving([record(30.4), record(30.5)])
    assert not is_moving([record(30.4), record(30.41)])
    assert is_moving([record(30.4), record(30.4, 12.3)])
    assert not is_moving([record(30.4, found=False)])
    assert not is_moving([None])
    assert not is_moving([])
