"""A run goes on with other settings or other particles, and nothing that was found is lost."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import cryorefine as cr
import cryorefine.run.later_segments as later_segments_module
import cryorefine.run.loop as loop_module
import cryorefine.run.running_segment as running_segment_module
import cryorefine.run.segments as segments_module
from cryorefine.cli.main import main
from cryorefine.engine.processes import ProcessEngine
from cryorefine.errors import StoppedEarly
from cryorefine.events import Event, read_events
from cryorefine.io.mrc import read_stack_header, write_stack, write_volume
from cryorefine.io.star import read_star
from cryorefine.masks.soft import sphere_mask
from cryorefine.particles.formats.relion import read_relion, write_relion
from cryorefine.run.checkpoint import load_state
from cryorefine.run.loop import refine, resume
from cryorefine.run.segments import read_segments
from cryorefine.settings import (
    FIXED,
    Changes,
    RefineSettings,
    load_settings,
    make_settings,
    merge_settings,
    save_settings,
)
from cryorefine.storage.layout import committed_iterations
from tests.builders import refused
from tests.run.test_checkpoint import assert_bit_equal

from .conftest import settings_for, simulate_set

# A value of one of these is a valid one, other than the default, of every setting.
CANDIDATES = (True, False, "local", "fixed", "stochastic", "sphere", "keep", "cpu", 0.5, 2, 20.0,
              120.0, ("a",), (15.0, 8.0), (30.0, 60.0, 90.0), (1.0, 20.0))  # fmt: skip
SYMMETRISED = {"post_symmetry": "c3", "post_symmetry_mask": "m.mrc"}
HELIX = {"helical_twist_deg": 2.0, "helical_rise_angstrom": 3.0}
RANGES = {"helical_twist_range_deg": (1.0, 20.0), "helical_rise_range_angstrom": (1.0, 20.0)}
PAIRS = (SYMMETRISED, HELIX, RANGES)
COMPANIONS = {
    "command_shell": {"post_command": "true {volume}"},
    "mask_voxel_angstrom": {"mask": "m.mrc"},
    "reference_from_processed": {"post_mask": "m.mrc"},
    "post_symmetry": SYMMETRISED,
    "post_symmetry_mask": SYMMETRISED,
    "post_symmetry_angles_deg": SYMMETRISED,
    **dict.fromkeys(HELIX, HELIX),
    **{name: {**HELIX, **RANGES} for name in RANGES},
    "helical_radius_angstrom": HELIX,
    "helical_inner_radius_angstrom": HELIX,
    "helical_fraction": HELIX,
    "helical_max_out_of_plane_deg": HELIX,
    "helical_psi_range_deg": HELIX,
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
    held, _ = merge_settings(values, Changes(change), where="run")
    assert held == first.model_copy(update=change)

    save_settings(tmp_path / "settings.toml", make_settings(others))
    values = load_settings(tmp_path / "settings.toml")
    if name in FIXED:
        with refused(f"--{name.replace('_', '-')} cannot change in a run", "new run"):
            merge_settings(values, Changes({name: value}), where="run")
    else:
        changed, _ = merge_settings(values, Changes({name: value}), where="run")
        assert changed == first


def test_what_a_mere_reconstruction_has_no_use_for_comes_back_after_it(tmp_path):
    first = make_settings(
        {"particles": "p.star", "reference": ("a.mrc",), "iterations": 4, "refine_grey": True}
    )
    save_settings(tmp_path / "settings.toml", first)
    values = load_settings(tmp_path / "settings.toml")
    none, suspended = merge_settings(values, Changes({"alignment": "none"}), where="run")
    assert set(suspended) == {"reference", "iterations", "refine_grey"}
    save_settings(tmp_path / "settings.toml", none)
    values = load_settings(tmp_path / "settings.toml")
    before = {**values, **suspended}
    back, suspended = merge_settings(before, Changes({"alignment": "local"}), where="run")
    assert back == first.model_copy(update={"alignment": "local"})
    assert suspended == {}
    with refused("--reference cannot change"):
        merge_settings(
            before, Changes({"alignment": "local", "reference": ("b.mrc",)}), where="run"
        )
    merge_settings(before, Changes({"alignment": "local", "reference": ("./a.mrc",)}), where="")


@pytest.mark.parametrize("name", RefineSettings.model_fields)
def test_every_setting_can_be_taken_back_but_those_that_a_run_rests_on(name):
    value, others = another_value(name)
    before = {**others, name: value}
    if name == "particles":
        with refused("--particles Field required"):
            merge_settings(before, Changes({name: None}), where="run")
    elif name in FIXED:
        with refused(f"--{name.replace('_', '-')} cannot change in a run"):
            merge_settings(before, Changes({name: None}), where="run")
    else:
        # Two that need each other are taken back together.
        pair = next((pair for pair in PAIRS if name in pair), {name: value})
        others = {other: kept for other, kept in others.items() if other not in pair}
        taken, _ = merge_settings(before, Changes(dict.fromkeys(pair)), where="run")
        assert taken == make_settings(others)
    # Where it was never given there is nothing to change.
    if name != "particles":
        never, _ = merge_settings(others, Changes({name: None}), where="run")
        assert never == make_settings(others)


def test_of_a_settings_file_only_what_is_new_changes_a_run():
    before = {"particles": "p.star", "reference": ["a.mrc"], "mask": "m.mrc", "iterations": 2}
    file = {**before, "particles": "./p.star", "fsc_criterion": 0.143, "seed": 0}
    same = Changes({}, of_file=file).against(before)
    assert not same.is_any
    changes = Changes({"dropout": 0.1}, of_file={**file, "dropout": 0.2, "iterations": 3})
    assert changes.against(before).changed == {"dropout": 0.1, "iterations": 3}
    other = Changes({}, of_file={**file, "reference": ["b.mrc"], "colour": "red"}).against(before)
    with refused("--reference cannot change", "--colour no such setting"):
        merge_settings(before, other, where="run")


def tiny_settings(folder: Path, **changes):
    return settings_for(folder, **{"compare_to": None, "alignment": "global", **changes})


@pytest.fixture
def run(global_run, tmp_path) -> Path:
    """A finished run of one global iteration."""
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
        resume(run, changes=Changes(changes, keep_above_percentile=101))
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


def extracted_anew(data: Path, folder: Path, size_px: int, pixel_A: float, rows) -> Path:
    """Write a set's images in another box, pixel, scale, order and stack, with no poses."""
    table = read_relion(data / "particles.star")
    images = torch.from_numpy(np.array(read_stack_header(table.stacks[0]).read(), np.float32))
    old_A, n = table.optics[0].pixel_A, images.shape[-1]
    # Crop in Fourier space, which makes pixels larger.
    half = torch.fft.fftshift(torch.fft.fft2(torch.fft.ifftshift(images, dim=(1, 2))), dim=(1, 2))
    kept = round(n * old_A / pixel_A)
    at = n // 2 - kept // 2
    half = torch.fft.ifftshift(half[:, at : at + kept, at : at + kept], dim=(1, 2))
    small = torch.fft.fftshift(torch.fft.ifft2(half).real, dim=(1, 2))
    if size_px < kept:
        at = kept // 2 - size_px // 2
        small = small[:, at : at + size_px, at : at + size_px]
    small = small / small.std() * 7.0
    folder.mkdir()
    write_stack(folder / "anew.mrcs", small[np.asarray(rows)].contiguous(), pixel_A, half=False)
    out = table.select(np.asarray(rows))
    names = np.array([f"{i + 1:06d}@anew.mrcs" for i in range(len(rows))])
    optics = replace(table.optics[0], pixel_A=pixel_A, box_px=size_px)
    out = replace(
        out, names=names, image_index=np.arange(len(rows)), stacks=(folder / "anew.mrcs",),
        optics=(optics,), half_set=np.zeros(len(rows), np.int8),
        micrographs=tuple(f"job7/{name}" for name in out.micrographs),
        extra={k: v for k, v in out.extra.items() if k.startswith("rlnCoord")},
    )  # fmt: skip
    write_relion(folder / "anew.star", out)
    return folder / "anew.star"


def with_coordinates(data: Path, path: Path, rows) -> Path:
    """Write rows of a set's particle file with places in their micrographs."""
    table = read_relion(data / "particles.star").select(np.asarray(rows))
    place = np.char.mod("%.2f", 37.5 * np.asarray(rows)).astype("S")
    extra = {**table.extra, "rlnCoordinateX": place, "rlnCoordinateY": place[::-1].copy()}
    extra["rlnCoordinateY"] = place
    write_relion(path, replace(table, extra=extra, half_set=np.zeros(len(table), np.int8)))
    return path


@pytest.mark.parametrize(("size_px", "pixel_A"), [(24, 7.2), (28, 5.4)])
def test_particles_that_were_extracted_anew_keep_their_poses_and_halves(
    tiny_set, tmp_path, size_px, pixel_A
):
    run = tmp_path / "run"
    (tmp_path / "placed").mkdir()
    shutil.copy(tiny_set / "particles.mrcs", tmp_path / "placed" / "particles.mrcs")
    first = with_coordinates(tiny_set, tmp_path / "placed" / "particles.star", range(64))
    refine(tiny_settings(tiny_set, particles=first, iterations=2), run)
    before, halves = load_state(run, 2).state, halves_by_image(run)
    rows = [*range(63, 20, -1), *range(10)]
    anew = extracted_anew(tmp_path / "placed", tmp_path / "anew", size_px, pixel_A, rows)
    summary = resume(run, changes={"particles": anew, "alignment": "none"})
    assert summary["box_px"] == size_px
    assert summary["voxel_A"] == pytest.approx(pixel_A)
    assert summary["n_used"] == len(rows)
    after = load_state(run, 3).state
    torch.testing.assert_close(after.poses.shift_A, before.poses.shift_A[rows])
    torch.testing.assert_close(after.poses.rotations, before.poses.rotations[rows])
    assert list(halves_by_image(run).values()) == [halves[i] for i in rows]
    counts = last_event(run, "particles")
    assert (counts.n_kept, counts.n_new, counts.n_dropped) == (len(rows), 0, 64 - len(rows))
    # The map from the kept poses shows what the run's map showed.
    assert summary["resolution_A"] < max(2.2 * pixel_A, 1.25 * before.evaluation.resolution_A)
    assert resume(run, changes={"alignment": "local", "iterations": 1})["iterations"] == 4
    shown = load_state(run, 4).state.history[-1].resolution_A
    assert shown < max(2.2 * pixel_A, 1.25 * before.evaluation.resolution_A)


def test_a_segment_of_another_sampling_goes_on_where_it_was_killed(
    tiny_set, run, tmp_path, monkeypatch
):
    anew = extracted_anew(tiny_set, tmp_path / "anew", 24, 7.2, range(64))
    settings = {"particles": anew, "alignment": "global", "iterations": 1, "particle_radius_px": 9}
    whole = Path(shutil.copytree(run, tmp_path / "whole"))
    resume(whole, changes=settings)
    stop_at(monkeypatch, loop_module, "advance", 1)
    with pytest.raises(StoppedEarly):
        resume(run, changes=settings)
    monkeypatch.undo()
    resume(run)
    assert_bit_equal(load_state(run, 2).state, load_state(whole, 2).state)
    with refused("--particle-radius-px is in pixels of 7.2", "--unset"):
        resume(run, changes={"particles": tiny_set / "particles.star"})


def test_particles_that_are_all_new_join_with_a_warning(tiny_set, run, tmp_path):
    other = simulate_set(
        tmp_path / "other",
        particles=32, box_px=32, pixel_angstrom=5.4, per_micrograph=8, snr=0.3, seed=5,
    )  # fmt: skip
    before = contents(run)
    with refused("32 of 32 particles have no pose", "--alignment global"):
        resume(run, changes={"particles": other / "particles.star", "alignment": "local"})
    assert contents(run) == before
    changes = {"particles": other / "particles.star", "alignment": "automatic", "iterations": 1}
    assert resume(run, changes=changes)["n_used"] == 32
    counts = last_event(run, "particles")
    assert (counts.n_kept, counts.n_new, counts.n_dropped) == (0, 32, 64)
    state = load_state(run, 2).state
    assert bool(state.poses.is_assigned.all())
    assert any("knows none of its particles" in e.message for e in read_events(
        run / "events.jsonl") if e.kind == "warning")  # fmt: skip
    # Those of before are remembered.
    resume(run, changes={"particles": tiny_set / "particles.star", "alignment": "none"})
    assert last_event(run, "particles").n_returned == 64


def test_a_set_that_was_copied_elsewhere_is_the_same_particles(tiny_set, run, tmp_path):
    halves = halves_by_image(run)
    shutil.copytree(tiny_set, tmp_path / "twin")
    twin = tmp_path / "twin" / "particles.star"
    resume(run, changes={"particles": twin, "alignment": "none"})
    assert last_event(run, "particles").n_kept == 64
    assert halves_by_image(run) == halves


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
    summary = resume(run, changes=Changes({"alignment": "none"}, keep_above_percentile=30))
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
    assert resume(run, changes=Changes({}, keep_above_percentile=100 / 3))["n_used"] == 45 - 15
    assert resume(run, changes=Changes({}, keep_above_percentile=0))["n_used"] == 64
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
        resume(run, changes=Changes({"max_energy": 1.0001}, keep_above_percentile=100))
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


def commanded(*arguments: str) -> int:
    with pytest.raises(SystemExit) as stop:
        main(list(arguments))
    return int(str(stop.value.code))


def test_what_was_given_is_taken_back_by_the_command_and_from_python(run, tiny_set, capsys):
    mask = tiny_set / "mask.mrc"
    if not mask.exists():
        write_volume(mask, sphere_mask(32, 12.0), 5.4)
    resume(run, changes={
        "mask": mask, "particle_radius_px": 9.0, "resolution_offset_angstrom": 4.0,
        "reference_command": "true {volume}", "max_angle_change_deg": 2.0, "iterations": 1,
        "alignment": "local",
    })  # fmt: skip
    assert load_state(run, 2).constants.radius_px == 9.0
    taken = ("mask", "--particle-radius-px", "resolution_offset_angstrom", "reference-command")
    options = [word for name in taken for word in ("--unset", name)]
    assert commanded("resume", str(run), *options) == 0  # no --allow-commands is needed any more
    settings = load_settings(run / "settings.toml")
    assert not {"mask", "particle_radius_px", "reference_command"} & settings.keys()
    assert settings["max_angle_change_deg"] == 2.0
    assert load_state(run, 3).constants.radius_px > 10.0
    done = cr.open_run(run).resume(max_angle_change_deg=None)
    assert done.settings.max_angle_change_deg is None
    before = contents(run)
    assert commanded("resume", str(run), "--unset", "colour") == 2
    assert "no such setting: 'colour'" in capsys.readouterr().err
    assert commanded("resume", str(run), "--unset", "mask", "--mask", str(mask)) == 2
    assert "--mask is given as well" in capsys.readouterr().err
    assert commanded("resume", str(run), "--unset", "particles") == 2
    assert contents(run) == before


def test_a_settings_file_changes_what_it_names_and_its_commands_are_shown(run, tmp_path, capsys):
    proof, file = tmp_path / "proof", tmp_path / "more.toml"
    own = (run / "settings.toml").read_text()
    assert commanded("resume", str(run), "--settings", str(run / "settings.toml")) == 0
    assert committed_iterations(run) == [0, 1]  # its own say nothing new
    file.write_text(own.replace('alignment = "global"', 'alignment = "local"'))
    assert "local" in file.read_text()
    with open(file, "a", encoding="utf-8") as more:
        more.write(f'reference_command = "touch {proof}"\nfsc_criterion = 0.4\n')
    text = file.read_text().replace("fsc_criterion = 0.143\n", "", 1)
    file.write_text(text)
    words = ("resume", str(run), "--settings", str(file), "--fsc-criterion", "0.3")
    assert commanded(*words) == 2
    assert f"touch {proof}" in capsys.readouterr().err
    assert commanded(*words, "--allow-commands") == 0
    settings = load_settings(run / "settings.toml")
    assert settings["alignment"] == "local"
    assert settings["fsc_criterion"] == 0.3
    assert read_segments(run)[1].settings.keys() == {
        "alignment", "reference_command", "fsc_criterion",
    }  # fmt: skip
    assert proof.exists()


def test_a_segment_begins_its_worker_processes_once(run, monkeypatch):
    begun = []
    original = ProcessEngine.__init__

    def counted(self, *args, **kwargs):
        begun.append(1)
        original(self, *args, **kwargs)

    monkeypatch.setattr(ProcessEngine, "__init__", counted)
    resume(run, changes={"alignment": "none", "workers": 1})
    assert begun == [1]
