"""Each option of a refinement does what it says, in whole runs of a few seconds."""

import json
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from cryorefine.errors import InputError
from cryorefine.evaluate.fsc import FscCurves
from cryorefine.events import read_events
from cryorefine.io.mrc import read_volume, write_stack, write_volume
from cryorefine.io.star import read_star
from cryorefine.masks.soft import sphere_mask
from cryorefine.optics.ctf import contrast_transfer
from cryorefine.particles.formats.relion import read_relion, write_relion
from cryorefine.particles.images import open_images
from cryorefine.refine.reference import reference_ssnr
from cryorefine.report.build import write_report
from cryorefine.restore.registry import ORDER
from cryorefine.run.checkpoint import load_state
from cryorefine.run.loop import refine
from tests.builders import refused
from tests.restore.pairs import correlation

from .conftest import settings_for, simulate_set


@pytest.fixture(scope="module")
def tiny(eighty_set):
    return eighty_set


@pytest.fixture(scope="module")
def plain(tiny, tmp_path_factory):
    """Return a function of settings: the folder of their run and its columns, to be read only.

    It is what tests of an option compare theirs with, and made when the first of them asks.
    """
    made = {}

    def found(**changes):
        key = tuple(sorted(changes.items()))
        if key not in made:
            folder = tmp_path_factory.mktemp("plain") / "run"
            made[key] = folder, run(tiny, folder, **changes)[1]
        return made[key]

    return found


KEPT_POSES = {"alignment": "none", "reference": (), "known": True}
"""The shortest run, for what does not depend on how poses are found."""


def run(tiny, folder, **changes):
    """Refine once with the given settings; return the folder and its columns."""
    known = changes.pop("known", False)
    values = {"alignment": "global", "iterations": 1, **changes}
    if known:
        values["particles"] = tiny / "truth_particles.star"
    summary = refine(settings_for(tiny, **values), folder)
    return summary, read_star(folder / "particles.star")["particles"]


def maps(folder, name="half1.mrc"):
    return read_volume(folder / name).data


@pytest.mark.parametrize(
    ("mode", "n"),
    [("global", 2), ("local", 2), ("automatic", 4), ("stochastic", 3), ("none", 1)],
)
def test_every_mode_runs_to_its_end(tiny, tmp_path, mode, n):
    how = {
        "alignment": mode,
        "iterations": n,
        "stochastic_subset": 15,
        "known": mode in ("local", "none"),
    }
    if mode == "none":
        how["reference"] = ()
    summary, _ = run(tiny, tmp_path / "run", **how)
    assert summary["finished"]
    assert summary["iterations"] <= n
    assert summary["resolution_A"] < 25
    for name in ("summary.txt", "methods.txt", "statistics.json", "map.mrc", "particles.star"):
        assert (tmp_path / "run" / name).stat().st_size > 0


def test_two_initial_maps_start_one_half_each(tiny, plain, tmp_path):
    volume = read_volume(tiny / "reference.mrc")
    write_volume(
        tmp_path / "flat.mrc",
        volume.data * 0 + torch.randn(volume.data.shape) * 1e-3,
        volume.voxel_A,
    )
    _, both = run(tiny, tmp_path / "a", reference=(tiny / "reference.mrc",) * 2)
    _, one = plain()
    assert both.floats("rlnAngleRot").tolist() == one.floats("rlnAngleRot").tolist()
    _, other = run(tiny, tmp_path / "c", reference=(tiny / "reference.mrc", tmp_path / "flat.mrc"))
    first = one.integers("rlnRandomSubset") == 1
    same = other.floats("rlnAngleTilt") == one.floats("rlnAngleTilt")
    assert same[first].all()
    assert not same[~first].all()


def test_without_an_initial_map_the_poses_make_one(tiny, tmp_path):
    summary, _ = run(tiny, tmp_path / "run", known=True, reference=(), alignment="local")
    assert summary["resolution_A"] < 20


def test_a_stochastic_iteration_takes_so_many_particles_of_each_half(tiny, tmp_path):
    run(tiny, tmp_path / "run", alignment="stochastic", stochastic_subset=9, stochastic_mixing=0.5)
    statistics = json.loads((tmp_path / "run" / "statistics.json").read_text())
    assert statistics["n_used"] == 18
    assert statistics["n_without_pose"] == 80 - 18


def test_stochastic_sums_are_mixed_as_asked_for(tiny, tmp_path):
    def sums(name, mixing, iterations):
        run(tiny, tmp_path / name, alignment="stochastic", stochastic_subset=20,
            stochastic_mixing=mixing, iterations=iterations, intermediate="keep")  # fmt: skip
        state = load_state(tmp_path / name, iterations).state
        return state.sums[0].values

    first, second = sums("one", 0.25, 1), sums("two", 0.25, 2)
    new = sums("all", 1.0, 2)  # only the second subset, from another reference
    assert float((second - (0.75 * first + 0.25 * new)).norm() / second.norm()) < 0.1


def test_targets_bound_what_poses_are_compared_at(tiny, tmp_path):
    how = {"alignment": "global", "iterations": 3, "target_resolution": "24 19"}
    run(tiny, tmp_path / "run", **how)
    state = load_state(tmp_path / "run", 3).state
    assert [r.align_resolution_A for r in state.history] == pytest.approx([24, 19, 19])


def test_without_multiresolution_everything_is_compared_at_once(tiny, tmp_path):
    run(tiny, tmp_path / "run", multiresolution=False)
    state = load_state(tmp_path / "run", 1).state
    assert state.history[0].align_resolution_A == pytest.approx(10)


@pytest.mark.parametrize(
    ("changes", "moved", "stays"),
    [
        ({"refine_shifts": False}, "rlnAngleTilt", "rlnOriginXAngst"),
        ({"refine_angles": False}, "rlnOriginXAngst", "rlnAngleTilt"),
    ],
)
def test_what_is_not_refined_stays(tiny, tmp_path, changes, moved, stays):
    before = read_star(tiny / "truth_particles.star")["particles"]
    _, after = run(tiny, tmp_path / "run", alignment="local", known=True, **changes)
    assert np.allclose(after.floats(stays), before.floats(stays), atol=2e-6)
    assert np.abs(after.floats(moved) - before.floats(moved)).max() > 0.1


def test_poses_stay_within_the_local_limits(tiny, tmp_path):
    limits = {"max_shift_change_percent": 0.5, "max_angle_change_deg": 1.0}
    _, after = run(tiny, tmp_path / "run", alignment="local", known=True, **limits)
    assert 0.9 < after.floats("cryorefineAngleDiffDeg").max() < 1.0001
    assert 0.7 < after.floats("cryorefineShiftDiffA").max() < 0.5 / 100 * 32 * 5 + 1e-6


def test_only_particles_within_the_tilts_are_reconstructed(tiny, plain, tmp_path):
    range_deg = {"reconstruct_min_tilt_deg": 40.0, "reconstruct_max_tilt_deg": 100.0}
    _, table = run(tiny, tmp_path / "run", **KEPT_POSES, **range_deg)
    tilt = table.floats("rlnAngleTilt")
    # About its axes x and y, D2 turns a tilt into 180° less it: whichever copy is written.
    outside = (tilt < 40) | (tilt > 140)
    assert 0 < outside.sum() < len(tilt)
    assert ((tilt > 100) & ~outside).any()
    assert ((table.floats("cryorefineWeight") == 0) == outside).all()
    assert not torch.equal(maps(tmp_path / "run"), maps(plain(**KEPT_POSES)[0]))
    with refused("no particle of half 1 has a tilt"):
        run(tiny, tmp_path / "none", **KEPT_POSES, reconstruct_min_tilt_deg=179.8)


@pytest.mark.parametrize("name", ["weight_ssnr", "weight_cost", "weight_stability", "weight_cc"])
def test_a_weight_reaches_the_reconstruction_and_comes_from_its_half_only(
    tiny, plain, tmp_path, name
):
    how = {"alignment": "local", "iterations": 1, "known": True}
    folder, other = plain(**how)
    _, table = run(tiny, tmp_path / "run", **{name: True}, **how)
    assert set(other.floats("cryorefineWeight")) == {1.0}
    weight, half = table.floats("cryorefineWeight"), table.integers("rlnRandomSubset")
    assert weight.std() > 0.01
    assert [weight[half == h].mean() for h in (1, 2)] == pytest.approx([1, 1], abs=1e-5)
    assert not torch.equal(maps(folder), maps(tmp_path / "run"))
    # Poses of the first iteration do not depend on weights.
    assert np.allclose(other.floats("rlnAngleRot"), table.floats("rlnAngleRot"))


def test_weights_multiply(tiny, tmp_path):
    requested = {
        "weight_cc": True,
        "weight_cost": True,
        "weight_ssnr": True,
        "weight_stability": True,
    }
    _, t = run(
        tiny, tmp_path / "run", alignment="local", known=True, min_cc_weight=0.3, **requested
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


def command(expression: str) -> str:
    """Return a command that replaces a map v by an expression of v."""
    code = (
        "import sys, numpy, mrcfile; f = mrcfile.open(sys.argv[1], 'r+'); v = f.data; "
        f"f.data[...] = {expression}; f.close()"
    )
    return f'{sys.executable} -c "{code}" {{volume}}'


@pytest.mark.parametrize(
    "changes",
    [
        {"positivity": True},
        {"dropout": 0.3},
        {"reference_shape": "cylinder", "particle_radius_px": 6.0},
        {"resolution_offset_angstrom": 20.0, "iterations": 2},
        {"reference_command": command("v * (v > v.std())")},
        {"fourier_padding": 2.5},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_what_changes_the_next_reference_changes_the_poses(tiny, plain, tmp_path, changes):
    base = {k: v for k, v in changes.items() if k in ("iterations", "particle_radius_px")}
    _, other = plain(**base)
    _, table = run(tiny, tmp_path / "run", **changes)
    assert not np.array_equal(table.floats("cryorefineScore"), other.floats("cryorefineScore"))
    # The maps are still maps of the particle.
    assert np.median(table.floats("cryorefineCorrelation")) > 0.2


def test_with_a_negative_offset_poses_are_compared_beyond_the_resolution(tiny, tmp_path):
    def second(name, **changes):
        # By this criterion the resolution is coarser than what half maps agree to.
        run(tiny, tmp_path / name, iterations=2, fsc_criterion=0.95, **changes)
        state = load_state(tmp_path / name, 2).state
        return state.history[0].resolution_A, state.history[1].align_resolution_A, state.poses

    resolution_A, compared_A, plain = second("plain")
    assert compared_A == pytest.approx(max(0.9 * resolution_A, 13.5))
    same_A, finer_A, poses = second("negative", resolution_offset_angstrom=-6.0)
    assert same_A == resolution_A
    assert finer_A == pytest.approx(max(resolution_A - 6.0, 13.5))
    assert finer_A < 0.95 * compared_A
    assert not torch.equal(poses.scores.score, plain.scores.score)


def test_a_reference_holds_what_halves_agree_on_up_to_a_limit_beyond_the_resolution():
    frequency = torch.arange(17, dtype=torch.float64) / 160
    curve = torch.linspace(1, 0.05, 17, dtype=torch.float64)
    curves = FscCurves(frequency, *[curve] * 5, randomised_from_A=20.0)
    plain = reference_ssnr(curves, 20.0)
    assert bool((plain[:12] > 0).all())
    assert not plain[12:].any()
    further = reference_ssnr(curves, 20.0, limit_A=160 / 14)
    assert torch.equal(further[:12], plain[:12])
    torch.testing.assert_close(further[12:15], (curve / (1 - curve))[12:15])
    assert not further[15:].any()
    assert torch.equal(reference_ssnr(curves, 20.0, limit_A=40.0), plain)


def test_a_mask_of_the_reference_is_not_that_of_the_resolution(tiny, plain, tmp_path):
    write_volume(tmp_path / "mask.mrc", sphere_mask(32, 6.0), 5.0)
    _, other = plain()
    _, table = run(tiny, tmp_path / "run", reference_mask=tmp_path / "mask.mrc")
    assert not np.array_equal(table.floats("cryorefineScore"), other.floats("cryorefineScore"))
    assert float(maps(tmp_path / "run", "mask.mrc").sum()) > 1.5 * float(sphere_mask(32, 6.0).sum())


def test_the_processed_map_has_its_mask_and_command_and_nothing_else_sees_them(
    tiny, plain, tmp_path
):
    mask = sphere_mask(32, 5.0)
    write_volume(tmp_path / "mask.mrc", mask, 5.0)
    other, _ = plain(**KEPT_POSES)
    # What the command adds outside the mask does not stay: the mask comes last.
    how = {"post_mask": tmp_path / "mask.mrc", "post_command": command("1 - v")}
    run(tiny, tmp_path / "run", **KEPT_POSES, **how)
    expected = (1 - maps(other, "map.mrc")) * mask
    torch.testing.assert_close(maps(tmp_path / "run", "map_processed.mrc"), expected)
    assert torch.equal(maps(tmp_path / "run"), maps(other))
    assert not (other / "map_processed.mrc").exists()


def test_restorations_of_half_maps_leave_the_raw_ones_and_the_resolution_as_they_are(
    tiny, plain, tmp_path
):
    write_volume(tmp_path / "inner.mrc", sphere_mask(32, 7.0, 3.0), 5.0)
    write_volume(tmp_path / "outer.mrc", sphere_mask(32, 12.0, 3.0), 5.0)
    other, _ = plain(**KEPT_POSES)
    how = {
        "post_symmetry": "c2",
        "post_symmetry_mask": tmp_path / "inner.mrc",
        "post_align_halves": True,
        "post_denoise": True,
        "post_filter_bank": True,
        "post_laplacian": True,
        "post_deconvolve": True,
        "post_undershoot_sigmas": 5.0,
        "post_difference": True,
        "post_command": command("-v"),
        "post_mask": tmp_path / "outer.mrc",
    }
    found, _ = run(tiny, tmp_path / "run", **KEPT_POSES, **how)
    for name in ("map.mrc", "half1.mrc", "half2.mrc", "mask.mrc"):
        assert torch.equal(maps(tmp_path / "run", name), maps(other, name)), name
    assert found["resolution_A"] == json.loads((other / "summary.json").read_text())["resolution_A"]
    assert (tmp_path / "run" / "fsc.star").read_text() == (other / "fsc.star").read_text()

    record = json.loads((tmp_path / "run" / "restorations.json").read_text())
    names = [step["name"] for step in record["steps"]]
    assert names == [kind.name for kind in ORDER]
    assert record["mixes_halves"]
    outside = sphere_mask(32, 12.0, 3.0) == 0
    for half in (1, 2):
        processed = maps(tmp_path / "run", f"half{half}_processed.mrc")
        assert not torch.equal(processed, maps(tmp_path / "run", f"half{half}.mrc"))
        assert not bool(processed[outside].any())
    # The command turned the sign of both halves before the rest.
    assert correlation(maps(tmp_path / "run", "map_processed.mrc"), maps(tmp_path / "run")) < -0.5
    assert (tmp_path / "run" / "disagreement.mrc").exists()
    told = [e for e in read_events(tmp_path / "run" / "events.jsonl") if e.kind == "restored"]
    assert [step["name"] for step in told[0].data()["steps"]] == names
    write_report(tmp_path / "run")
    page = (tmp_path / "run" / "report.html").read_text()
    assert "FSC before and after processing" in page
    assert "no longer independent" in page
    assert not (other / "restorations.json").exists()


def test_what_keeps_the_halves_apart_is_not_said_to_mix_them(tiny, tmp_path):
    run(tiny, tmp_path / "run", **KEPT_POSES, post_denoise=True)
    record = json.loads((tmp_path / "run" / "restorations.json").read_text())
    assert not record["mixes_halves"]
    write_report(tmp_path / "run")
    page = (tmp_path / "run" / "report.html").read_text()
    assert "significant denoising in real space" in page
    assert "no longer independent" not in page


def test_restorations_that_cannot_be_done_are_refused_before_the_run(tiny, tmp_path):
    with refused("--post-symmetry", "--post-symmetry-mask", "need each other"):
        run(tiny, tmp_path / "run", post_symmetry="c2")
    write_volume(tmp_path / "mask.mrc", sphere_mask(32, 7.0, 3.0), 5.0)
    with refused("--post-symmetry", "x9"):
        run(tiny, tmp_path / "run", post_symmetry="x9", post_symmetry_mask=tmp_path / "mask.mrc")
    with refused("--post-symmetry-angles-deg", "three angles"):
        run(
            tiny,
            tmp_path / "run",
            post_symmetry="c2",
            post_symmetry_mask=tmp_path / "mask.mrc",
            post_symmetry_angles_deg="10 20",
        )
    assert not (tmp_path / "run").exists()


def test_a_command_that_fails_ends_the_run_with_its_output(tiny, tmp_path):
    bad = f'{sys.executable} -c "import sys; print(3 * 37); sys.exit(5)"'
    with refused("exit", "111"):
        run(tiny, tmp_path / "run", reference_command=bad)
    with refused("no_such_program"):
        run(tiny, tmp_path / "other", post_command="no_such_program {volume}")
    assert not (tmp_path / "other").exists()
    shell = {
        "command_shell": True,
        "post_command": "cp {volume} {volume}.1 && mv {volume}.1 {volume}",
    }
    run(tiny, tmp_path / "shell", **KEPT_POSES, **shell)
    assert (tmp_path / "shell" / "map_processed.mrc").exists()


def test_loud_images_are_rejected_with_the_reason(tiny, tmp_path):
    table, images = open_images(read_relion(tiny / "truth_particles.star"))
    stack = torch.cat([data for _, data in images.batches(np.arange(80), 80)])
    stack[7, 14:18, 14:18] += 100 * stack.std()  # a piece of ice
    write_stack(tmp_path / "loud.mrcs", stack, 5.0, half=False)
    write_with_stack(tmp_path / "loud.star", table, tmp_path / "loud.mrcs")
    particles = {"particles": tmp_path / "loud.star", "alignment": "none", "reference": ()}
    summary, used = run(tiny, tmp_path / "run", **particles)
    rejected = read_star(tmp_path / "run" / "rejected_particles.star")["particles"]
    assert (summary["n_rejected"], len(used)) == (1, 79)
    assert rejected.text("rlnImageName").tolist() == [f"000008@{tmp_path / 'loud.mrcs'}"]
    assert "times the background" in str(rejected.text("cryorefineRejectedBecause")[0])
    statistics = json.loads((tmp_path / "run" / "statistics.json").read_text())
    assert (statistics["n_input"], statistics["n_rejected"]) == (80, 1)
    assert statistics["rejected_because"] == {"power … times the background's": 1}
    assert run(tiny, tmp_path / "all", max_energy=1e6, **particles)[0]["n_rejected"] == 0


def test_volumes_of_all_iterations_and_references_as_used_are_kept_when_asked_for(tiny, tmp_path):
    how = {"iterations": 3, "positivity": True}
    for name, expected in (("keep", 4), ("remove", 2)):
        run(tiny, tmp_path / name, intermediate=name, **how)
        assert len(list((tmp_path / name).glob("iteration_*/reference1.mrc"))) == expected
    # Iteration 0 has no map; of the others only tables are left.
    removed = tmp_path / "remove"
    assert len(list(removed.glob("iteration_*/*.mrc"))) == 2 * 8
    assert len(list(removed.glob("iteration_*/particles.star"))) == 3
    assert not list(removed.glob("iteration_*/*_used.mrc"))
    kept = tmp_path / "keep"
    assert len(list(kept.glob("iteration_*/reference?_used.mrc"))) == 2 * 3
    for n in (1, 2, 3):
        used = maps(kept / f"iteration_{n:03d}", "reference1_used.mrc")
        made = maps(kept / f"iteration_{n - 1:03d}", "reference1.mrc")
        assert float(used.min()) >= 0 > float(made.min())
        inside = used > 0.2 * used.max()
        ratio = used[inside] / made[inside]  # on the images' scale, which the first is brought to
        assert float(ratio.std() / ratio.mean()) < 1e-3
    assert float(ratio.mean()) == pytest.approx(1.0, rel=1e-3)


def test_a_command_has_a_folder_of_the_iteration_that_stays(tiny, tmp_path):
    code = (
        "import sys, pathlib; "
        "(pathlib.Path(sys.argv[1]) / ('half' + sys.argv[2])).write_text(sys.argv[3])"
    )
    words = f'{sys.executable} -c "{code}" {{iterDir}} {{half}} {{iteration}}'
    run(tiny, tmp_path / "run", reference_command=words, post_command=words, iterations=2)
    folders = tmp_path / "run" / "commands"
    found = {str(p.relative_to(folders)): p.read_text() for p in folders.glob("*/*")}
    assert found == {f"iteration_00{n}/half{h}": str(n) for n in (1, 2) for h in (0, 1, 2)}
    # It is the user's, and stays where the run is made anew.
    refine(settings_for(tiny, alignment="global", iterations=1), tmp_path / "run", overwrite=True)
    assert len(list(folders.glob("*/*"))) == 6


def test_masks_without_a_voxel_size_are_taken_with_the_one_given(tiny, tmp_path):
    write_volume(tmp_path / "mask.mrc", sphere_mask(32, 9.0), 5.0)
    content = bytearray((tmp_path / "mask.mrc").read_bytes())
    content[40:52] = bytes(12)  # the cell of the header
    (tmp_path / "none.mrc").write_bytes(content)
    how = {"mask": tmp_path / "none.mrc"}
    with refused("no voxel size", "--mask-voxel-angstrom"):
        run(tiny, tmp_path / "run", **how)
    run(tiny, tmp_path / "run", mask_voxel_angstrom=5.0, **KEPT_POSES, **how)
    run(tiny, tmp_path / "same", mask=tmp_path / "mask.mrc", **KEPT_POSES)
    assert torch.equal(maps(tmp_path / "run", "mask.mrc"), maps(tmp_path / "same", "mask.mrc"))
    with refused("--mask-voxel-angstrom: there is no mask"):
        run(tiny, tmp_path / "no", mask_voxel_angstrom=5.0)


def test_processed_halves_make_the_next_references_and_the_fsc_is_of_the_raw_ones(tiny, tmp_path):
    write_volume(tmp_path / "mask.mrc", sphere_mask(32, 6.0, 2.0), 5.0)
    how = {
        "post_mask": tmp_path / "mask.mrc",
        "post_command": command("v * (1 if '{half}' == '0' else 2)"),
    }
    both = {"iterations": 2, "intermediate": "keep", **how}
    run(tiny, tmp_path / "plain", **both)
    run(tiny, tmp_path / "fed", reference_from_processed=True, **both)
    plain, fed = (load_state(tmp_path / name, 1).state for name in ("plain", "fed"))
    assert torch.equal(fed.halves[0], plain.halves[0])
    assert torch.equal(fed.evaluation.curves.corrected, plain.evaluation.curves.corrected)
    outside = sphere_mask(32, 9.0, 1.0) == 0
    for mine, other, half in zip(fed.references, plain.references, fed.halves, strict=True):
        assert float(mine[outside].norm()) < 0.1 * float(mine.norm())
        # Twice the half map within the mask, damped by the FSC as other references are.
        masked = 2 * half * sphere_mask(32, 6.0, 2.0)
        alike = torch.nn.functional.cosine_similarity
        assert float(alike(mine.flatten(), masked.flatten(), dim=0)) > 0.85
        ratio = mine.norm() / (other * sphere_mask(32, 6.0, 2.0)).norm()
        assert 1.7 < float(ratio) < 2.3
    # The next iteration compares with them.
    first, second = (load_state(tmp_path / n, 2).state.poses for n in ("plain", "fed"))
    assert not torch.equal(first.scores.score, second.scores.score)
    with refused("--reference-from-processed", "--post-mask"):
        run(tiny, tmp_path / "none", reference_from_processed=True)


def test_an_envelope_that_is_not_corrected_damps_the_map(tmp_path):
    data = simulate_set(
        tmp_path / "data", particles=60, box_px=32, pixel_angstrom=5.0, snr=0.5,
        imaging_bfactor=1500,
    )  # fmt: skip
    how = {"alignment": "none", "reference": (), "known": True}
    run(data, tmp_path / "with", **how)
    run(data, tmp_path / "without", ctf_envelope=False, **how)

    def fine(name):
        half = torch.fft.rfftn(maps(tmp_path / name))
        k = torch.fft.fftfreq(32)[:, None, None] ** 2 + torch.fft.fftfreq(32)[None, :, None] ** 2
        k = (k + torch.fft.rfftfreq(32)[None, None] ** 2).sqrt()
        return float(half[(k > 0.2) & (k < 0.25)].abs().mean() / half[k < 0.1].abs().mean())

    assert fine("without") < 0.8 * fine("with")


@pytest.mark.parametrize("correction", ["phase_flipped", "ctf_premultiplied"])
def test_corrected_images_refine_as_well_when_it_is_declared(tiny, plain, tmp_path, correction):
    table = corrected_set(tiny, tmp_path, correction)
    how = {"alignment": "none", "reference": (), "compare_to": tiny / "truth_map.mrc"}

    def quality(name, **changes):
        settings = settings_for(tiny, particles=table, **how, **changes)
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


def corrected_set(tiny, folder, correction):
    """Write the set with its images corrected for the CTF, as other programs do."""
    table, images = open_images(read_relion(tiny / "truth_particles.star"))
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


def test_impossible_combinations_are_listed_all_at_once(tiny):
    with pytest.raises(InputError) as caught:
        settings_for(
            tiny, alignment="global", refine_grey=True, refine_shifts=False, weight_cost=True,
            phase_flipped=True, ctf_premultiplied=True, automatic_schedule="fixed",
            reconstruct_min_tilt_deg=90.0, reconstruct_max_tilt_deg=80.0,
        )  # fmt: skip
    message = str(caught.value)
    for part in ("--refine-grey", "--no-refine-shifts", "--weight-cost", "--ctf-premultiplied",
                 "--automatic-schedule", "--reconstruct-min-tilt-deg"):  # fmt: skip
        assert part in message


def test_subsets_and_dropout_are_drawn_anew_but_repeat_with_the_seed(tiny, tmp_path):
    def used(name, **how):
        values = {"alignment": "stochastic", "stochastic_subset": 10, "dropout": 0.1, **how}
        _, table = run(tiny, tmp_path / name, **values)
        return table.floats("cryorefineScore")

    first = used("a")
    assert np.array_equal(first, used("b"))
    assert not np.array_equal(first > 0, used("c", seed=1) > 0)
    events = read_events(tmp_path / "a" / "events.jsonl")
    assert any(event.kind == "end" for event in events)


def test_all_that_is_wrong_with_files_is_said_at_once(tiny, tmp_path):
    write_volume(tmp_path / "mask.mrc", 7 * sphere_mask(32, 6.0), 5.0)
    with refused("4 problems", "no.star", "no.mrc", "mask values run from 0 to 7", "no_program"):
        run(tiny, tmp_path / "run", particles=tmp_path / "no.star", mask=tmp_path / "mask.mrc",
            reference=(tmp_path / "no.mrc",), reference_command="no_program {volume}")  # fmt: skip
    assert not (tmp_path / "run").exists()


def test_a_radius_that_is_not_positive_is_half_the_box(tiny, tmp_path):
    for radius in (-1.0, 0.0):
        summary, _ = run(tiny, tmp_path / f"r{radius:g}", particle_radius_px=radius, **KEPT_POSES)
        assert summary["particle_radius_px"] == 15  # less the last pixel, which masks need


@pytest.mark.slow
def test_the_schedule_of_highres_ends_with_values_of_single_particles(tiny, tmp_path):
    how = {"alignment": "automatic", "iterations": 2}
    _, table = run(tiny, tmp_path / "run", automatic_schedule="highres", **how)
    state = load_state(tmp_path / "run", 2).state
    assert [record.mode for record in state.history] == ["global", "local"]
    assert load_state(tmp_path / "run", 1).state.poses.optics is None
    for label in ("GreyScale", "MagnificationXX", "DefocusChange"):
        assert np.ptp(table.floats(f"cryorefine{label}")) > 1e-4
    # The scale is one for both axes.
    assert np.allclose(
        table.floats("cryorefineMagnificationXX"), table.floats("cryorefineMagnificationYY")
    )
    _, plain = run(tiny, tmp_path / "plain", automatic_schedule="fixed", **how)
    assert "cryorefineGreyScale" not in plain
    with refused("--automatic-schedule highres", "--device"):
        run(tiny, tmp_path / "gpu", automatic_schedule="highres", device="cuda", **how)
