"""Each option of images and poses does what it says, in whole runs of a few seconds."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from cryorefine.errors import InputError
from cryorefine.events import read_events
from cryorefine.io.mrc import read_volume, write_stack, write_volume
from cryorefine.io.star import read_star
from cryorefine.masks.soft import sphere_mask
from cryorefine.optics.ctf import contrast_transfer
from cryorefine.particles.formats.relion import read_relion, write_relion
from cryorefine.particles.images import open_images
from cryorefine.run.checkpoint import load_state
from cryorefine.run.loop import refine
from tests.builders import refused

from .conftest import settings_for
from .option_runs import KEPT_POSES, maps, run


@pytest.mark.parametrize(
    ("mode", "n"),
    [("global", 2), ("local", 2), ("automatic", 4), ("stochastic", 3), ("none", 1)],
)
def test_every_mode_runs_to_its_end(eighty_set, tmp_path, mode, n):
    how = {
        "alignment": mode,
        "iterations": n,
        "stochastic_subset": 15,
        "known": mode in ("local", "none"),
    }
    if mode == "none":
        how["reference"] = ()
    summary, _ = run(eighty_set, tmp_path / "run", **how)
    assert summary["finished"]
    assert summary["iterations"] <= n
    assert summary["resolution_A"] < 25
    for name in ("summary.txt", "methods.txt", "statistics.json", "map.mrc", "particles.star"):
        assert (tmp_path / "run" / name).stat().st_size > 0


@pytest.mark.slow
def test_two_initial_maps_start_one_half_each(eighty_set, plain, tmp_path):
    volume = read_volume(eighty_set / "reference.mrc")
    write_volume(
        tmp_path / "flat.mrc",
        volume.data * 0 + torch.randn(volume.data.shape) * 1e-3,
        volume.voxel_A,
    )
    _, both = run(eighty_set, tmp_path / "a", reference=(eighty_set / "reference.mrc",) * 2)
    _, one = plain()
    assert both.floats("rlnAngleRot").tolist() == one.floats("rlnAngleRot").tolist()
    _, other = run(
        eighty_set, tmp_path / "c", reference=(eighty_set / "reference.mrc", tmp_path / "flat.mrc")
    )
    first = one.integers("rlnRandomSubset") == 1
    same = other.floats("rlnAngleTilt") == one.floats("rlnAngleTilt")
    assert same[first].all()
    assert not same[~first].all()


def test_without_an_initial_map_the_poses_make_one(eighty_set, tmp_path):
    summary, _ = run(eighty_set, tmp_path / "run", known=True, reference=(), alignment="local")
    assert summary["resolution_A"] < 20


def test_a_stochastic_iteration_takes_so_many_particles_of_each_half(eighty_set, tmp_path):
    run(
        eighty_set,
        tmp_path / "run",
        alignment="stochastic",
        stochastic_subset=9,
        stochastic_mixing=0.5,
    )
    statistics = json.loads((tmp_path / "run" / "statistics.json").read_text())
    assert statistics["n_used"] == 18
    assert statistics["n_without_pose"] == 80 - 18


@pytest.mark.slow
def test_stochastic_sums_are_mixed_as_asked_for(eighty_set, tmp_path):
    def sums(name, mixing, iterations):
        run(eighty_set, tmp_path / name, alignment="stochastic", stochastic_subset=20,
            stochastic_mixing=mixing, iterations=iterations, intermediate="keep")  # fmt: skip
        state = load_state(tmp_path / name, iterations).state
        return state.sums[0].values

    first, second = sums("one", 0.25, 1), sums("two", 0.25, 2)
    new = sums("all", 1.0, 2)  # only the second subset, from another reference
    assert float((second - (0.75 * first + 0.25 * new)).norm() / second.norm()) < 0.1


@pytest.mark.slow
def test_targets_bound_what_poses_are_compared_at(eighty_set, tmp_path):
    how = {"alignment": "global", "iterations": 3, "target_resolution": "24 19"}
    run(eighty_set, tmp_path / "run", **how)
    state = load_state(tmp_path / "run", 3).state
    assert [r.align_resolution_A for r in state.history] == pytest.approx([24, 19, 19])


def test_without_multiresolution_everything_is_compared_at_once(eighty_set, tmp_path):
    run(eighty_set, tmp_path / "run", multiresolution=False)
    state = load_state(tmp_path / "run", 1).state
    assert state.history[0].align_resolution_A == pytest.approx(10)


@pytest.mark.parametrize(
    ("changes", "moved", "stays"),
    [
        ({"refine_shifts": False}, "rlnAngleTilt", "rlnOriginXAngst"),
        ({"refine_angles": False}, "rlnOriginXAngst", "rlnAngleTilt"),
    ],
)
def test_what_is_not_refined_stays(eighty_set, tmp_path, changes, moved, stays):
    before = read_star(eighty_set / "truth_particles.star")["particles"]
    _, after = run(eighty_set, tmp_path / "run", alignment="local", known=True, **changes)
    assert np.allclose(after.floats(stays), before.floats(stays), atol=2e-6)
    assert np.abs(after.floats(moved) - before.floats(moved)).max() > 0.1


def test_poses_stay_within_the_local_limits(eighty_set, tmp_path):
    limits = {"max_shift_change_percent": 0.5, "max_angle_change_deg": 1.0}
    _, after = run(eighty_set, tmp_path / "run", alignment="local", known=True, **limits)
    assert 0.9 < after.floats("cryorefineAngleDiffDeg").max() < 1.0001
    assert 0.7 < after.floats("cryorefineShiftDiffA").max() < 0.5 / 100 * 32 * 5 + 1e-6


@pytest.mark.parametrize("name", ["weight_ssnr", "weight_cost", "weight_stability", "weight_cc"])
def test_a_weight_reaches_the_reconstruction_and_comes_from_its_half_only(
    eighty_set, plain, tmp_path, name
):
    how = {"alignment": "local", "iterations": 1, "known": True}
    folder, other = plain(**how)
    _, table = run(eighty_set, tmp_path / "run", **{name: True}, **how)
    assert set(other.floats("cryorefineWeight")) == {1.0}
    weight, half = table.floats("cryorefineWeight"), table.integers("rlnRandomSubset")
    assert weight.std() > 0.01
    assert [weight[half == h].mean() for h in (1, 2)] == pytest.approx([1, 1], abs=1e-5)
    assert not torch.equal(maps(folder), maps(tmp_path / "run"))
    # Poses of the first iteration do not depend on weights.
    assert np.allclose(other.floats("rlnAngleRot"), table.floats("rlnAngleRot"))


def test_weights_multiply(eighty_set, tmp_path):
    requested = {
        "weight_cc": True,
        "weight_cost": True,
        "weight_ssnr": True,
        "weight_stability": True,
    }
    _, t = run(
        eighty_set, tmp_path / "run", alignment="local", known=True, min_cc_weight=0.3, **requested
    )
    product = np.prod(
        [t.floats(f"cryorefineWeight{w}") for w in ("CC", "Cost", "Ssnr", "Stability")], 0
    )
    half = t.integers("rlnRandomSubset")
    for h in (1, 2):
        mine = half == h
        expected = product[mine] / product[mine].mean()
        assert t.floats("cryorefineWeight")[mine] == pytest.approx(expected, rel=1e-3, abs=1e-5)
    assert t.floats("cryorefineWeightCC").min() >= 0.3


def test_percentiles_are_ranks_among_particles_of_like_defocus_of_one_half(plain):
    _, table = plain()
    half, group = table.integers("rlnRandomSubset"), table.integers("cryorefineDefocusGroup")
    for h in (1, 2):
        for g in np.unique(group[half == h]):
            mine = (half == h) & (group == g)
            score, rank = (
                table.floats("cryorefineMaxCC")[mine],
                table.floats("cryorefinePercentile")[mine],
            )
            assert rank.max() == 1
            assert (np.argsort(score) == np.argsort(rank)).all()


def test_the_temperature_follows_the_turns(plain):
    _, table = plain(iterations=2)
    turned = table.floats("cryorefineAngleDiffDeg")
    assert turned.max() > 0
    # The first iteration has no earlier pose: a third of the second's turn.
    assert table.floats("cryorefineAngularTemperatureDeg") == pytest.approx(turned / 3, abs=1e-5)


@pytest.mark.slow
def test_with_a_negative_offset_poses_are_compared_beyond_the_resolution(eighty_set, tmp_path):
    def second(name, **changes):
        # By this criterion the resolution is coarser than what half maps agree to.
        run(eighty_set, tmp_path / name, iterations=2, fsc_criterion=0.95, **changes)
        state = load_state(tmp_path / name, 2).state
        return state.history[0].resolution_A, state.history[1].align_resolution_A, state.poses

    resolution_A, compared_A, plain = second("plain")
    assert compared_A == pytest.approx(max(0.9 * resolution_A, 13.5))
    same_A, finer_A, poses = second("negative", resolution_offset_angstrom=-6.0)
    assert same_A == resolution_A
    assert finer_A == pytest.approx(max(resolution_A - 6.0, 13.5))
    assert finer_A < 0.95 * compared_A
    assert not torch.equal(poses.scores.score, plain.scores.score)


def test_loud_images_are_rejected_with_the_reason(eighty_set, tmp_path):
    table, images = open_images(read_relion(eighty_set / "truth_particles.star"))
    stack = torch.cat([data for _, data in images.batches(np.arange(80), 80)])
    stack[7, 14:18, 14:18] += 100 * stack.std()  # a piece of ice
    write_stack(tmp_path / "loud.mrcs", stack, 5.0, half=False)
    write_with_stack(tmp_path / "loud.star", table, tmp_path / "loud.mrcs")
    particles = {"particles": tmp_path / "loud.star", "alignment": "none", "reference": ()}
    summary, used = run(eighty_set, tmp_path / "run", **particles)
    rejected = read_star(tmp_path / "run" / "rejected_particles.star")["particles"]
    assert (summary["n_rejected"], len(used)) == (1, 79)
    assert rejected.text("rlnImageName").tolist() == [f"000008@{tmp_path / 'loud.mrcs'}"]
    assert "times the background" in str(rejected.text("cryorefineRejectedBecause")[0])
    statistics = json.loads((tmp_path / "run" / "statistics.json").read_text())
    assert (statistics["n_input"], statistics["n_rejected"]) == (80, 1)
    assert statistics["rejected_because"] == {"power … times the background's": 1}
    assert run(eighty_set, tmp_path / "all", max_energy=1e6, **particles)[0]["n_rejected"] == 0


@pytest.mark.parametrize("correction", ["phase_flipped", "ctf_premultiplied"])
def test_corrected_images_refine_as_well_when_it_is_declared(
    eighty_set, plain, tmp_path, correction
):
    table = corrected_set(eighty_set, tmp_path, correction)
    how = {"alignment": "none", "reference": (), "compare_to": eighty_set / "truth_map.mrc"}

    def quality(name, **changes):
        settings = settings_for(eighty_set, particles=table, **how, **changes)
        refine(settings, tmp_path / name)
        curve = read_star(tmp_path / name / "fsc.star")["fsc"].floats("cryorefineComparisonFSC")
        return float(np.mean(curve[1:12]))

    raw = read_star(plain(**KEPT_POSES)[0] / "fsc.star")["fsc"].floats("cryorefineComparisonFSC")
    raw = float(np.mean(raw[1:12]))
    assert quality("declared", **{correction: True}) > raw - 0.03
    assert quality("undeclared") < raw - 0.1


def write_with_stack(star, table, stack):
    """Write a table whose images are those of one stack, in order."""
    rows = np.arange(len(table))
    names = np.array([f"{row + 1:06d}@{stack}" for row in rows])
    one = {"stacks": (stack,), "stack_index": np.zeros_like(rows), "image_index": rows}
    write_relion(star, replace(table, names=names, **one))


def corrected_set(eighty_set, folder, correction):
    """Write the set with its images corrected for the CTF, as other programs do."""
    table, images = open_images(read_relion(eighty_set / "truth_particles.star"))
    group, n = table.optics[0], 32
    grid = torch.meshgrid(torch.fft.fftfreq(n), torch.fft.rfftfreq(n), indexing="ij")
    s = torch.stack([grid[1], grid[0]], -1).reshape(-1, 2).double() / group.pixel_A
    stack = torch.empty(len(table), n, n)
    for rows, data in images.batches(np.arange(len(table)), 16):
        c = contrast_transfer(group, table.defocus(rows, torch.float64), s).reshape(
            -1, n, n // 2 + 1
        )
        factor = c.sign() if correction == "phase_flipped" else c
        transform = torch.fft.rfft2(data.double()) * factor
        stack[torch.from_numpy(rows)] = torch.fft.irfft2(transform, s=(n, n)).float()
    path = folder / "corrected.mrcs"
    write_stack(path, stack, group.pixel_A, half=False)
    write_with_stack(folder / "corrected.star", table, path)
    return folder / "corrected.star"


def test_impossible_combinations_are_listed_all_at_once(eighty_set):
    with pytest.raises(InputError) as caught:
        settings_for(
            eighty_set, alignment="global", refine_grey=True, refine_shifts=False, weight_cost=True,
            phase_flipped=True, ctf_premultiplied=True, automatic_schedule="fixed",
            reconstruct_min_tilt_deg=90.0, reconstruct_max_tilt_deg=80.0,
        )  # fmt: skip
    message = str(caught.value)
    for part in ("--refine-grey", "--no-refine-shifts", "--weight-cost", "--ctf-premultiplied",
                 "--automatic-schedule", "--reconstruct-min-tilt-deg"):  # fmt: skip
        assert part in message


@pytest.mark.slow
def test_subsets_and_dropout_are_drawn_anew_but_repeat_with_the_seed(eighty_set, tmp_path):
    def used(name, **how):
        values = {"alignment": "stochastic", "stochastic_subset": 10, "dropout": 0.1, **how}
        _, table = run(eighty_set, tmp_path / name, **values)
        return table.floats("cryorefineScore")

    first = used("a")
    assert np.array_equal(first, used("b"))
    assert not np.array_equal(first > 0, used("c", seed=1) > 0)
    events = read_events(tmp_path / "a" / "events.jsonl")
    assert any(event.kind == "end" for event in events)


def test_all_that_is_wrong_with_files_is_said_at_once(eighty_set, tmp_path):
    write_volume(tmp_path / "mask.mrc", 7 * sphere_mask(32, 6.0), 5.0)
    with refused("4 problems", "no.star", "no.mrc", "mask values run from 0 to 7", "no_program"):
        run(eighty_set, tmp_path / "run", mask=tmp_path / "mask.mrc",
            particles=tmp_path / "no.star", reference=(tmp_path / "no.mrc",),
            reference_command="no_program {volume}")  # fmt: skip
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_the_schedule_of_highres_ends_with_values_of_single_particles(eighty_set, tmp_path):
    how = {"alignment": "automatic", "iterations": 2}
    _, table = run(eighty_set, tmp_path / "run", automatic_schedule="highres", **how)
    state = load_state(tmp_path / "run", 2).state
    assert [record.mode for record in state.history] == ["global", "local"]
    assert load_state(tmp_path / "run", 1).state.poses.optics is None
    for label in ("GreyScale", "MagnificationXX", "DefocusChange"):
        assert np.ptp(table.floats(f"cryorefine{label}")) > 1e-4
    # The scale is one for both axes.
    assert np.allclose(
        table.floats("cryorefineMagnificationXX"), table.floats("cryorefineMagnificationYY")
    )
    _, plain = run(eighty_set, tmp_path / "plain", automatic_schedule="fixed", **how)
    assert "cryorefineGreyScale" not in plain
    with refused("--automatic-schedule highres", "--device"):
        run(eighty_set, tmp_path / "gpu", automatic_schedule="highres", device="cuda", **how)
