from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cryorefine.formats.losses import FEATURES
from cryorefine.formats.read import read_particles
from cryorefine.formats.registry import FORMATS, format_of
from cryorefine.particles.formats.read_options import ReadOptions
from tests.formats.sets import assert_same_where_held, full_table

ABERRATIONS = {"odd_zernike", "even_zernike", "magnification"}
LOST = {
    "relion": set(),
    "cryosparc": ABERRATIONS | {"phase_flipped", "group_names"},
    "xmipp": ABERRATIONS | {"half_sets", "bfactor", "beam_tilt", "group_names"},
    "cistem": ABERRATIONS | {"bfactor", "ctf_scale", "beam_tilt", "phase_flipped", "group_names"},
    "cryodrgn": ABERRATIONS
    | {"half_sets", "bfactor", "ctf_scale", "beam_tilt", "phase_flipped", "group_names"}
    | {"micrographs"},
}  # fmt: skip
"""What a format has no place for, or none whose convention is known."""

BY_NAME = {one.name: one for one in FORMATS}
FILES = {
    "relion": "out.star", "cryosparc": "out.cs", "xmipp": "out.xmd", "cistem": "out_cistem.star",
    "cryodrgn": "poses.pkl",
}  # fmt: skip


def features_in(clauses: tuple[str, ...]) -> set[str]:
    """Return the features that clauses say are lost."""
    return {name for name, text in FEATURES.items() if text in clauses}


def converted(table, name: str, folder: Path):
    """Write and read a table in a format; return it and what was said to be lost."""
    lost = BY_NAME[name].write(folder / FILES[name], table)
    found = format_of(folder / FILES[name])
    assert found.name == name
    return found.read(folder / FILES[name], ReadOptions()).table, features_in(lost)


def test_every_format_is_here():
    assert set(FILES) == set(BY_NAME)


@pytest.mark.parametrize("second", FILES)
@pytest.mark.parametrize("first", FILES)
def test_through_two_formats_all_values_come_back_or_are_listed(tmp_path, first, second):
    table = full_table(tmp_path)
    once, lost = converted(table, first, tmp_path)
    assert_same_where_held(once, table, lost)
    twice, lost_then = converted(once, second, tmp_path)
    assert_same_where_held(twice, table, lost | lost_then)


@pytest.mark.parametrize("name", FILES)
def test_a_format_loses_only_what_it_has_no_place_for_and_names_unknown_columns(tmp_path, name):
    lost = BY_NAME[name].write(tmp_path / FILES[name], full_table(tmp_path))
    assert features_in(lost) == LOST[name]
    assert any("rlnClassNumber" in clause for clause in lost) == (name != "relion")


@pytest.mark.parametrize("name", FILES)
def test_what_a_table_lacks_is_not_said_to_be_lost(tmp_path, name):
    table = full_table(tmp_path)
    plain = replace(
        table.optics[0], name="opticsGroup1", beam_tilt_mrad=(0.0, 0.0), odd_zernike=(),
        even_zernike=(), magnification=(1.0, 0.0, 0.0, 1.0), correction="none",
    )  # fmt: skip
    rows = np.flatnonzero(table.optics_index == 0)
    n = len(rows)
    table = replace(
        table.select(rows), optics=(plain,), optics_index=np.zeros(n, np.int32), extra={},
        micrographs=(), half_set=np.zeros(n, np.int8), phase_shift_rad=np.zeros(n),
        bfactor_A2=np.zeros(n), ctf_scale=np.ones(n),
    )  # fmt: skip
    assert BY_NAME[name].write(tmp_path / FILES[name], table) == ()
    again = read_particles(tmp_path / FILES[name])
    assert_same_where_held(again, table, set())
    assert again.optics[0].has_ctf
