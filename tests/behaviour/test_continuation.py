"""A run goes on with other settings or other particles, and nothing that was found is lost."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import cryorefine.run.later_segments as later_segments_module
import cryorefine.run.loop as loop_module
import cryorefine.run.running_segment as running_segment_module
import cryorefine.run.segments as segments_module
from cryorefine.cli.main import main
from cryorefine.errors import StoppedEarly
from cryorefine.events import Event, read_events
from cryorefine.io.star import read_star
from cryorefine.particles.formats.relion import read_relion, write_relion
from cryorefine.run.checkpoint import committed_iterations, load_state
from cryorefine.run.continuation import FIXED, Changes, merge_settings
from cryorefine.run.loop import refine, resume
from cryorefine.run.segments import Segment, read_segments
from cryorefine.settings import RefineSettings, load_settings, make_settings, save_settings
from tests.builders import refused
from tests.run.test_checkpoint import assert_bit_equal

from .conftest import settings_for, simulate_set

# A value of one of these is a valid one, other than the default, of every setting.
CANDIDATES = (True, False, "local", "fixed", "sphere", "keep", "cpu", 0.5, 2, 20.0, 120.0, ("a",),
              (15.0, 8.0), (30.0, 60.0, 90.0))  # fmt: skip
SYMMETRISED = {"post_symmetry": "c3", "post_symmetry_mask": "m.mrc"}
COMPANIONS = {
    "command_shell": {"post_command": "true {volume}"},
    "post_symmetry": SYMMETRISED,
    "post_symmetry_mask": SYMMETRISED,
    "post_symmetry_angles_deg": SYMMETRISED,
}


def another_value(name: str):
    """Return a value of a setting that is not its default, and what it does not go without."""
    others = {"particles": "p.star", **COMPANIONS.get(name, {})}
    for candidate in CANDIDATES:
        try:
            settings = RefineSettings(**{**others, name: candidate})
        except ValueError:
            continue
        if getattr(settings, name) != RefineSettings.model_fields[name].default:
            return candidate, others
    raise AssertionError(f"no candidate is valid for {name}")


@pytest.mark.parametrize("name", RefineSettings.model_fields)
def test_every_setting_of_the_first_run_holds_unless_it_is_given_anew(name, tmp_path):
    value, others = another_value(name)
    first = make_settings({**others, name: value})
    save_settings(tmp_path / "settings.toml", first)
    values = load_settings(tmp_path / "settings.toml")

    change = {"fsc_criterion": 0.3} if name != "fsc_criterion" else {"max_tilt_deg": 100.0}
    held, _ = merge_settings(values, Segment(1, 1, {}), Changes(change), where="run")
    assert held == first.model_copy(update=change)

    save_settings(tmp_path / "settings.toml", make_settings(others))
    values = load_settings(tmp_path / "settings.toml")
    if name in FIXED:
        with refused(f"--{name.replace('_', '-')} cannot change in a run", "new run"):
            merge_settings(values, Segment(1, 1, {}), Changes({name: value}), where="run")
    else:
        changed, _ = merge_settings(values, Segment(1, 1, {}), Changes({name: value}), where="run")
        assert changed == first


def test_what_a_mere_reconstruction_has_no_use_for_comes_back_after_it(tmp_path):
    first = make_settings(
        {"particles": "p.star", "reference": ("a.mrc",), "iterations": 4, "refine_grey": True}
    )
    save_settings(tmp_path / "settings.toml", first)
    values = load_settings(tmp_path / "settings.toml")
    none, suspended = merge_settings(
        values, Segment(1, 1, {}), Changes({"alignment": "none"}), where="run"
    )
    assert set(suspended) == {"reference", "iterations", "refine_grey"}
    save_settings(tmp_path / "settings.toml", none)
    values = load_settings(tmp_path / "settings.toml")
    segment = Segment(5, 5, {}, suspended=suspended)
    back, suspended = merge_settings(values, segment, Changes({"alignment": "local"}), where="run")
    assert back == first.model_copy(update={"alignment": "local"})
    assert suspended == {}
    with refused("--reference cannot change"):
        merge_settings(
            values, segment, Changes({"alignment": "local", "reference": ("b.mrc",)}), where="run"
        )
    merge_settings(
        values, segment, Changes({"alignment": "local", "reference": ("./a.mrc",)}), where=""
    )


def tiny_settings(folder: Path, **changes):
    return settings_for(folder, **{"compare_to": None, "alignment": "global", **changes})


@pytest.fixture(scope="module")
def global_run(tiny_set, tmp_path_factory) -> Path:
    """A finished run of one global iteration."""
    folder = tmp_path_factory.mktemp("global") / "run"
    refine(tiny_settings(tiny_set, iterations=1), folder)
    return folder


@pytest.fixture
def run(global_run, tmp_path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(global_run, tmp_path / "run"))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def records(folder: Path):
    return load_state(folder, committed_iterations(folder)[-1]).state.history


def last_event(folder: Path, kind: str) -> Event:
    return [e for e in read_events(folder / "events.jsonl") if e.kind == kind][-1]


def test_more_iterations_are_made_by_every_kind_of_alignment(run):
    first = records(run)[-1]
    for number, alignment in enumerate(("local", "none", "global", "automatic", "stochastic"), 2):
        summary = resume(run, changes={"alignment": alignment, "iterations": 1})
        assert summary["iterations"] == number
        assert summary["finished"]
        settings = load_settings(run / "settings.toml")
        assert settings["alignment"] == alignment
        assert settings["symmetry"] == "d2"
    assert [r.iteration for r in records(run)] == [1, 2, 3, 4, 5, 6]
    modes = ["global", "local", "none", "global"]
    assert [r.mode for r in records(run)][:4] == modes
    # None of them went back to the resolution of the initial map.
    assert all(r.align_resolution_A < first.align_resolution_A for r in records(run)[1:])
    segments = json.loads((run / "legs.json").read_text())
    assert [segment["first_iteration"] for segment in segments] == [1, 2, 3, 4, 5, 6]
    assert segments[1]["settings"] == {"alignment": "local", "iterations": 1}
    kept = [load_settings(run / f"settings_leg{n:03d}.toml")["alignment"] for n in range(1, 6)]
    assert kept == ["global", "local", "none", "global", "automatic"]
    before = contents(run / "iteration_006")
    assert resume(run)["iterations"] == 6
    assert contents(run / "iteration_006") == before


def test_a_run_that_ended_makes_as_many_iterations_again_as_its_settings_say(tiny_set, tmp_path):
    refine(tiny_settings(tiny_set, alignment="global", iterations=2), tmp_path / "run")
    assert resume(tmp_path / "run", changes={"fsc_criterion": 0.5})["iterations"] == 4
    assert load_settings(tmp_path / "run" / "settings.toml")["iterations"] == 2


def stop_at(monkeypatch, module, name, call):
    """Interrupt the given call, counted from 1, of a function."""
    original, calls = getattr(module, name), []

    def interrupted(*args, **kwargs):
        calls.append(1)
        if len(calls) == call:
            raise KeyboardInterrupt
        return original(*args, **kwargs)

    monkeypatch.setattr(module, name, interrupted)


def test_a_stopped_run_with_an_option_makes_the_iterations_that_were_left(
    tiny_set, tmp_path, monkeypatch
):
    run = tmp_path / "run"
    stop_at(monkeypatch, loop_module, "advance", 2)
    with pytest.raises(StoppedEarly):
        refine(tiny_settings(tiny_set, iterations=3), run)
    monkeypatch.undo()
    assert resume(run, changes={"max_shift_percent": 8.0})["iterations"] == 3
    assert read_segments(run)[1].counts_from == 1


CHANGES = {"alignment": "local", "iterations": 2, "fsc_criterion": 0.3}


@pytest.fixture(scope="module")
def second_segment(global_run, tmp_path_factory) -> Path:
    """The run after a second segment that nothing interrupted."""
    folder = Path(shutil.copytree(global_run, tmp_path_factory.mktemp("second") / "run"))
    resume(folder, changes=CHANGES)
    return folder


def assert_same_end(folder: Path, other: Path):
    assert committed_iterations(folder) == committed_iterations(other) == [0, 1, 2, 3]
    assert_bit_equal(load_state(folder, 3).state, load_state(other, 3).state)
    for name in ("settings.toml", "settings_leg001.toml", "particles.star", "fsc.star"):
        assert (folder / name).read_bytes() == (other / name).read_bytes(), name


@pytest.mark.parametrize(
    ("module", "name", "call"),
    [
        (loop_module, "advance", 1),
        (loop_module, "advance", 2),
        (running_segment_module, "save_state", 2),
    ],
)
def test_a_second_segment_that_was_stopped_resumes_to_the_same_bits(
    run, second_segment, monkeypatch, module, name, call
):
    stop_at(monkeypatch, module, name, call)
    with pytest.raises(StoppedEarly, match="go on with 'cryorefine resume"):
        resume(run, changes=CHANGES)
    monkeypatch.undo()
    resume(run)
    assert_same_end(run, second_segment)


@pytest.mark.parametrize(
    ("module", "name", "call", "has_begun"),
    [
        (later_segments_module, "begin_segment", 1, False),
        (later_segments_module, "save_start", 1, False),
        (later_segments_module, "switch_segment", 1, False),
        (segments_module, "write_text", 1, False),  # settings_leg001.toml
        (segments_module, "write_text", 2, False),  # legs.json
        (segments_module, "write_text", 3, True),  # settings.toml
    ],
)
def test_a_kill_between_two_writes_leaves_the_old_segment_or_the_new_one(
    run, second_segment, monkeypatch, module, name, call, has_begun
):
    stop_at(monkeypatch, module, name, call)
    with pytest.raises(StoppedEarly):
        resume(run, changes=CHANGES)
    monkeypatch.undo()
    assert committed_iterations(run) == [0, 1]
    if has_begun:
        resume(run)
    else:
        assert resume(run)["iterations"] == 1
        resume(run, changes=CHANGES)
    assert_same_end(run, second_segment)


def test_a_command_that_is_given_again_before_an_iteration_begins_the_same_segment(
    run, second_segment, monkeypatch
):
    stop_at(monkeypatch, loop_module, "advance", 1)
    with pytest.raises(StoppedEarly):
        resume(run, changes=CHANGES)
    monkeypatch.undo()
    resume(run, changes=CHANGES)
    assert_same_end(run, second_segment)


def test_all_problems_are_told_at_once_and_the_run_is_untouched(run, tmp_path):
    before = contents(run)
    changes = {"seed": 5, "reference": ("other.mrc",), "dropout": 7, "min_tilt_deg": -1}
    with refused("--seed", "--reference cannot", "--dropout", "--min-tilt-deg", "percentile 101"):
        resume(run, changes=changes, keep_above_percentile=101)
    with refused("no such setting"):
        resume(run, changes={"colour": "red"})
    with refused(str(tmp_path / "gone.star")):
        resume(run, changes={"particles": tmp_path / "gone.star"})
    with refused("no such"):
        resume(run, changes={"mask": tmp_path / "gone.mrc"})
    assert contents(run) == before


def write_rows(data: Path, path: Path, rows, *, source: str = "particles.star") -> Path:
    """Write some rows of a set's particle file, without half sets."""
    table = read_relion(data / source)
    table = table.select(np.asarray(rows))
    write_relion(path, replace(table, half_set=np.zeros(len(table), np.int8)))
    return path


def halves_by_image(folder: Path) -> dict[int, int]:
    table = read_relion(folder / "particles.star")
    return dict(zip(table.image_index.tolist(), table.half_set.tolist(), strict=True))


@pytest.mark.parametrize("alignment", ["global", "local", "automatic"])
def test_new_particles_join_and_known_ones_keep_their_halves(tiny_set, tmp_path, alignment):
    run = tmp_path / "run"
    # Rows 40 to 43 are half a micrograph: the other half comes later.
    first = write_rows(tiny_set, tmp_path / "first.star", range(44))
    # Local alignment needs poses of the new ones.
    source = "truth_particles.star" if alignment == "local" else "particles.star"
    rows = list(reversed(range(8, 64)))
    second = write_rows(tiny_set, tmp_path / "second.star", rows, source=source)
    refine(tiny_settings(tiny_set, particles=first, iterations=1), run)
    old = halves_by_image(run)
    resume(run, changes={"particles": second, "alignment": alignment, "iterations": 1})
    new = halves_by_image(run)
    assert set(new) == set(range(8, 64))
    assert all(new[i] == old[i] for i in range(8, 44))
    for i in range(44, 48):
        assert new[i] == old[43]
    for micrograph in (range(48, 56), range(56, 64)):
        assert len({new[i] for i in micrograph}) == 1
    assert abs(sum(1 if h == 1 else -1 for h in new.values())) <= 16
    emitted = last_event(run, "particles")
    counts = [getattr(emitted, f"n_{name}") for name in ("kept", "returned", "new", "dropped")]
    assert counts == [36, 0, 20, 8]
    state = load_state(run, 2).state
    assert bool(state.poses.is_assigned.all())

    # Those that had left are remembered in their half, whatever the seed would say.
    third = write_rows(tiny_set, tmp_path / "third.star", range(64))
    resume(run, changes={"particles": third, "alignment": "global", "iterations": 1})
    last = halves_by_image(run)
    assert all(last[i] == (old | new)[i] for i in range(64))
    assert last_event(run, "particles").n_returned == 8


def test_new_particles_without_poses_are_refused_where_nothing_would_look_for_them(
    tiny_set, tmp_path
):
    first = write_rows(tiny_set, tmp_path / "first.star", range(48))
    refine(tiny_settings(tiny_set, particles=first, iterations=1), tmp_path / "run")
    before = contents(tmp_path / "run")
    for alignment in ("local", "none"):
        with refused("16 of 64 particles have no pose", "--alignment global"):
            resume(
                tmp_path / "run",
                changes={
                    "particles": tiny_set / "particles.star",
                    "alignment": alignment,
                    "iterations": 1,
                },
            )
    assert contents(tmp_path / "run") == before


def test_a_reconstruction_with_the_poses_of_a_new_file_takes_those(tiny_set, run, tmp_path):
    truth = tiny_set / "truth_particles.star"
    resume(run, changes={"particles": truth, "alignment": "none"})
    found, true = read_relion(run / "particles.star"), read_relion(truth)
    np.testing.assert_allclose(found.shift_A, true.shift_A, atol=1e-3)


def test_particles_of_another_sampling_or_of_another_set_are_refused(tiny_set, run, tmp_path):
    before = contents(run)
    other = simulate_set(
        tmp_path / "other",
        particles=16, box_px=40, pixel_angstrom=5.4, per_micrograph=8, snr=0.3,
    )  # fmt: skip
    with refused("box of 40 pixels", "have 32 of 5.4"):
        resume(run, changes={"particles": other / "particles.star"})
    shutil.copytree(tiny_set, tmp_path / "twin")
    with refused("none of its images is in the run"):
        resume(run, changes={"particles": tmp_path / "twin" / "particles.star"})
    assert contents(run) == before


def test_a_particle_file_that_was_changed_in_place_is_refused(tiny_set, tmp_path):
    star = write_rows(tiny_set, tmp_path / "particles.star", range(32))
    refine(tiny_settings(tiny_set, particles=star, iterations=1), tmp_path / "run")
    write_rows(tiny_set, star, range(32, 64))
    with refused("other images than the run", "--particles"):
        resume(tmp_path / "run")
    with refused("other images than the run", "--particles"):
        resume(tmp_path / "run", changes={"iterations": 1})


def test_the_worst_particles_are_left_out_listed_and_brought_back(run):
    full = load_state(run, 1).state
    percentile = full.poses.scores.percentile.numpy()
    halves = halves_by_image(run)
    summary = resume(run, changes={"alignment": "none"}, keep_above_percentile=30)
    # Of 64, 19.2 are three tenths; both halves are one defocus group of 32.
    assert summary["n_used"] == 64 - 19
    listed = read_star(run / "rejected_particles.star")["particles"]
    reasons = listed.text("cryorefineRejectedBecause")
    assert len(reasons) == 19
    assert all(str(r).endswith("among the worst 30 %") for r in reasons)
    kept = list(halves_by_image(run))
    low = np.setdiff1d(np.arange(64), kept)
    assert percentile[low].max() <= 10 / 32
    assert percentile[kept].min() >= 10 / 32

    # They stay out in a segment that says nothing of it.
    assert resume(run, changes={"fsc_criterion": 0.2})["n_used"] == 64 - 19
    assert resume(run)["n_used"] == 64 - 19
    # Of those that are left another third; those that left do not come back.
    assert resume(run, keep_above_percentile=100 / 3)["n_used"] == 45 - 15
    assert resume(run, keep_above_percentile=0)["n_used"] == 64
    assert not (run / "rejected_particles.star").exists()
    assert halves_by_image(run) == halves
    back = load_state(run, 5).state
    assert torch.equal(back.poses.rotations, full.poses.rotations)
    assert torch.equal(back.poses.shift_A, full.poses.shift_A)


def test_a_percentile_that_leaves_nobody_is_refused(run):
    state = load_state(run, 1).state
    assert float(state.poses.scores.percentile.max()) <= 1
    before = contents(run)
    with refused("left"):
        resume(run, keep_above_percentile=100, changes={"max_energy": 1.0001})
    assert contents(run) == before


def test_overwriting_a_run_forgets_its_segments(tiny_set, run):
    resume(run, changes={"alignment": "none"})
    refine(tiny_settings(tiny_set, iterations=1), run, overwrite=True)
    assert len(read_segments(run)) == 1
    assert not list(run.glob("settings_leg*"))
    assert not list(run.glob("leg_*"))
    assert resume(run)["iterations"] == 1


def test_the_command_line_has_an_option_for_every_setting(run, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["resume", str(run), "--alignment", "local", "--iterations", "1", "--no-ctf"])
    assert stop.value.code == 0
    settings = load_settings(run / "settings.toml")
    assert (settings["alignment"], settings["iterations"], settings["ctf"]) == ("local", 1, False)
    assert "resuming after iteration 1" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["resume", "--help"])
    text = capsys.readouterr().out
    for name in RefineSettings.model_fields:
        assert "--" + name.replace("_", "-") in text or f"no-{name}" in text, name
    assert "--keep-above-percentile" in text
    assert "all other settings stay" in " ".join(text.split())
    with pytest.raises(SystemExit) as stop:
        main(["resume", str(run), "--seed", "3"])
    assert stop.value.code == 2
