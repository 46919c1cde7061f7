"""Each option of references and maps does what it says, in whole runs of a few seconds."""

import json
import sys

import numpy as np
import pytest
import torch

from cryorefine.evaluate.fsc import FscCurves
from cryorefine.events import read_events
from cryorefine.io.mrc import write_volume
from cryorefine.masks.soft import sphere_mask
from cryorefine.refine.reference import reference_ssnr
from cryorefine.report.build import write_report
from cryorefine.restore.registry import ORDER
from cryorefine.run.checkpoint import load_state
from cryorefine.run.loop import refine
from tests.builders import refused
from tests.restore.pairs import correlation

from .conftest import settings_for, simulate_set
from .option_runs import KEPT_POSES, maps, run


def test_only_particles_within_the_tilts_are_reconstructed(eighty_set, plain, tmp_path):
    range_deg = {"reconstruct_min_tilt_deg": 40.0, "reconstruct_max_tilt_deg": 100.0}
    _, table = run(eighty_set, tmp_path / "run", **KEPT_POSES, **range_deg)
    tilt = table.floats("rlnAngleTilt")
    # About its axes x and y, D2 turns a tilt into 180° less it: whichever copy is written.
    outside = (tilt < 40) | (tilt > 140)
    assert 0 < outside.sum() < len(tilt)
    assert ((tilt > 100) & ~outside).any()
    assert ((table.floats("cryorefineWeight") == 0) == outside).all()
    assert not torch.equal(maps(tmp_path / "run"), maps(plain(**KEPT_POSES)[0]))
    with refused("no particle of half 1 has a tilt"):
        run(eighty_set, tmp_path / "none", **KEPT_POSES, reconstruct_min_tilt_deg=179.8)


def command(expression: str) -> str:
    """Return a command that replaces a map v by an expression of v."""
    code = (
        "import sys, numpy, mrcfile; f = mrcfile.open(sys.argv[1], 'r+'); v = f.data; "
        f"f.data[...] = {expression}; f.close()"
    )
    return f'{sys.executable} -c "{code}" {{volume}}'


@pytest.mark.slow
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
def test_what_changes_the_next_reference_changes_the_poses(eighty_set, plain, tmp_path, changes):
    base = {k: v for k, v in changes.items() if k in ("iterations", "particle_radius_px")}
    _, other = plain(**base)
    _, table = run(eighty_set, tmp_path / "run", **changes)
    assert not np.array_equal(table.floats("cryorefineScore"), other.floats("cryorefineScore"))
    # The maps are still maps of the particle.
    assert np.median(table.floats("cryorefineCorrelation")) > 0.2


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


def test_a_mask_of_the_reference_is_not_that_of_the_resolution(eighty_set, plain, tmp_path):
    write_volume(tmp_path / "mask.mrc", sphere_mask(32, 6.0), 5.0)
    _, other = plain()
    _, table = run(eighty_set, tmp_path / "run", reference_mask=tmp_path / "mask.mrc")
    assert not np.array_equal(table.floats("cryorefineScore"), other.floats("cryorefineScore"))
    assert float(maps(tmp_path / "run", "mask.mrc").sum()) > 1.5 * float(sphere_mask(32, 6.0).sum())


def test_the_processed_map_has_its_mask_and_command_and_nothing_else_sees_them(
    eighty_set, plain, tmp_path
):
    mask = sphere_mask(32, 5.0)
    write_volume(tmp_path / "mask.mrc", mask, 5.0)
    other, _ = plain(**KEPT_POSES)
    # What the command adds outside the mask does not stay: the mask comes last.
    how = {"post_mask": tmp_path / "mask.mrc", "post_command": command("1 - v")}
    run(eighty_set, tmp_path / "run", **KEPT_POSES, **how)
    expected = (1 - maps(other, "map.mrc")) * mask
    torch.testing.assert_close(maps(tmp_path / "run", "map_processed.mrc"), expected)
    assert torch.equal(maps(tmp_path / "run"), maps(other))
    assert not (other / "map_processed.mrc").exists()


@pytest.mark.slow
def test_restorations_of_half_maps_leave_the_raw_ones_and_the_resolution_as_they_are(
    eighty_set, plain, tmp_path
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
    found, _ = run(eighty_set, tmp_path / "run", **KEPT_POSES, **how)
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


def test_what_keeps_the_halves_apart_is_not_said_to_mix_them(eighty_set, tmp_path):
    run(eighty_set, tmp_path / "run", **KEPT_POSES, post_denoise=True)
    record = json.loads((tmp_path / "run" / "restorations.json").read_text())
    assert not record["mixes_halves"]
    write_report(tmp_path / "run")
    page = (tmp_path / "run" / "report.html").read_text()
    assert "significant denoising in real space" in page
    assert "no longer independent" not in page


def test_restorations_that_cannot_be_done_are_refused_before_the_run(eighty_set, tmp_path):
    with refused("--post-symmetry", "--post-symmetry-mask", "need each other"):
        run(eighty_set, tmp_path / "run", post_symmetry="c2")
    write_volume(tmp_path / "mask.mrc", sphere_mask(32, 7.0, 3.0), 5.0)
    with refused("--post-symmetry", "x9"):
        run(
            eighty_set,
            tmp_path / "run",
            post_symmetry="x9",
            post_symmetry_mask=tmp_path / "mask.mrc",
        )
    with refused("--post-symmetry-angles-deg", "three angles"):
        run(
            eighty_set,
            tmp_path / "run",
            post_symmetry="c2",
            post_symmetry_mask=tmp_path / "mask.mrc",
            post_symmetry_angles_deg="10 20",
        )
    assert not (tmp_path / "run").exists()


def test_a_command_that_fails_ends_the_run_with_its_output(eighty_set, tmp_path):
    bad = f'{sys.executable} -c "import sys; print(3 * 37); sys.exit(5)"'
    with refused("exit", "111"):
        run(eighty_set, tmp_path / "run", reference_command=bad)
    with refused("no_such_program"):
        run(eighty_set, tmp_path / "other", post_command="no_such_program {volume}")
    assert not (tmp_path / "other").exists()
    shell = {
        "command_shell": True,
        "post_command": "cp {volume} {volume}.1 && mv {volume}.1 {volume}",
    }
    run(eighty_set, tmp_path / "shell", **KEPT_POSES, **shell)
    assert (tmp_path / "shell" / "map_processed.mrc").exists()


@pytest.mark.slow
def test_volumes_of_all_iterations_and_references_as_used_are_kept_when_asked_for(
    eighty_set, tmp_path
):
    how = {"iterations": 3, "positivity": True}
    for name, expected in (("keep", 4), ("remove", 2)):
        run(eighty_set, tmp_path / name, intermediate=name, **how)
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


@pytest.mark.slow
def test_a_command_has_a_folder_of_the_iteration_that_stays(eighty_set, tmp_path):
    code = (
        "import sys, pathlib; "
        "(pathlib.Path(sys.argv[1]) / ('half' + sys.argv[2])).write_text(sys.argv[3])"
    )
    words = f'{sys.executable} -c "{code}" {{iterDir}} {{half}} {{iteration}}'
    run(eighty_set, tmp_path / "run", reference_command=words, post_command=words, iterations=2)
    folders = tmp_path / "run" / "commands"
    found = {str(p.relative_to(folders)): p.read_text() for p in folders.glob("*/*")}
    assert found == {f"iteration_00{n}/half{h}": str(n) for n in (1, 2) for h in (0, 1, 2)}
    # It is the user's, and stays where the run is made anew.
    refine(
        settings_for(eighty_set, alignment="global", iterations=1), tmp_path / "run", overwrite=True
    )
    assert len(list(folders.glob("*/*"))) == 6


def test_masks_without_a_voxel_size_are_taken_with_the_one_given(eighty_set, tmp_path):
    write_volume(tmp_path / "mask.mrc", sphere_mask(32, 9.0), 5.0)
    content = bytearray((tmp_path / "mask.mrc").read_bytes())
    content[40:52] = bytes(12)  # the cell of the header
    (tmp_path / "none.mrc").write_bytes(content)
    how = {"mask": tmp_path / "none.mrc"}
    with refused("no voxel size", "--mask-voxel-angstrom"):
        run(eighty_set, tmp_path / "run", **how)
    run(eighty_set, tmp_path / "run", mask_voxel_angstrom=5.0, **KEPT_POSES, **how)
    run(eighty_set, tmp_path / "same", mask=tmp_path / "mask.mrc", **KEPT_POSES)
    assert torch.equal(maps(tmp_path / "run", "mask.mrc"), maps(tmp_path / "same", "mask.mrc"))
    with refused("--mask-voxel-angstrom: there is no mask"):
        run(eighty_set, tmp_path / "no", mask_voxel_angstrom=5.0)


@pytest.mark.slow
def test_processed_halves_make_the_next_references_and_the_fsc_is_of_the_raw_ones(
    eighty_set, tmp_path
):
    write_volume(tmp_path / "mask.mrc", sphere_mask(32, 6.0, 2.0), 5.0)
    how = {
        "post_mask": tmp_path / "mask.mrc",
        "post_command": command("v * (1 if '{half}' == '0' else 2)"),
    }
    both = {"iterations": 2, "intermediate": "keep", **how}
    run(eighty_set, tmp_path / "plain", **both)
    run(eighty_set, tmp_path / "fed", reference_from_processed=True, **both)
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
        run(eighty_set, tmp_path / "none", reference_from_processed=True)


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


def test_a_radius_that_is_not_positive_is_half_the_box(eighty_set, tmp_path):
    for radius in (-1.0, 0.0):
        summary, _ = run(
            eighty_set, tmp_path / f"r{radius:g}", particle_radius_px=radius, **KEPT_POSES
        )
        assert summary["particle_radius_px"] == 15  # less the last pixel, which masks need
