"""Segments that were given twice are told of before a run starts."""

from dataclasses import replace

import numpy as np

from cryorefine.events import EventLog
from cryorefine.filaments.crowding import warn_of_crowded_segments
from tests.builders import make_table


def told(extra: dict[str, list], rise_A: float = 12.0) -> list[str]:
    n = len(next(iter(extra.values())))
    columns = {label: np.array(values) for label, values in extra.items()}
    table = replace(make_table(n, micrograph=[0] * n), extra=columns)
    said: list[str] = []
    warn_of_crowded_segments(table, rise_A, EventLog(None, [lambda event: said.append(str(event))]))
    return said


TUBES = [1, 1, 1, 2, 2, 2]


def test_segments_nearer_than_a_rise_on_one_filament_are_told_of():
    (said,) = told(
        {
            "rlnHelicalTubeID": TUBES,
            "rlnHelicalTrackLengthAngst": [0.0, 36.0, 41.0, 0.0, 12.0, 24.0],
        }
    )
    assert "1 of 6 segments" in said
    assert "rlnHelicalTrackLengthAngst" in said


def test_segments_a_rise_apart_and_those_of_other_filaments_are_not():
    lengths = [0.0, 12.0, 24.0, 1.0, 13.0, 25.0]
    assert not told({"rlnHelicalTubeID": TUBES, "rlnHelicalTrackLengthAngst": lengths})
    assert not told({"rlnHelicalTrackLengthAngst": [0.0, 1.0]})


def test_without_lengths_equal_coordinates_tell_it():
    (said,) = told(
        {
            "rlnHelicalTubeID": TUBES,
            "rlnCoordinateX": [10.0, 20.0, 30.0, 10.0, 20.0, 20.4],
            "rlnCoordinateY": [5.0] * 6,
        }
    )
    assert "1 of 6 segments" in said
    assert "rlnCoordinateX" in said
