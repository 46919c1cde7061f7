"""Single figures of the report, and numbers in words."""

import json
import re
from base64 import b64decode
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest

from cryorefine.io.star import write_star
from cryorefine.report.curves import draw_final_curves
from cryorefine.report.defocus_groups import draw_defocus_groups
from cryorefine.report.directions import draw_directions
from cryorefine.report.histograms import draw_shift
from cryorefine.report.illustration import attempt, render_svg
from cryorefine.report.iterations import draw_counts, draw_turn
from cryorefine.report.number_formats import amount, angstrom, count, duration, memory
from cryorefine.report.pictures import show_projections, show_slices
from cryorefine.report.run_folder import RunFolder
from tests.report.run_folders import (
    VOXEL_A,
    fsc_columns,
    make_run,
    particle_blocks,
    summary,
    write_events,
)


@pytest.fixture(scope="module")
def finished_run(tmp_path_factory) -> Path:
    return make_run(tmp_path_factory.mktemp("figures") / "run")


def test_comparison_curve_appears_when_its_column_is_there(tmp_path):
    run = make_run(tmp_path / "run")
    name = "against the given map; not used in refinement"
    assert name not in [key.label for key in draw_final_curves(RunFolder(run)).keys]
    columns = fsc_columns(9.0)
    columns["cryorefineComparisonFSC"] = fsc_columns(10.0)["rlnFourierShellCorrelationCorrected"]
    write_star(run / "fsc.star", {"fsc": columns})
    figure = draw_final_curves(RunFolder(run))
    assert name in [key.label for key in figure.keys]
    said = re.search(r"given map falls below 0.5 for good at ([\d.]+) Å", figure.caption)
    assert float(said.group(1)) == pytest.approx(10, rel=0.01)


def test_final_curves_show_that_outside_the_mask_unless_an_older_run_lacks_it(tmp_path):
    run = make_run(tmp_path / "run")
    assert "outside the mask" in [key.label for key in draw_final_curves(RunFolder(run)).keys]
    columns = fsc_columns(9.0)
    del columns["cryorefineFourierShellCorrelationOutsideMask"]
    write_star(run / "fsc.star", {"fsc": columns})
    figure = draw_final_curves(RunFolder(run))
    assert "outside the mask" not in [key.label for key in figure.keys]
    assert "corrected" in [key.label for key in figure.keys]


@pytest.mark.filterwarnings("error")
def test_turns_of_poses_that_stand_still_leave_room_for_the_others(tmp_path):
    run = make_run(tmp_path / "run")
    events = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
    for event in events:
        if event["kind"] == "iteration" and event["iteration"] == 2:
            event["median_turn_deg"] = 1e-9
    write_events(run, events)
    drawn = draw_turn(RunFolder(run)).svg
    labels = [float(text) for text in re.findall(r">([0-9.]+)</text>", drawn)]
    assert min(labels) > 1e-4
    assert 1.0 in labels


def test_curve_that_never_falls_is_not_called_a_crossing(tmp_path):
    run = make_run(tmp_path / "run")
    numbers = summary(2, finished=True) | {"resolution_A": 2 * VOXEL_A}
    (run / "summary.json").write_text(json.dumps(numbers))
    assert "stays above 0.143 as far as the voxels reach (6.00 Å)" in (
        draw_final_curves(RunFolder(run)).caption
    )


def brightest(panel) -> tuple[float, float]:
    """Return where a picture is brightest: right and up of its middle, as fractions."""
    from matplotlib.image import imread

    picture = imread(BytesIO(b64decode(panel.data_uri.split(",")[1])))
    row, column = (float(v.mean()) for v in np.nonzero(picture >= picture.max() - 1e-6))
    height, width = picture.shape
    return column / (width - 1) - 0.5, 0.5 - row / (height - 1)


@pytest.mark.parametrize("show", [show_slices, show_projections])
def test_pictures_have_their_axes_as_they_say(finished_run, show):
    panels = show(RunFolder(finished_run)).panels
    offset = {"x": -3, "y": 2, "z": -1}
    for panel in panels:
        right, up = re.search(r"(\w) to the right, (\w) up", panel.title).groups()
        side = 19.0  # voxels of the mask and the margin
        assert brightest(panel) == pytest.approx(
            (offset[right] / side, offset[up] / side), abs=0.5 / side
        )


def test_scale_bar_is_round_and_in_proportion(finished_run):
    (panel, *_) = show_slices(RunFolder(finished_run)).panels
    assert panel.bar_label == "10 Å"
    assert panel.bar_percent == pytest.approx(100 * 10 / (19 * VOXEL_A))


def test_views_of_a_large_table_are_thinned_out_and_it_is_said(finished_run, monkeypatch):
    monkeypatch.setattr("cryorefine.report.directions._MAX_VIEWS", 20)
    figure = draw_directions(RunFolder(finished_run))
    assert "(20 of 60 particles taken)" in figure.caption


def test_particles_at_the_shift_limit_are_counted(tmp_path):
    run = make_run(tmp_path / "run")
    blocks = particle_blocks()
    blocks["particles"]["cryorefineShiftAtLimit"][:3] = 1
    write_star(run / "particles.star", blocks)
    figure = draw_shift(RunFolder(run))
    assert "3 of 60 lie at the limit" in figure.caption
    assert "limit 7.20" in figure.svg  # 10 % of 24 pixels of 3 Å


def test_missing_column_gives_a_note(tmp_path):
    run = make_run(tmp_path / "run")
    write_star(run / "particles.star", {"particles": {"rlnOriginXAngst": np.zeros(3)}})
    figure = attempt("Shifts", lambda: draw_shift(RunFolder(run)))
    assert "rlnOriginYAngst" in figure.notes[0]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (amount(0.0694), "0.0694"),
        (amount(9.996), "10.0"),
        (amount(1234.6), "1235"),
        (amount(-2.5, 2), "−2.5"),
        (amount(None), "–"),
        (angstrom(7.2932), "7.29 Å"),
        (angstrom(None), "not determined"),
        (angstrom(float("inf")), "not determined"),
        (count(1234567), "1\u202f234\u202f567"),
        (duration(9.94), "9.9 s"),
        (duration(59.9), "1 min 0 s"),
        (duration(201.4), "3 min 21 s"),
        (duration(7260), "2 h 1 min"),
        (duration(90000), "1 d 1 h"),
        (memory(512), "512 bytes"),
        (memory(1.281e9), "1.28 GB"),
        (memory(999_900), "1.00 MB"),
    ],
)
def test_numbers_are_written_in_words_that_people_use(text, expected):
    assert text == expected


def test_correlation_is_drawn_for_each_half_of_each_defocus_group_with_or_without_a_defocus(
    tmp_path,
):
    run = make_run(tmp_path / "run")
    with_defocus = draw_defocus_groups(RunFolder(run))
    assert "mean defocus of the group (µm)" in with_defocus.svg
    blocks = particle_blocks()
    for label in ("rlnDefocusU", "rlnDefocusV"):
        del blocks["particles"][label]
    write_star(run / "particles.star", blocks)
    without = draw_defocus_groups(RunFolder(run))
    assert "defocus" not in without.svg.split("aria-label")[1].split(">", 1)[1]
    for figure in (with_defocus, without):
        assert all(f"var(--{colour}" in figure.svg for colour in ("blue", "amber"))


def test_particles_by_iteration_draws_those_used_and_those_not(tmp_path):
    run = RunFolder(make_run(tmp_path / "run"))
    assert [(it.n_used, it.n_not_used) for it in run.iterations] == [(60, 1), (60, 4)]
    assert draw_counts(run).svg


@pytest.mark.parametrize("largest", [3e-7, 0.0123, 1.0, 250.0, 2e6, 3e9])
def test_all_labels_of_a_figure_lie_within_it_and_its_axes_fill_it(largest):
    drawn = []

    def draw(figure):
        axes = figure.subplots()
        axes.plot([0, largest], [0, largest])
        axes.set(xlabel="x", ylabel="y", xlim=(0, largest), ylim=(0, largest))
        drawn.append(figure)

    render_svg("a", (3.0, 2.0), "a line", draw)
    box = drawn[0].get_tightbbox()
    assert 0 <= box.x0 <= 0.2
    assert 0 <= box.y0 <= 0.1
    assert 2.8 <= box.x1 <= 3
    assert 1.85 <= box.y1 <= 2
