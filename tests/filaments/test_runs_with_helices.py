"""Runs that impose a helix: half maps, what is told of it, and what is refused."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from cryorefine.api.particles import read_particles
from cryorefine.api.progress_display import iteration_line
from cryorefine.events import IterationDone, read_events
from cryorefine.geometry.rotation import matrix_from_rotvec
from cryorefine.io.mrc import read_volume, write_volume
from cryorefine.masks.cylinder import cylinder_mask
from cryorefine.report.build import render_report
from cryorefine.restore.rigid import move_volume
from cryorefine.run.loop import refine, resume
from cryorefine.settings import make_settings
from tests.builders import refused
from tests.filaments.segments import HELIX, correlation, settings_of, write_segments

TWISTS, RISES = "30 36", "10 14"


@pytest.fixture(scope="module")
def segments(tmp_path_factory) -> Path:
    return write_segments(tmp_path_factory.mktemp("segments"), HELIX, 80, snr=1.0)


@pytest.fixture(scope="module")
def imposed(segments, tmp_path_factory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "imposed"
    refine(settings_of(segments, alignment="none"), run)
    return run


@pytest.fixture(scope="module")
def searched(segments, tmp_path_factory) -> Path:
    """From twist and rise that are 5 % too large."""
    run = tmp_path_factory.mktemp("runs") / "searched"
    settings = settings_of(
        segments,
        alignment="none",
        helical_twist_deg=1.05 * HELIX.twist_deg,
        helical_rise_angstrom=1.05 * HELIX.rise_A,
        helical_twist_range_deg=TWISTS,
        helical_rise_range_angstrom=RISES,
    )
    refine(settings, run)
    return run


def helix_of(run: Path) -> dict:
    return json.loads((run / "summary.json").read_text())["helix"]


def test_half_maps_have_the_helix_and_those_before_it_are_kept(segments, imposed):
    truth = read_volume(segments.parent / "truth.mrc").data
    before, after = (
        read_volume(imposed / f"half1{name}.mrc").data for name in ("_unsymmetrised", "")
    )
    assert correlation(after, truth) > correlation(before, truth) + 0.02
    summary = json.loads((imposed / "summary.json").read_text())
    assert summary["resolution_A"] < summary["helix"]["resolution_before_A"]
    assert summary["helix"]["twist_deg"] == HELIX.twist_deg
    assert summary["helix"]["twist_uncertainty_deg"] is None


def test_twist_and_rise_are_found_in_half_maps_within_what_is_told(searched):
    helix = helix_of(searched)
    assert not helix["refused"]
    # One case in twenty lies outside of 95 %, and one in ten thousand outside of twice that.
    assert abs(helix["twist_deg"] - HELIX.twist_deg) < 2 * helix["twist_uncertainty_deg"] < 1.0
    assert abs(helix["rise_A"] - HELIX.rise_A) < 2 * helix["rise_uncertainty_A"] < 0.6
    (one, other) = helix["halves"]
    assert helix["twist_deg"] == pytest.approx((one[0] + other[0]) / 2)
    assert helix["rise_A"] == pytest.approx((one[1] + other[1]) / 2)


def test_terminal_texts_and_report_tell_twist_and_rise(searched):
    helix = helix_of(searched)
    (done,) = [e for e in read_events(searched / "events.jsonl") if isinstance(e, IterationDone)]
    words = f"{helix['twist_deg']:.3f} ± {helix['twist_uncertainty_deg']:.3f}°"
    assert words in iteration_line(done)
    assert words in (searched / "summary.txt").read_text()
    assert "helix" in (searched / "methods.txt").read_text()
    assert words in render_report(searched)


def test_a_search_goes_on_from_where_the_run_stopped(searched, tmp_path):
    found = helix_of(searched)
    narrow = {  # no peak of a landscape lies in it: what was found is imposed again
        "helical_twist_range_deg": "34.5 34.7", "helical_rise_range_angstrom": "12.5 12.7",
    }  # fmt: skip
    resume(searched, changes=narrow, target=tmp_path / "more")
    after = helix_of(tmp_path / "more")
    assert after["refused"]
    assert after["twist_uncertainty_deg"] is None
    assert (after["twist_deg"], after["rise_A"]) == (found["twist_deg"], found["rise_A"])


def test_a_helix_can_be_taken_back(imposed, tmp_path):
    taken_back: dict[str, Any] = dict.fromkeys(
        ("helical_twist_deg", "helical_rise_angstrom", "helical_radius_angstrom")
    )
    resume(imposed, changes=taken_back, target=tmp_path / "without")
    assert helix_of(tmp_path / "without") is None
    assert not (tmp_path / "without" / "half1_unsymmetrised.mrc").exists()
    before = read_volume(imposed / "half1_unsymmetrised.mrc").data
    after = read_volume(tmp_path / "without" / "half1.mrc").data
    # But for the noise spectra, which were measured anew.
    assert correlation(after, before) > 0.999


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"helical_rise_angstrom": None}, ("need each other",)),
        ({"symmetry": "t"}, ("--symmetry t", "cN and dN")),
        ({"helical_twist_range_deg": "30 36"}, ("need each other",)),
        (
            {"helical_twist_range_deg": "34 36", "helical_rise_range_angstrom": RISES},
            ("34 to 36 does not hold --helical-twist-deg 33",),
        ),
        (
            {"helical_twist_range_deg": "36 30", "helical_rise_range_angstrom": RISES},
            ("the lowest and the highest",),
        ),
        ({"helical_inner_radius_angstrom": 60.0}, ("is not below",)),
        ({"min_tilt_deg": 120.0}, ("leave no filament",)),
    ],
    ids=str,
)
def test_settings_of_a_helix_that_do_not_go_together_are_refused(changes, parts):
    with refused(*parts):
        settings_of(Path("particles.star"), **changes)


def test_options_of_a_helix_need_one():
    with refused("--helical-radius-angstrom", "there is no helix"):
        make_settings({"particles": "particles.star", "helical_radius_angstrom": 40})


@pytest.mark.parametrize(
    ("changes", "option"),
    [
        ({"helical_rise_angstrom": 80.0}, "--helical-rise-angstrom"),
        (
            {"helical_twist_range_deg": TWISTS, "helical_rise_range_angstrom": "10 90"},
            "--helical-rise-range-angstrom",
        ),
        ({"helical_radius_angstrom": 90.0}, "--helical-radius-angstrom"),
    ],
)
def test_a_helix_that_does_not_fit_the_box_is_refused_before_anything_is_written(
    segments, tmp_path, changes, option
):
    with refused(option, "box of 160 Å"):
        refine(settings_of(segments, alignment="none", **changes), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_filaments_lie_in_the_image_plane_and_those_that_do_not_can_be_left_out(segments, tmp_path):
    changes = {"helical_max_out_of_plane_deg": 2.0, "reconstruct_min_tilt_deg": 89.0}
    refine(settings_of(segments, alignment="local", iterations=1, **changes), tmp_path / "run")
    given, tilts = (
        read_particles(path).euler_deg[:, 1]
        for path in (segments, tmp_path / "run" / "particles.star")
    )
    # Poses that a local run is given outside the limits are set aside.
    is_inside = abs(given - 90) <= 2
    assert abs(tilts[is_inside] - 90).max() < 2.001
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["left_out"] == {
        "poses outside the tilt limits": int((~is_inside).sum()),
        "tilts that are not reconstructed": int((tilts[is_inside] < 89).sum()),
    }
    assert summary["helix"]["rise_A"] == HELIX.rise_A


@pytest.mark.slow
def test_a_run_of_a_helix_with_a_threefold_axis_finds_twist_and_rise_and_imposes_the_axis(tmp_path):
    helix = replace(HELIX, fold=3)
    segments = write_segments(tmp_path, helix, 80, snr=1.0)
    settings = settings_of(
        segments,
        symmetry="c3",
        reference=(segments.parent / "truth.mrc",),
        initial_lowpass_angstrom=20.0,
        alignment="global",
        iterations=2,
        helical_twist_deg=1.02 * helix.twist_deg,
        helical_rise_angstrom=1.02 * helix.rise_A,
        helical_twist_range_deg=TWISTS,
        helical_rise_range_angstrom=RISES,
    )
    summary = refine(settings, tmp_path / "run")
    found = summary["helix"]
    assert summary["symmetry"] == "c3"
    assert not found["refused"]
    # Twists a third of a turn apart are one.
    turn_deg = math.remainder(found["twist_deg"] - helix.twist_deg, 120)
    assert abs(turn_deg) < max(2 * found["twist_uncertainty_deg"], 0.3)
    assert abs(found["rise_A"] - helix.rise_A) < max(2 * found["rise_uncertainty_A"], 0.1)
    made = read_volume(tmp_path / "run" / "half1.mrc").data
    third = matrix_from_rotvec(torch.tensor([0.0, 0.0, 2 * math.pi / 3], dtype=torch.float64))
    assert correlation(made, move_volume(made, third, torch.zeros(3))) > 0.98


@pytest.mark.parametrize(
    ("symmetry", "is_cylinder", "is_told"),
    [("d1", True, True), ("d1", False, False), ("c1", True, False)],
)
def test_two_fold_axes_on_a_cylinder_are_warned_of(
    segments, tmp_path, symmetry, is_cylinder, is_told
):
    truth = read_volume(segments.parent / "truth.mrc")
    cylinder = cylinder_mask(len(truth.data), 0.3 * len(truth.data), 3.0)
    write_volume(tmp_path / "start.mrc", cylinder if is_cylinder else truth.data, truth.voxel_A)
    settings = settings_of(
        segments,
        reference=(tmp_path / "start.mrc",),
        symmetry=symmetry,
        alignment="local",
        iterations=1,
        initial_lowpass_angstrom=20.0,
    )
    told = []
    refine(settings, tmp_path / "run", listeners=(told.append,))
    warnings = [event.message for event in told if event.kind == "warning"]
    assert any("the initial map is a cylinder" in text for text in warnings) == is_told
