"""What a refinement must reach, on simulated particles whose truth is known."""

import json
import math

import numpy as np
import pytest
import torch

from cryorefine.evaluate.fsc import fsc, resolution
from cryorefine.events import read_events
from cryorefine.geometry.rotation import matrix_from_euler
from cryorefine.geometry.symmetry import parse_symmetry
from cryorefine.io.mrc import read_stack_header, read_volume, write_stack, write_volume
from cryorefine.io.star import read_star, write_star
from cryorefine.masks.soft import sphere_mask
from cryorefine.particles.formats.relion import read_relion
from cryorefine.run.checkpoint import load_state
from cryorefine.run.loop import refine

from .conftest import begun, settings_for, simulate_set


def pose_errors(run_star, truth_star, symmetry):
    """Angles (deg) and shifts (Å) between found and true poses."""
    found, truth = read_relion(run_star), read_relion(truth_star)
    row_of = {int(i): r for r, i in enumerate(truth.image_index)}
    rows = [row_of[int(i)] for i in found.image_index]
    group = parse_symmetry(symmetry)
    angle = group.distance(
        matrix_from_euler(torch.from_numpy(found.euler_rad)),
        matrix_from_euler(torch.from_numpy(truth.euler_rad[rows])),
    )
    return np.rad2deg(angle.numpy()), np.linalg.norm(found.shift_A - truth.shift_A[rows], axis=1)


def truth_resolution(volume, truth, voxel_A, radius_A):
    mask = sphere_mask(truth.shape[-1], radius_A / voxel_A)
    curve = fsc(volume * mask, truth * mask)
    return resolution(curve, torch.arange(len(curve)).double() / (len(truth) * voxel_A), 0.5)


def average_map(folder):
    first, second = read_volume(folder / "half1.mrc"), read_volume(folder / "half2.mrc")
    return (first.data + second.data) / 2, first.voxel_A


def test_poses_are_found_to_a_degree_and_half_a_pixel(finished):
    angle, shift = pose_errors(
        finished.folder / "particles.star", finished.data / "truth_particles.star", "d2"
    )
    assert np.median(angle) < 1.5
    assert np.median(shift) < 0.5 * 3.6
    assert np.mean(angle > 10) < 0.03


def test_the_map_is_as_good_as_one_from_the_true_poses(finished, tmp_path):
    truth = read_volume(finished.data / "truth_map.mrc").data
    best = settings_for(
        finished.data,
        particles=finished.data / "truth_particles.star",
        alignment="none",
        reference=(),
    )
    refine(best, tmp_path / "best")
    reached, voxel_A = average_map(finished.folder)
    ideal, _ = average_map(tmp_path / "best")
    ours = truth_resolution(reached, truth, voxel_A, 62)
    limit = truth_resolution(ideal, truth, voxel_A, 62)
    assert ours <= 1.05 * limit


def test_the_map_has_the_grey_scale_of_the_truth(finished):
    truth = read_volume(finished.data / "truth_map.mrc").data
    reached, voxel_A = average_map(finished.folder)
    mask = sphere_mask(truth.shape[-1], 62 / voxel_A)
    a, b = truth * mask, reached * mask
    assert float((a * b).sum() / (a * a).sum()) == pytest.approx(1.0, abs=0.1)


def test_the_reported_resolution_is_what_the_truth_confirms(finished):
    table = read_star(finished.folder / "fsc.star")["fsc"]
    frequency = torch.from_numpy(table.floats("rlnResolution"))
    against_truth = torch.from_numpy(table.floats("cryorefineComparisonFSC"))
    # FSC 0.143 of half maps corresponds to 0.5 of their average against the truth.
    confirmed = resolution(against_truth, frequency, 0.5)
    assert finished.summary["resolution_A"] == pytest.approx(confirmed, rel=0.1)


def test_the_run_folder_is_complete_and_its_files_agree(finished):
    names = {p.name for p in finished.folder.iterdir()}
    assert names >= {
        "settings.toml", "manifest.json", "events.jsonl", "map.mrc", "map_sharpened.mrc",
        "half1.mrc", "half2.mrc", "mask.mrc", "fsc.star", "particles.star", "summary.json",
        "iteration_001",
    }  # fmt: skip
    summary = json.loads((finished.folder / "summary.json").read_text())
    for key in ("resolution_A", "resolution_unmasked_A", "n_particles", "n_used", "n_rejected",
                "iterations", "converged", "wall_s", "cpu_s", "peak_rss_bytes"):  # fmt: skip
        assert key in summary
    last = finished.folder / f"iteration_{summary['iterations']:03d}"
    for name in ("half1.mrc", "fsc.star", "particles.star", "summary.json"):
        assert (last / name).read_bytes() == (finished.folder / name).read_bytes()
    assert summary["n_used"] == 240
    assert summary["finished"]
    assert summary["converged"]


def test_every_particle_has_finite_quality_columns(finished):
    block = read_star(finished.folder / "particles.star")["particles"]
    assert len(block) == 240
    for label in ("cryorefineScore", "cryorefineScoreGap", "cryorefineEffectivePoses",
                  "cryorefineCorrelation", "cryorefineScale", "cryorefineSigmaRotationDeg",
                  "cryorefineSigmaShiftA", "cryorefineShiftAtLimit"):  # fmt: skip
        assert np.isfinite(block.floats(label)).all()
    assert block.floats("cryorefineCorrelation").mean() > 0.2
    assert block.floats("cryorefineScale").mean() == pytest.approx(1, abs=1e-6)


def test_halves_are_whole_micrographs_and_kept_in_the_output(finished):
    table = read_relion(finished.folder / "particles.star")
    for micrograph in np.unique(table.micrograph_index):
        assert len(np.unique(table.half_set[table.micrograph_index == micrograph])) == 1
    assert sorted(np.bincount(table.half_set)[1:]) == [120, 120]


def test_the_estimated_accuracy_of_the_poses_is_of_the_size_of_their_errors(finished):
    angle, shift = pose_errors(
        finished.folder / "particles.star", finished.data / "truth_particles.star", "d2"
    )
    block = read_star(finished.folder / "particles.star")["particles"]
    # sigma is per axis: the expected angle of three axes is 1.6 sigma, the median 1.54.
    predicted = 1.54 * np.median(block.floats("cryorefineSigmaRotationDeg"))
    assert 0.6 * predicted < np.median(angle) < 1.7 * predicted
    predicted = 1.18 * np.median(block.floats("cryorefineSigmaShiftA"))
    assert 0.5 * predicted < np.median(shift) < 1.7 * predicted


def test_resolution_improves_over_the_iterations(finished):
    reached = [e.resolution_A for e in finished.events if e.kind == "iteration"]
    assert len(reached) >= 4
    assert reached[-1] < 0.75 * reached[0]


@pytest.mark.parametrize("scale", [1e-3, 250.0])
def test_the_grey_scale_of_the_reference_does_not_matter(small_set, one_iteration, tmp_path, scale):
    reference = read_volume(small_set / "reference.mrc")
    write_volume(tmp_path / "scaled.mrc", reference.data * scale, reference.voxel_A)
    settings = settings_for(small_set, reference=(tmp_path / "scaled.mrc",), iterations=1)
    refine(settings, tmp_path / "run")
    factors, poses = [], []
    for folder in (one_iteration, tmp_path / "run"):
        heard = read_events(folder / "events.jsonl")
        factors += [e.half1 for e in heard if e.kind == "grey_scale"]
        table = read_relion(folder / "particles.star")
        poses.append(matrix_from_euler(torch.from_numpy(table.euler_rad)))
    assert factors[0] / factors[1] == pytest.approx(scale, rel=1e-4)
    # Rounding may decide between two nearly equal poses of a particle, and when a refinement ends:
    # within 0.14 standard deviations of its maximum, which are eight degrees at 27 Å.
    angle = parse_symmetry("d2").distance(*poses)
    assert float((torch.rad2deg(angle) < 1.5).double().mean()) > 0.97


@pytest.mark.slow
def test_a_reference_with_another_box_and_sampling_is_rescaled(small_set, finished, tmp_path):
    from cryorefine.fourier.crop import resample_volume

    reference = read_volume(small_set / "reference.mrc")
    coarse = resample_volume(
        reference.data, voxel_A=reference.voxel_A, new_voxel_A=5.1, new_size_px=41
    )
    write_volume(tmp_path / "coarse.mrc", coarse, 5.1)
    settings = settings_for(small_set, reference=(tmp_path / "coarse.mrc",), iterations=3)
    summary = refine(settings, tmp_path / "run")
    third = [e for e in finished.events if e.kind == "iteration"][2]
    # A run's last iteration fills the half maps to Nyquist, the third of a longer one does not.
    assert summary["resolution_A"] < 1.1 * third.resolution_A
    table = read_relion(tmp_path / "run" / "particles.star")
    truth = read_relion(small_set / "truth_particles.star")
    angle = parse_symmetry("d2").distance(
        *(matrix_from_euler(torch.from_numpy(t.euler_rad)) for t in (table, truth))
    )
    assert float(torch.rad2deg(angle).median()) < 3


def test_two_references_start_one_half_each(small_set, tmp_path):
    reference = read_volume(small_set / "reference.mrc")
    write_volume(tmp_path / "other.mrc", reference.data.flip(0), reference.voxel_A)
    settings = settings_for(
        small_set,
        reference=(small_set / "reference.mrc", tmp_path / "other.mrc"),
        symmetry="c1",
    )
    _, start = begun(settings)
    mirrored = start.references[0].flip(0).roll(1, 0)  # the origin is at n // 2
    inner = slice(1, None)
    assert not torch.allclose(start.references[0], start.references[1])
    torch.testing.assert_close(
        mirrored[inner], start.references[1].roll(1, 0)[inner], atol=2e-2, rtol=0.2
    )


def test_unusable_images_are_listed_left_out_and_counted(small_set, tmp_path):
    header = read_stack_header(small_set / "particles.mrcs")
    images = torch.from_numpy(np.array(header.read(), dtype=np.float32))
    images[30] = 3.25
    write_stack(tmp_path / "particles.mrcs", images, 3.6, half=False)
    stack = np.memmap(tmp_path / "particles.mrcs", "f4", "r+", 1024, (240, 48, 48))
    stack[7, 20, 20] = np.nan
    stack.flush()
    text = (small_set / "truth_particles.star").read_text()
    (tmp_path / "particles.star").write_text(text)
    settings = settings_for(
        small_set, particles=tmp_path / "particles.star", reference=(), alignment="none"
    )
    seen = []
    summary = refine(settings, tmp_path / "run", listeners=(seen.append,))
    assert (summary["n_particles"], summary["n_used"], summary["n_rejected"]) == (240, 238, 2)
    warnings = [e.message for e in seen if e.kind == "warning"]
    assert any(
        "000008@" in w and "NaN" in w and "000031@" in w and "constant" in w for w in warnings
    )
    rejected = read_star(tmp_path / "run" / "rejected_particles.star")["particles"]
    assert rejected.text("cryorefineRejectedBecause").tolist() == [
        "NaN or infinite pixels",
        "constant",
    ]
    assert len(read_star(tmp_path / "run" / "particles.star")["particles"]) == 238


def test_local_alignment_improves_given_poses(small_set, tmp_path):
    from cryorefine.geometry.rotation import euler_from_matrix, matrix_from_rotvec
    from cryorefine.particles.formats.relion import write_relion

    truth = read_relion(small_set / "truth_particles.star")
    generator = torch.Generator().manual_seed(0)
    tilt = torch.randn(len(truth), 3, generator=generator, dtype=torch.float64) * np.deg2rad(4)
    moved = matrix_from_rotvec(tilt) @ matrix_from_euler(torch.from_numpy(truth.euler_rad))
    truth.euler_rad[:] = euler_from_matrix(moved).numpy()
    truth.shift_A[:] += 2.0
    write_relion(tmp_path / "rough.star", truth)
    settings = settings_for(
        small_set,
        particles=tmp_path / "rough.star",
        reference=(),
        alignment="local",
        iterations=3,
    )
    refine(settings, tmp_path / "run")
    before, _ = pose_errors(tmp_path / "rough.star", small_set / "truth_particles.star", "d2")
    after, shift = pose_errors(
        tmp_path / "run" / "particles.star", small_set / "truth_particles.star", "d2"
    )
    assert np.median(after) < 0.4 * np.median(before)
    assert np.median(shift) < 0.5 * 3.6


def joined(folders, star):
    """Write one STAR file of several simulated sets, each an optics group of its own."""
    blocks = [read_star(f / "particles.star") for f in folders]
    counts = [len(b["particles"]) for b in blocks]
    optics, particles = (
        {k: np.concatenate([b[name].columns[k] for b in blocks]) for k in blocks[0][name].columns}
        for name in ("optics", "particles")
    )
    numbers = np.arange(1, len(blocks) + 1)
    optics["rlnOpticsGroup"] = numbers
    particles["rlnOpticsGroup"] = np.repeat(numbers, counts)
    for label, form in (
        ("rlnImageName", lambda f, v: f"{v.split('@')[0]}@{f / 'particles.mrcs'}"),
        ("rlnMicrographName", lambda f, v: f"{f.name}/{v}"),
    ):
        values = [
            form(f, v)
            for f, b in zip(folders, blocks, strict=True)
            for v in b["particles"].text(label)
        ]
        particles[label] = np.array(values)
    write_star(star, {"optics": optics, "particles": particles})


@pytest.mark.slow
def test_optics_groups_of_different_sampling_refine_together(tmp_path):
    first = simulate_set(tmp_path / "first", particles=120, seed=1)
    second = simulate_set(tmp_path / "second", particles=120, box_px=40, pixel_angstrom=4.4, seed=1)
    joined((first, second), tmp_path / "both.star")
    settings = settings_for(first, particles=tmp_path / "both.star", iterations=6)
    summary = refine(settings, tmp_path / "run")
    assert summary["voxel_A"] == pytest.approx(3.6)
    assert summary["resolution_A"] < 13
    found = read_relion(tmp_path / "run" / "particles.star")
    truth = [read_relion(f / "truth_particles.star") for f in (first, second)]
    group = parse_symmetry("d2")
    for g in (0, 1):
        mine = found.optics_index == g
        angle = group.distance(
            matrix_from_euler(torch.from_numpy(found.euler_rad[mine])),
            matrix_from_euler(torch.from_numpy(truth[g].euler_rad[found.image_index[mine]])),
        )
        assert float(torch.rad2deg(angle.median())) < 3.5


@pytest.mark.slow
def test_the_relative_grey_scale_of_optics_groups_is_found(tmp_path):
    faint = simulate_set(tmp_path / "faint", particles=120, snr=0.05)
    strong = simulate_set(tmp_path / "strong", particles=120, snr=0.2)
    joined((faint, strong), tmp_path / "both.star")
    settings = settings_for(faint, particles=tmp_path / "both.star", iterations=3)
    refine(settings, tmp_path / "run")
    state = load_state(tmp_path / "run", 3).state
    found = read_relion(tmp_path / "run" / "particles.star")
    for half, scales in enumerate(state.group_scale, 1):
        counts = np.bincount(found.optics_index[found.half_set == half])
        # Four times the signal's variance over noise of one variance: twice the amplitude, less
        # what the fainter images gain by poses that fit their noise.
        assert 1.6 < scales[1] / scales[0] < 2.1
        assert np.average(scales, weights=counts) == pytest.approx(1.0, abs=1e-6)


@pytest.mark.slow
def test_splitting_one_optics_group_in_two_changes_next_to_nothing(small_set, tmp_path):
    blocks = read_star(small_set / "particles.star")

    optics = {k: np.concatenate([v, v]) for k, v in blocks["optics"].columns.items()}
    optics["rlnOpticsGroup"] = np.array([1, 2])
    particles = dict(blocks["particles"].columns)
    particles["rlnOpticsGroup"] = np.arange(240) % 2 + 1
    particles["rlnImageName"] = np.array(
        [
            f"{n.split('@')[0]}@{small_set / 'particles.mrcs'}"
            for n in blocks["particles"].text("rlnImageName")
        ]
    )
    write_star(tmp_path / "split.star", {"optics": optics, "particles": particles})
    poses, maps = [], []
    for name, star in (("one", small_set / "particles.star"), ("two", tmp_path / "split.star")):
        refine(settings_for(small_set, particles=star, iterations=2), tmp_path / name)
        poses.append(load_state(tmp_path / name, 2).state.poses)
        maps.append(average_map(tmp_path / name)[0])
    # The noise spectra are measured on half as many images each; poses move by less than a
    # third of their own uncertainty.
    angle = torch.rad2deg(parse_symmetry("d2").distance(poses[0].rotations, poses[1].rotations))
    assert float((angle / poses[0].scores.sigma_rotation_deg).median()) < 1 / 3
    mask = sphere_mask(48, 18)
    assert float(fsc(maps[0] * mask, maps[1] * mask)[1:12].min()) > 0.9


@pytest.mark.slow
def test_noise_alone_gives_no_resolution_beyond_the_start(tmp_path):
    data = simulate_set(tmp_path / "data", particles=150, junk_fraction=0.0, snr=0.1)
    noise = torch.randn(150, 48, 48, generator=torch.Generator().manual_seed(0))
    write_stack(data / "particles.mrcs", noise, 3.6, half=False)
    summary = refine(settings_for(data, iterations=4), tmp_path / "run")
    # Both halves share the start's 30 Å, and nothing else.
    assert summary["resolution_unmasked_A"] is None or summary["resolution_unmasked_A"] > 18


@pytest.mark.slow
def test_a_search_goes_as_deep_as_a_small_asymmetric_particle_needs(tmp_path):
    data = simulate_set(
        tmp_path / "data", particles=250, box_px=64, pixel_angstrom=3.0, symmetry="c1", snr=0.15,
        seed=1,
    )  # fmt: skip
    refine(settings_for(data, symmetry="c1"), tmp_path / "run")
    events = read_events(tmp_path / "run" / "events.jsonl")
    searches = [e for e in events if e.kind == "search"]
    # What it expects of itself is told, and what it found of images that it planted.
    assert {e.half for e in searches} == {1, 2}
    assert all(0 <= e.expected_recall <= e.decidable <= 1 for e in searches)
    assert searches[-1].planted_found > 0.9 * searches[-1].planted
    missed = [e.missed_fraction for e in events if e.kind == "iteration"]
    missed = [share for share in missed if not math.isnan(share)]
    assert missed[-1] <= 0.01
    found = read_relion(tmp_path / "run" / "particles.star")
    truth = read_relion(data / "truth_particles.star")
    angle = parse_symmetry("c1").distance(
        *(matrix_from_euler(torch.from_numpy(t.euler_rad)) for t in (found, truth))
    )
    assert float((angle > math.radians(10)).double().mean()) < 0.03


def test_preferred_views_are_told_with_the_worst_direction(finished, tmp_path):
    assert finished.summary["resolution_worst_A"] is None  # even views: nothing to tell
    assert not any("preferred views" in e.data().get("message", "") for e in finished.events)
    views = {"poses": "axis", "axis_tilt_deg": 0, "axis_spread_deg": 6, "axis_fraction": 1.0}
    data = simulate_set(tmp_path / "set", **views)
    changes = {"particles": data / "truth_particles.star", "reference": (), "alignment": "none"}
    summary = refine(settings_for(data, **changes), tmp_path / "run")
    assert summary["resolution_worst_A"] > 1.2 * summary["resolution_A"]
    messages = [e.message for e in read_events(tmp_path / "run" / "events.jsonl")
            if e.kind == "warning"]  # fmt: skip
    assert sum(m.startswith("preferred views") for m in messages) == 2
    assert (
        f"worst       {summary['resolution_worst_A']:.2f} Å"
        in (tmp_path / "run" / "summary.txt").read_text()
    )
