"""Values that single particles have of their own: found, kept, used and written."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

import cryorefine.run.loop as loop_module
from cryorefine.assign.particle_optics import N_VALUES, magnified
from cryorefine.engine.serial import SerialEngine
from cryorefine.events import EventLog
from cryorefine.geometry.rotation import random_rotations
from cryorefine.io.mrc import read_volume
from cryorefine.io.star import read_star
from cryorefine.kernels.reference import extract_slices
from cryorefine.particles.formats.relion import read_relion, write_relion
from cryorefine.refine.backprojection import ResidualModel, reconstruct_halves
from cryorefine.refine.reference import reference_grid
from cryorefine.run.checkpoint import load_state
from cryorefine.run.loop import refine, resume
from cryorefine.state.particle_batches import half_optics
from cryorefine.state.scores import ParticleScores
from cryorefine.state.state import Poses
from cryorefine.storage.layout import committed_iterations
from tests.kernels.problems import exact_slices, relative_error

from .conftest import begun, settings_for, simulate_set

RMS_A = 500.0


@pytest.fixture(scope="module")
def fine_set(tmp_path_factory):
    """Particles sampled finely enough that a defocus shows, with their true poses."""
    return simulate_set(
        tmp_path_factory.mktemp("fine") / "data",
        particles=180, box_px=56, pixel_angstrom=2.2, diameter_angstrom=90, snr=0.2,
        shift_angstrom=2, scale_spread=0.2,
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
def unfinished_and_refined(fine_set, misjudged, tmp_path_factory):
    """Folders of a run: as it was when its last iteration began, and at its end."""
    run = tmp_path_factory.mktemp("refined") / "run"
    settings = local_settings(
        fine_set, misjudged[0], iterations=3, refine_defocus=True, refine_grey=True,
        max_defocus_change_angstrom=2000.0, threads=1,  # writes each iteration before the next
    )  # fmt: skip
    original, unfinished = loop_module.advance, run.with_name("unfinished")

    def watched(*args, **kwargs):
        if committed_iterations(run) == [0, 1, 2]:
            shutil.copytree(run, unfinished)
        return original(*args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop_module, "advance", watched)
        refine(settings, run)
    return unfinished, run


@pytest.fixture(scope="module")
def refined(unfinished_and_refined):
    return unfinished_and_refined[1]


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
    checkpoint = load_state(refined, 3)
    for half in (1, 2):
        mine = torch.from_numpy(checkpoint.constants.half == half)
        assert float(checkpoint.state.poses.optics[mine, 0].mean()) == pytest.approx(0, abs=1e-9)


@pytest.mark.slow
def test_a_run_whose_process_ended_goes_on_with_the_particles_own_values(
    unfinished_and_refined, tmp_path
):
    unfinished, refined = unfinished_and_refined
    run = shutil.copytree(unfinished, tmp_path / "run")
    assert committed_iterations(run) == [0, 1, 2]
    resume(run)
    ours, theirs = load_state(run, 3).state, load_state(refined, 3).state
    assert torch.equal(ours.poses.optics, theirs.poses.optics)
    assert torch.equal(ours.poses.covariance, theirs.poses.covariance)
    assert torch.equal(ours.halves[0], theirs.halves[0])


@pytest.mark.slow
def test_magnifications_are_refined_and_written_with_the_rest_left_alone(fine_set, tmp_path):
    settings = local_settings(
        fine_set, fine_set / "truth_particles.star", iterations=1, refine_magnification=True
    )
    refine(settings, tmp_path / "run")
    state = load_state(tmp_path / "run", 1).state
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


@pytest.fixture(scope="module")
def ten_percent(small_set):
    """Inputs and state of a run whose particles may be magnified by 10 %."""
    settings = settings_for(
        small_set, refine_magnification=True, max_magnification_change_percent=10.0
    )
    return begun(settings)


def all_magnified(inputs, by):
    """Values of particles whose frequencies are all this much longer."""
    optics = torch.zeros(len(inputs.table), N_VALUES, dtype=torch.float64)
    optics[:, 2] = by
    return optics


@pytest.mark.parametrize("resolution_A", [7.2, 12.0, 25.0])
@pytest.mark.parametrize("by", [0.1, 0.2])  # to the limit, and beyond: the mean was taken out
def test_slices_of_magnified_particles_stay_within_the_references_grid(
    small_set, ten_percent, resolution_A, by
):
    inputs, state = ten_percent
    optics = all_magnified(inputs, by)
    volume = read_volume(small_set / "truth_map.mrc").data
    grid = reference_grid(inputs, volume, resolution_A)
    band = half_optics(inputs, state, 1, resolution_A, optics).band_of(0)
    rotations = magnified(random_rotations(20, torch.Generator().manual_seed(0)), optics[:20])
    read = extract_slices(grid, rotations, band.points)
    assert relative_error(read, exact_slices(volume, rotations, band.points)) < 0.02
    # No more is given up than must be.
    reach = (inputs.size_px - 1) / 2
    reach = min(reach, inputs.geometry.box_A / resolution_A)
    assert reach - 1.5 < float(band.points.norm(dim=1).max()) * (1 + by) <= reach + 1e-3


def test_one_half_s_magnifications_do_not_change_the_other_half_s_band(ten_percent):
    inputs, state = ten_percent
    optics = all_magnified(inputs, 0.0)
    optics[torch.from_numpy(inputs.half == 2), 2] = 0.2
    ours, theirs = (half_optics(inputs, state, half, 7.2, optics).band_of(0) for half in (1, 2))
    assert len(ours.band) == len(half_optics(inputs, state, 1, 7.2).band_of(0).band)
    assert len(theirs.band) < len(ours.band)


def test_residuals_end_where_magnified_slices_would_leave_the_reference(small_set, ten_percent):
    inputs, state = ten_percent
    n, reference_A = len(inputs.table), 12.0
    rotations = random_rotations(n, torch.Generator().manual_seed(0))
    zeros = torch.zeros(n, 2, dtype=torch.float64)
    scores = ParticleScores(weight=torch.ones(n, dtype=torch.float64))
    poses = Poses(rotations, zeros, scores, optics=all_magnified(inputs, 0.1))
    volume = read_volume(small_set / "truth_map.mrc").data
    grid = reference_grid(inputs, 0.3 * volume / volume.std(), reference_A)

    def noise(model):
        found = reconstruct_halves(
            inputs, state, poses, model, resolution_A=7.2, events=EventLog(),
            engine=SerialEngine(),
        )  # fmt: skip
        return found.noise[0][0]

    model = ResidualModel((grid, grid), reference_A)
    differs = (noise(model) / noise(None) - 1).abs() > 1e-3
    box_A = inputs.geometry.box_A
    assert int(torch.nonzero(differs).max()) == int(box_A / (1.1 * reference_A))
