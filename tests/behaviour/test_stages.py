"""Single steps of an iteration on simulated particles, against the truth they were made from."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from cryorefine.engine.serial import SerialEngine
from cryorefine.errors import InputError
from cryorefine.events import EventLog
from cryorefine.expectation.assign_poses import assign_poses
from cryorefine.expectation.grey_scale import find_grey_scales, scale_references
from cryorefine.expectation.image_similarity import measure_image_similarity
from cryorefine.geometry.rotation import random_rotations
from cryorefine.io.mrc import read_volume
from cryorefine.refine.evaluation import evaluate_halves, found_mask
from cryorefine.refine.particle_weights import weigh_particles
from cryorefine.refine.reference import reference_grid
from cryorefine.refine.start import reconstruct_start
from cryorefine.state.plan import IterationPlan
from cryorefine.state.scores import ParticleScores
from cryorefine.state.state import Inputs, State

from .conftest import begun, settings_for, simulate_set

PLAN = IterationPlan(1, "local", 16.0, 1.0, False, 10.8, 1, 1, 1.0, None, False)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return simulate_set(
        tmp_path_factory.mktemp("stages") / "data",
        particles=80, box_px=32, pixel_angstrom=5.4, per_micrograph=8, snr=0.3,
    )  # fmt: skip


@pytest.fixture(scope="module")
def true_poses(data) -> tuple[Inputs, State]:
    """Inputs and first state of a local run that was given the true poses."""
    return begun(
        settings_for(
            data, particles=data / "truth_particles.star", alignment="local", compare_to=None
        )
    )


@pytest.fixture(scope="module")
def truth(data) -> torch.Tensor:
    return read_volume(data / "truth_map.mrc").data


def correlation(a, b) -> float:
    a, b = a - a.mean(), b - b.mean()
    return float((a * b).sum() / (a.norm() * b.norm()))


def test_the_poses_of_a_file_make_half_maps_of_the_truth_to_start_from(true_poses, truth):
    inputs, state = true_poses
    log, events = EventLog(), []
    log.subscribe(events.append)
    begun_state = reconstruct_start(inputs, state, log, SerialEngine())
    for reference in begun_state.references:
        assert correlation(reference, truth) > 0.9
    assert begun_state.is_scaled
    told = [e.resolution_A for e in events if e.kind == "start_resolution"]
    assert told == [begun_state.start_A]
    assert inputs.geometry.nyquist_A <= begun_state.start_A < 20.0
    # Poses of no meaning leave the coarse shape that all views share.
    poses = dataclasses.replace(
        state.poses, rotations=random_rotations(80, torch.Generator().manual_seed(0))
    )
    lost = reconstruct_start(inputs, dataclasses.replace(state, poses=poses), log, SerialEngine())
    assert lost.start_A > 1.3 * begun_state.start_A


def test_a_reference_of_any_grey_scale_is_brought_to_that_of_the_images(true_poses, truth):
    inputs, state = true_poses
    both = (reference_grid(inputs, truth, 16.0),) * 2
    own, _ = find_grey_scales(inputs, state, both, PLAN, SerialEngine())
    assert own.factor > 0
    strong, weak = 10.0 * truth, 0.1 * truth
    grids = (reference_grid(inputs, strong, 16.0), reference_grid(inputs, weak, 16.0))
    state = dataclasses.replace(state, references=(strong, weak), is_scaled=False)
    found = scale_references(inputs, state, grids, PLAN, EventLog(), SerialEngine())
    scaled, grids_scaled = found.state, found.grids
    assert scaled.is_scaled
    torch.testing.assert_close(scaled.references[0], own.factor * truth, rtol=1e-3, atol=1e-6)
    # The other half measures its own: the same but for its noise.
    ratio = float(scaled.references[1].norm() / scaled.references[0].norm())
    assert ratio == pytest.approx(1.0, rel=0.05)
    expected = reference_grid(inputs, scaled.references[1], 16.0).values
    torch.testing.assert_close(grids_scaled[1].values, expected, rtol=1e-3, atol=1e-3)


def test_a_reference_of_inverted_contrast_is_warned_of(true_poses, truth):
    inputs, state = true_poses
    grid = reference_grid(inputs, -truth, 16.0)
    log, events = EventLog(), []
    log.subscribe(events.append)
    state = dataclasses.replace(state, references=(-truth, -truth), is_scaled=False)
    scale_references(inputs, state, (grid, grid), PLAN, log, SerialEngine())
    warnings = [e.message for e in events if e.kind == "warning"]
    assert len(warnings) == 1
    assert "contrast inverted" in warnings[0]
    assert "--invert-contrast" in warnings[0]


def test_images_are_most_like_the_model_at_their_own_poses(true_poses, truth):
    inputs, state = true_poses
    grid = reference_grid(inputs, truth, 12.0)
    right = measure_image_similarity(
        inputs, state, state.poses, (grid, grid), 12.0, EventLog(), SerialEngine()
    )
    turned = dataclasses.replace(state.poses, rotations=state.poses.rotations.roll(1, 0))
    wrong = measure_image_similarity(
        inputs, state, turned, (grid, grid), 12.0, EventLog(), SerialEngine()
    )
    assert set(right) == {"correlation_index", "correlation_mask", "correlation_weight", "imed"}
    assert all(len(values) == 80 for values in right.values())
    for name in ("correlation_index", "correlation_weight"):
        assert float((right[name] > wrong[name]).double().mean()) > 0.9
    assert float((right["imed"] < wrong["imed"]).double().mean()) > 0.9  # a distance


def test_half_maps_are_measured_within_a_mask_about_what_they_show(true_poses, truth):
    inputs, state = true_poses
    noise = torch.randn(2, 32, 32, 32, generator=torch.Generator().manual_seed(0))
    scale = truth.std()
    halves = (truth + 0.1 * scale * noise[0], truth + 0.1 * scale * noise[1])
    mask, good = evaluate_halves(inputs, halves, state.poses, limit_A=10.8, seed=1)
    inside = truth > 0.5 * truth.max()
    assert float(mask[inside].mean()) > 0.99
    assert float(mask.mean()) < 0.6
    assert float(mask[0, 0, 0]) == 0
    assert torch.equal(mask, found_mask(inputs, (halves[0] + halves[1]) / 2, 10.8))
    assert good.resolution_A <= good.resolution_unmasked_A
    worse = (truth + 3 * scale * noise[0], truth + 3 * scale * noise[1])
    assert evaluate_halves(
        inputs, worse, state.poses, limit_A=10.8, seed=1
    )[1].resolution_A > good.resolution_A  # fmt: skip
    # Where half maps hold nothing, the curves end.
    _, cut = evaluate_halves(inputs, halves, state.poses, limit_A=20.0, seed=1)
    assert float(cut.curves.corrected[cut.curves.frequency_per_A > 1 / 19.0].abs().max()) == 0
    assert cut.comparison_fsc is None
    known = dataclasses.replace(inputs, comparison=truth)
    compared = evaluate_halves(known, halves, state.poses, limit_A=10.8, seed=1)[1].comparison_fsc
    assert float(compared[1:8].min()) > 0.95


def with_scores(state: State, correlation: torch.Tensor):
    return dataclasses.replace(
        state.poses, scores=ParticleScores(score=correlation.clone(), correlation=correlation)
    )


def test_weights_rank_particles_within_their_half_and_have_mean_one(true_poses):
    inputs, state = true_poses
    settings = inputs.settings.model_copy(update={"weight_cc": True})
    inputs = dataclasses.replace(inputs, settings=settings)
    generator = torch.Generator().manual_seed(0)
    value = torch.rand(80, generator=generator, dtype=torch.float64)
    found = weigh_particles(inputs, state, with_scores(state, value), PLAN).scores
    for half in (1, 2):
        mine = torch.from_numpy(inputs.half == half)
        assert float(found.weight[mine].mean()) == pytest.approx(1.0)
        best, worst = value[mine].argmax(), value[mine].argmin()
        assert float(found.weight[mine][best]) == float(found.weight[mine].max())
        assert float(found.weight[mine][worst]) == float(found.weight[mine].min())
        assert float(found.percentile[mine].max()) == 1.0
    # The columns of the mode are this iteration's; nobody has one of the other mode yet.
    assert torch.equal(found.cost, value)
    assert bool(found.max_cc.isnan().all())
    assert float(found.angle_diff_deg.max()) == pytest.approx(0.0, abs=1e-6)


def test_without_options_all_particles_weigh_alike_but_those_outside_the_tilts(true_poses):
    inputs, state = true_poses
    poses = with_scores(state, torch.ones(80, dtype=torch.float64))
    assert bool((weigh_particles(inputs, state, poses, PLAN).scores.weight == 1).all())
    limits = {"reconstruct_min_tilt_deg": 60.0, "reconstruct_max_tilt_deg": 90.0}
    few = dataclasses.replace(inputs, settings=inputs.settings.model_copy(update=limits))
    weight = weigh_particles(few, state, poses, PLAN).scores.weight
    tilt_deg = np.rad2deg(np.arccos(np.abs(state.poses.rotations[:, 2, 2].numpy())))
    inside = torch.from_numpy(tilt_deg >= 60)
    assert bool((weight[inside] > 0).all())
    assert bool((weight == 0).any())
    limits = {"reconstruct_min_tilt_deg": 0.0, "reconstruct_max_tilt_deg": 1e-3}
    nobody = dataclasses.replace(inputs, settings=inputs.settings.model_copy(update=limits))
    with pytest.raises(InputError, match="no particle of half"):
        weigh_particles(nobody, state, poses, PLAN)


def test_finer_searches_take_the_doubtful_particles_beside_those_whose_turn_it_is(true_poses):
    inputs, state = true_poses
    assert state.poses is not None
    grids = (reference_grid(inputs, read_volume(inputs.settings.reference[0]).data, 16.0),) * 2
    n = len(inputs.table)
    probability, fit = torch.ones(n, dtype=torch.float64), torch.zeros(n, dtype=torch.float64)
    probability[3], probability[11], fit[7], fit[8] = 0.9, torch.nan, -1.5, -0.5
    scores = state.poses.scores.replace(
        score=torch.ones_like(fit), probability=probability, fit_z=fit, searched_A=None
    )
    state = dataclasses.replace(state, poses=dataclasses.replace(state.poses, scores=scores))
    # Of 80 particles it is the turn of the last.
    in_turn = dataclasses.replace(PLAN, mode="global", search_every=n)
    for plan, searched in (
        (in_turn, [n - 1]),
        (dataclasses.replace(in_turn, searches_doubtful=True), [3, 7, 11, n - 1]),
    ):
        found = assign_poses(inputs, state, grids, plan, EventLog(), SerialEngine())
        assert found.poses.scores.searched_A is not None
        assert torch.nonzero(found.poses.scores.searched_A.isfinite())[:, 0].tolist() == searched
