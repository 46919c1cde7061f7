"""A particle file that can be read and is not what it seems: what is said of it."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from cryorefine.engine.serial import SerialEngine
from cryorefine.errors import InputError
from cryorefine.events import EventLog
from cryorefine.io.star import read_star, write_star
from cryorefine.particles.formats.relion import read_relion
from cryorefine.particles.half_sets import assign_halves
from cryorefine.particles.images import open_images
from cryorefine.run.inputs import open_inputs, screen
from cryorefine.settings import make_settings
from tests.builders import (
    line_of,
    optics_columns,
    particle_columns,
    refused,
    write_mrc,
    write_particle_star,
)
from tests.robustness.small_set import BOX_PX, N_PARTICLES, PIXEL_A, SmallSet, valid_set

ANGLES = {"rlnAngleRot": 10.0, "rlnAngleTilt": 20.0, "rlnAnglePsi": 30.0}
SHIFTS = {"rlnOriginXAngst": 1.0, "rlnOriginYAngst": 2.0}


def remarks(tmp_path: Path, optics: dict | None = None, **changes) -> tuple[str, ...]:
    default = particle_columns(4)
    changes = {k: v for k, v in changes.items() if v is not None or k in default}
    star = write_particle_star(
        tmp_path / "p.star",
        particle_columns(4, **changes),
        optics=optics_columns(1, **(optics or {})),
    )
    return read_relion(star).remarks


def renamed(chosen: SmallSet, old: str, new: str) -> SmallSet:
    columns = {new if k == old else k: v for k, v in chosen.particles.items()}
    return dataclasses.replace(chosen, particles=columns)


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("rlnAngelRot", "rlnAngleRot"),
        ("rlnAnglerot", "rlnAngleRot"),
        ("AngleRot", "rlnAngleRot"),
        ("rlnAngleTlt", "rlnAngleTilt"),
        ("rlnOriginXAngstrom", "rlnOriginXAngst"),
        ("rlnOriginXAng", "rlnOriginXAngst"),
        ("rlnMicrographname", "rlnMicrographName"),
        ("rlnMicrographNmae", "rlnMicrographName"),
        ("rlnRandomSubsets", "rlnRandomSubset"),
        ("rlnCtfBFactor", "rlnCtfBfactor"),
        ("rlnPhaseShft", "rlnPhaseShift"),
    ],
)
def test_a_misspelt_column_is_told_of_with_its_line_and_what_it_may_be_meant_for(
    tmp_path, wrong, right
):
    columns = {**ANGLES, **SHIFTS, "rlnRandomSubset": 1, right: None, wrong: 1}
    found = remarks(tmp_path, **columns)
    told = [m for m in found if f"column _{wrong} " in m and f"no _{right}" in m]
    assert len(told) == 1, found
    assert f"p.star, line {line_of(tmp_path / 'p.star', f'_{wrong} ')}" in told[0]


def test_a_misspelt_column_of_the_optics_is_told_of(tmp_path):
    [told] = remarks(tmp_path, optics={"rlnBeamTitlX": 0.1})
    assert "column _rlnBeamTitlX" in told
    assert "no _rlnBeamTiltX" in told


@pytest.mark.parametrize(
    ("missing", "wrong", "block"),
    [
        ("rlnImageName", "rlnImageNme", "particles"),
        ("rlnDefocusU", "rlnDefocus_U", "particles"),
        ("rlnVoltage", "rlnVoltag", "optics"),
        ("rlnImagePixelSize", "rlnImagePixelsize", "optics"),
    ],
)
def test_an_error_about_a_missing_column_names_the_one_that_may_be_meant(
    tmp_path, missing, wrong, block
):
    change = {missing: None, wrong: 1.0}
    optics, particles = (change if block == name else {} for name in ("optics", "particles"))
    with refused(f"_{missing}", f"is {tmp_path / 'p.star'}, line ", f"column _{wrong} meant for"):
        remarks(tmp_path, optics=optics, **particles)


def test_columns_of_other_programs_and_of_relion_are_nobodys_business(tmp_path):
    others = (
        "rlnAngleRotPrior", "rlnAngleTiltPrior", "rlnAnglePsiPrior", "rlnOriginX", "rlnOriginY",
        "rlnOriginZAngst", "rlnMicrographNameNoDW", "rlnImageOriginalName", "rlnCoordinateX",
        "rlnCtfMaxResolution", "rlnCtfFigureOfMerit", "rlnGroupNumber", "rlnClassNumber",
        "rlnHelicalTubeID", "rlnBeamTiltClass", "rlnNormCorrection", "rlnAutopickFigureOfMerit",
        "rlnAnglePsiFlipRatio", "rlnMicrographId", "myScore",
    )  # fmt: skip
    for given in ({}, {**ANGLES, **SHIFTS}):
        found = remarks(
            tmp_path, optics={"rlnMicrographPixelSize": 1.0, "rlnMicrographOriginalPixelSize": 1.0},
            **given, **dict.fromkeys(others, 1.0),
        )  # fmt: skip
        assert found == ()


@pytest.mark.parametrize(
    "name", ["relion31.v2.star", "relion5.star", "relion31.6opticsgroups.star"]
)
def test_nothing_is_said_of_real_files_that_are_whole(shared_data, name):
    assert read_relion(shared_data / "formats" / name).remarks == ()


def test_of_two_angles_it_is_told_that_no_pose_is_read(tmp_path):
    [told] = remarks(tmp_path, **{**ANGLES, **SHIFTS, "rlnAngleTilt": None})
    assert "no pose is read" in told
    assert "_rlnAngleRot, _rlnAnglePsi and no _rlnAngleTilt" in told
    # 2D classification leaves psi and shifts.
    assert remarks(tmp_path, **{**SHIFTS, "rlnAnglePsi": 30.0}) == ()


def test_missing_shifts_beside_angles_are_told_of(tmp_path):
    [one] = remarks(tmp_path, **ANGLES, rlnOriginXAngst=1.0)
    assert "along one axis are taken as 0: no _rlnOriginYAngst" in one
    [none] = remarks(tmp_path, **ANGLES)
    assert "all shifts are taken as 0" in none
    [pixels] = remarks(tmp_path, **ANGLES, rlnOriginX=1.0, rlnOriginY=1.0)
    assert "_rlnOriginX, _rlnOriginY in pixels are not read" in pixels


def test_poses_that_are_all_zero_are_told_of(tmp_path):
    [told] = remarks(tmp_path, **dict.fromkeys(ANGLES, 0.0), **SHIFTS)
    assert "all angles are 0" in told


def test_alignment_that_needs_poses_says_which_column_is_misspelt(tmp_path):
    star = renamed(valid_set(), "rlnAngleRot", "rlnAngelRot").write(tmp_path)
    for alignment in ("local", "none"):
        settings = make_settings({"particles": star, "alignment": alignment})
        with refused("the file has no angles", f"line {line_of(star, '_rlnAngelRot')}"):
            open_inputs(settings)


def test_what_is_said_of_a_file_is_told_as_warnings_of_a_run(tmp_path):
    star = renamed(valid_set(), "rlnAngleRot", "rlnAngelRot").write(tmp_path)
    settings = make_settings({"particles": star, "reference": [tmp_path / "reference.mrc"]})
    log, events = EventLog(), []
    log.subscribe(events.append)
    screen(open_inputs(settings), 8.0, log, SerialEngine())
    told = [e.message for e in events if e.kind == "warning"]
    assert len(told) == 2
    assert "_rlnAngelRot" in told[0]
    assert "no pose is read" in told[1]


def test_without_micrographs_it_is_told_how_half_sets_are_dealt(tmp_path):
    for changes, expected in (({}, 0), ({"rlnMicrographName": None}, 1)):
        table = read_relion(
            write_particle_star(tmp_path / "p.star", particle_columns(8, **changes))
        )
        log, events = EventLog(), []
        log.subscribe(events.append)
        assign_halves(table, seed=0, events=log)
        told = [e.message for e in events if "no column _rlnMicrographName" in e.message]
        assert len(told) == expected


def test_wherever_a_file_is_cut_it_is_refused_or_told_of_or_nothing_is_lost(tmp_path):
    whole = tmp_path / "whole.star"
    write_star(
        whole,
        {
            "optics": {k: np.array(v) for k, v in optics_columns(1).items()},
            "particles": {
                k: np.array(v)
                for k, v in particle_columns(6, **ANGLES, **SHIFTS, rlnCtfBfactor=0.12345).items()
            },
        },
    )
    data, rows = whole.read_bytes(), read_star(whole)["particles"].columns
    assert read_relion(whole).remarks == ()
    silent = []
    last_rows = len(data) - 300
    for length in (*range(0, last_rows, 11), *range(last_rows, len(data))):
        cut = tmp_path / "cut.star"
        cut.write_bytes(data[:length])
        try:
            table = read_relion(cut)
        except InputError:
            continue
        if not any("was the file copied whole?" in m for m in table.remarks):
            found = read_star(cut)["particles"].columns
            if any(found[k].tolist() != rows[k].tolist() for k in rows):
                silent.append(length)
    assert silent == []


def test_a_file_cut_in_its_last_value_says_so_and_how_many_rows_are_read(tmp_path):
    star = write_particle_star(tmp_path / "p.star", particle_columns(4))
    text = star.read_text().rstrip()
    star.write_text(text[:-1])
    [told] = read_relion(star).remarks
    assert "may be cut short" in told
    assert "4 rows are read" in told
    assert f"line {len(text.splitlines())}" in told
    star.write_text(text + "\n")  # of a program that names no version and leaves no empty line
    assert read_relion(star).remarks == ()
    star.write_text(text + "\n# by hand")
    assert read_relion(star).remarks == ()


def test_a_file_of_relion_cut_after_a_row_says_so(tmp_path):
    star = write_particle_star(tmp_path / "p.star", particle_columns(4))
    lines = ["# version 30001", *star.read_text().rstrip().splitlines()]
    star.write_text("\n".join(lines[:-2]) + "\n")
    [told] = read_relion(star).remarks
    assert "rows may be missing" in told
    assert "2 rows are read" in told
    star.write_text("\n".join(lines) + "\n\n")
    assert read_relion(star).remarks == ()


@pytest.mark.parametrize(
    ("header_A", "expected"), [(1.5, 0), (1.507, 0), (0.0, 0), (1.0, 0), (1.6, 1)]
)
def test_a_pixel_size_that_is_not_that_of_the_stack_is_told_of(tmp_path, header_A, expected):
    star = write_particle_star(tmp_path / "p.star", particle_columns(4))
    images = np.random.default_rng(0).normal(size=(6, 8, 8)).astype(np.float32)  # more than rows
    write_mrc(tmp_path / "stack.mrcs", images, pixel_A=header_A)
    table, _ = open_images(read_relion(star))
    assert len(table.remarks) == expected
    assert all("1.5 Å here and of 1.6 Å in" in m for m in table.remarks)


def test_an_initial_map_in_the_images_box_with_other_voxels_is_told_of(tmp_path):
    star = valid_set().write(tmp_path)
    volume = valid_set().reference
    for voxel_A, expected in ((PIXEL_A, 0), (1.0, 1)):
        write_mrc(tmp_path / "reference.mrc", volume, pixel_A=voxel_A)
        given = {"particles": star, "reference": [tmp_path / "reference.mrc"]}
        log, events = EventLog(), []
        log.subscribe(events.append)
        open_inputs(make_settings(given)).start_volumes(log)
        told = [e.message for e in events if "--reference-voxel-angstrom" in e.message]
        assert len(told) == expected
        log, events = EventLog(), []
        log.subscribe(events.append)
        given["reference_voxel_angstrom"] = PIXEL_A
        open_inputs(make_settings(given)).start_volumes(log)
        assert events == []
    assert (BOX_PX, N_PARTICLES) == (24, 20)
