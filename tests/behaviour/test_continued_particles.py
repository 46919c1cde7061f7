"""A run goes on with other particles, and nothing that was found is lost."""

import math
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import cryorefine.run.loop as loop_module
from cryorefine.assign.align import can_be_tilted
from cryorefine.errors import StoppedEarly
from cryorefine.events import read_events
from cryorefine.geometry.symmetry import parse_symmetry
from cryorefine.io.mrc import read_stack_header, write_stack
from cryorefine.io.star import read_star
from cryorefine.particles.formats.relion import read_relion, write_relion
from cryorefine.run.checkpoint import load_state
from cryorefine.run.loop import refine, resume
from cryorefine.settings import (
    Changes,
)
from tests.builders import refused
from tests.run.test_checkpoint import assert_bit_equal

from .conftest import simulate_set
from .continued import contents, last_event, stop_at, tiny_settings


def write_rows(data: Path, path: Path, rows, *, source: str = "particles.star") -> Path:
    """Write some rows of a set's particle file, without half sets."""
    table = read_relion(data / source)
    table = table.select(np.asarray(rows))
    write_relion(path, replace(table, half_set=np.zeros(len(table), np.int8)))
    return path


def halves_by_image(folder: Path) -> dict[int, int]:
    table = read_relion(folder / "particles.star")
    return dict(zip(table.image_index.tolist(), table.half_set.tolist(), strict=True))


@pytest.fixture(scope="module")
def of_44(tiny_set, tmp_path_factory) -> Path:
    """One global iteration of 44 particles: rows 40 to 43 are half a micrograph."""
    folder = tmp_path_factory.mktemp("of_44")
    first = write_rows(tiny_set, folder / "first.star", range(44))
    refine(tiny_settings(tiny_set, particles=first, iterations=1), folder / "run")
    return folder / "run"


@pytest.mark.parametrize(
    "alignment", ["global", "local", pytest.param("automatic", marks=pytest.mark.slow)]
)
def test_new_particles_join_and_known_ones_keep_their_halves(tiny_set, of_44, tmp_path, alignment):
    run = Path(shutil.copytree(of_44, tmp_path / "run"))
    # Local alignment needs poses of the new ones.
    source = "truth_particles.star" if alignment == "local" else "particles.star"
    rows = list(reversed(range(8, 64)))
    second = write_rows(tiny_set, tmp_path / "second.star", rows, source=source)
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


def test_new_particles_without_poses_are_refused_where_nothing_would_look_for_them(tiny_set, of_44):
    before = contents(of_44)
    for alignment in ("local", "none"):
        with refused("20 of 64 particles have no pose", "--alignment global"):
            resume(
                of_44,
                changes={
                    "particles": tiny_set / "particles.star",
                    "alignment": alignment,
                    "iterations": 1,
                },
            )
    assert contents(of_44) == before


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


@pytest.mark.parametrize(
    ("size_px", "pixel_A"), [(24, 7.2), pytest.param(28, 5.4, marks=pytest.mark.slow)]
)
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


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
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


def test_particles_that_leave_a_run_of_random_subsets_leave_its_sums(tiny_set, tmp_path):
    run, how = tmp_path / "run", {"alignment": "stochastic", "iterations": 1}
    refine(tiny_settings(tiny_set, stochastic_subset=32, **how), run)
    table = read_relion(run / "particles.star")
    write_relion(tmp_path / "kept.star", table.select(np.arange(0, len(table), 4)))
    # What is drawn anew has next to no share: what is in the map was in it before.
    resume(run, changes={**how, "particles": tmp_path / "kept.star", "stochastic_mixing": 1e-4})
    before, after = load_state(run, 1).state, load_state(run, 2).state
    for old, new in zip(before.sums, after.sums, strict=True):
        assert 0.2 < float(new.weights.sum() / old.weights.sum()) < 0.3  # 8 of 32 images
    assert after.history[-1].counts.n_reconstructed == (8, 8)


def test_views_that_are_no_longer_reconstructed_leave_the_sums_of_random_subsets(
    tiny_set, tmp_path
):
    run, how = tmp_path / "run", {"alignment": "stochastic", "iterations": 1}
    refine(tiny_settings(tiny_set, stochastic_subset=32, **how), run)
    changes = {**how, "reconstruct_min_tilt_deg": 60.0, "reconstruct_max_tilt_deg": 120.0}
    resume(run, changes={**changes, "stochastic_subset": 4})
    state = load_state(run, 2).state
    in_maps = state.poses.scores.is_in_maps == 1
    limits = math.radians(60.0), math.radians(120.0)
    may_count = can_be_tilted(state.poses.rotations, parse_symmetry("d2"), limits)
    assert 8 < int(in_maps.sum()) < 64  # more than were drawn
    assert not bool((in_maps & ~may_count).any())
