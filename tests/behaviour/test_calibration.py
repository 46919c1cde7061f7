"""Whether the reported uncertainties of poses are right, on particles whose truth is known."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from cryorefine.assign.particle_optics import N_VALUES
from cryorefine.engine.serial import SerialEngine
from cryorefine.evaluate.calibration import chi_squared, pose_errors
from cryorefine.events import EventLog
from cryorefine.expectation.pose_uncertainty import calibrate_covariance
from cryorefine.fourier.crop import resample_volume
from cryorefine.geometry.rotation import matrix_from_euler
from cryorefine.geometry.symmetry import parse_symmetry
from cryorefine.io.star import read_star
from cryorefine.particles.formats.relion import read_relion
from cryorefine.refine.reference import reference_grid
from cryorefine.run.checkpoint import load_state
from cryorefine.state.plan import IterationPlan

from .conftest import begun, settings_for

CHI2_95 = 11.07  # 5 degrees of freedom


@pytest.mark.slow
def test_the_truth_lies_within_the_95_percent_region_for_90_to_98_percent(finished):
    checkpoint = load_state(finished.folder, finished.summary["iterations"])
    poses, group = checkpoint.state.poses, parse_symmetry("d2")
    truth = read_relion(finished.data / "truth_particles.star")
    errors = pose_errors(
        poses.rotations,
        poses.shift_A,
        matrix_from_euler(torch.from_numpy(truth.euler_rad)),
        torch.from_numpy(truth.shift_A),
        group,
    )
    inside = []
    for half in (1, 2):
        mine = torch.from_numpy(checkpoint.constants.half == half)
        chi2 = chi_squared(errors[mine], poses.covariance[mine], poses.rotations[mine], group)
        inside.append((chi2 < CHI2_95).double().mean())
    assert 0.90 <= float(sum(inside)) / 2 <= 0.98


def test_the_columns_of_the_particle_file_come_from_the_covariance(finished):
    state = load_state(finished.folder, finished.summary["iterations"]).state
    variances = torch.diagonal(state.poses.covariance, dim1=1, dim2=2).numpy()
    block = read_star(finished.folder / "particles.star")["particles"]
    np.testing.assert_allclose(
        block.floats("cryorefineSigmaRotationDeg"),
        np.rad2deg(np.sqrt(variances[:, :3].mean(1))),
        rtol=1e-4,
    )
    np.testing.assert_allclose(
        block.floats("cryorefineSigmaShiftA"), np.sqrt(variances[:, 3:].mean(1)), rtol=1e-4
    )


def test_the_last_iteration_tells_how_far_the_gauss_newton_matrix_was_trusted(finished):
    emitted = [e for e in finished.events if e.kind == "calibration"]
    assert emitted
    assert len(emitted) == 1  # it is measured when the run ends
    assert 1.0 <= emitted[-1].variance_factor < 3.0
    last = [e.time_s for e in finished.events if e.kind == "iteration_start"][-1]
    assert emitted[-1].time_s >= last


def test_uncertainties_are_measured_with_the_particles_own_magnifications(finished):
    inputs, _ = begun(settings_for(finished.data))
    state = load_state(finished.folder, finished.summary["iterations"]).state
    resolution_A = state.history[-1].align_resolution_A
    plan = IterationPlan(
        state.iteration + 1, "local", resolution_A, 1.0, False, resolution_A, 1, 1, 1.0, None, True
    )

    def factor(references, poses):
        log, found = EventLog(), []
        log.subscribe(found.append)
        first, second = (reference_grid(inputs, v, resolution_A) for v in references)
        calibrate_covariance(inputs, state, poses, (first, second), plan, log, SerialEngine())
        return found[-1].variance_factor

    plain = factor(state.references, state.poses)
    # The same particles at 4 % smaller pixels than they say, which their own values put right.
    m, voxel_A = 0.96, inputs.voxel_A
    grown = [
        m**3 * resample_volume(v, voxel_A=voxel_A, new_voxel_A=m * voxel_A, new_size_px=48)
        for v in state.references
    ]
    optics = torch.zeros(len(inputs.table), N_VALUES, dtype=torch.float64)
    optics[:, 2] = m - 1
    assert factor(grown, replace(state.poses, optics=optics)) == pytest.approx(plain, rel=0.1)
    assert factor(grown, state.poses) > 1.2 * plain
