"""Values that single particles have of their own: found, kept, used and written."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

import cryorefine.run.loop as loop_module
from cryorefine.errors import StoppedEarly
from cryorefine.io.mrc import read_volume
from cryorefine.io.star import read_star
from cryorefine.particles.formats.relion import read_relion, write_relion
from cryorefine.run.checkpoint import load_state
from cryorefine.run.loop import refine, resume

from .conftest import settings_for, simulate_set

RMS_A = 500.0


@pytest.fixture(scope="module")
def fine_set(tmp_path_factory):
    """Particles sampled finely enough that a defocus shows, with their true poses."""
    return simulate_set(
        tmp_path_factory.mktemp("fine") / "data",
        box_px=56, pixel_angstrom=2.2, diameter_angstrom=90, snr=0.2, shift_angstrom=2,
        scale_spread=0.2,
    )  # fmt: skip


@pytest.fixture(scope="module")
def misjudged(fine_set, tmp_path_factory):
    """The same with errors of the defocus."""
    table = read_relion(fine_set / "truth_particles.star")
    error = np.random.default_rng(0).normal(0, RMS_A, len(table))
    path = tmp_path_factory.mktemp("misjudged") / "particles.star"
    write_relion(
        path,
        replace(
            table, defocus_u_A=table.defocus_u_A + error, defocus_v_A=table.defocus_v_A + error
        ),
    )
    return path, error


def local_settings(fine_set, particles, **changes):
    return settings_for(fine_set, particles=particles, reference=(), alignment="local", **changes)


@pytest.fixture(scope="module")
def refined(fine_set, misjudged, tmp_path_factory):
    folder = tmp_path_factory.mktemp("refined") / "run"
    settings = local_settings(
        fine_set, misjudged[0], iterations=3, refine_defocus=True, refine_grey=True,
        max_defocus_change_angstrom=2000.0,
    )  # fmt: skip
    refine(settings, folder)
    return folder


@pytest.mark.slow
def test_planted_defocus_errors_are_found_and_written(fine_set, misjudged, refined):
    truth = read_relion(fine_set / "truth_particles.star")
    found = read_relion(refined / "particles.star")
    left = (found.defocus_u_A + found.defocus_v_A - truth.defocus_u_A - truth.defocus_v_A) / 2
    assert np.std(left) < 0.6 * RMS_A
    assert np.corrcoef(misjudged[1], misjudged[1] - left)[0, 1] > 0.7
    block = read_star(refined / "particles.star")["particles"]
    np.testing.assert_allclose(
        block.floats("cryorefineDefocusChange"), left - misjudged[1], atol=0.1
    )


@pytest.mark.slow
def test_the_map_gains_from_the_right_defocus(fine_set, misjudged, refined, tmp_path):
    from .test_refinement import average_map, truth_resolution

    refine(local_settings(fine_set, misjudged[0], iterations=3), tmp_path / "off")
    truth = read_volume(fine_set / "truth_map.mrc").data
    reached = []
    for folder in (refined, tmp_path / "off"):
        volume, voxel_A = average_map(folder)
        reached.append(truth_resolution(volume, truth, voxel_A, 46))
    assert reached[0] < reached[1]


@pytest.mark.slow
def test_grey_scales_follow_the_particles_and_have_mean_one(fine_set, refined):
    truth = read_star(fine_set / "truth_particles.star")["particles"].floats("cryorefineTrueScale")
    found = read_star(refined / "particles.star")["particles"].floats("cryorefineGreyScale")
    assert np.corrcoef(truth, found)[0, 1] > 0.6
    state, arrays = load_state(refined, 3)
    for half in (1, 2):
        mine = torch.from_numpy(arrays["half"] == half)
        assert float(state.poses.optics[mine, 0].mean()) == pytest.approx(0, abs=1e-9)


@pytest.mark.slow
def test_a_stopped_run_goes_on_with_the_particles_own_values(
    fine_set, misjudged, refined, tmp_path, monkeypatch
):
    original, calls = loop_module.iterate, []

    def interrupted(*args, **kwargs):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return original(*args, **kwargs)

    shutil.copytree(refined, tmp_path / "run")
    settings = local_settings(
        fine_set, misjudged[0], iterations=3, refine_defocus=True, refine_grey=True,
        max_defocus_change_angstrom=2000.0,
    )  # fmt: skip
    monkeypatch.setattr(loop_module, "iterate", interrupted)
    with pytest.raises(StoppedEarly):
        refine(settings, tmp_path / "run", overwrite=True)
    monkeypatch.undo()
    resume(tmp_path / "run")
    ours, theirs = load_state(tmp_path / "run", 3)[0], load_state(refined, 3)[0]
    assert torch.equal(ours.poses.optics, theirs.poses.optics)
    assert torch.equal(ours.poses.covariance, theirs.poses.covariance)
    assert torch.equal(ours.halves[0], theirs.halves[0])


@pytest.mark.slow
def test_magnifications_are_refined_and_written_with_the_rest_left_alone(fine_set, tmp_path):
    settings = local_settings(
        fine_set, fine_set / "truth_particles.star", iterations=1, refine_magnification=True
    )
    refine(settings, tmp_path / "run")
    state, _ = load_state(tmp_path / "run", 1)
    optics = state.poses.optics
    assert float(optics[:, 2:5].abs().max()) > 0
    assert bool((optics[:, [0, 1, 5, 6, 7]] == 0).all())
    block = read_star(tmp_path / "run" / "particles.star")["particles"]
    np.testing.assert_allclose(
        block.floats("cryorefineMagnificationXY"), optics[:, 4].numpy(), atol=1e-6
    )
    before = read_relion(fine_set / "truth_particles.star")
    after = read_relion(tmp_path / "run" / "particles.star")
    np.testing.assert_allclose(after.defocus_u_A, before.defocus_u_A, atol=0.05)
