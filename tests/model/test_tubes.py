"""Segments of simulated filaments: where they lie, and that their images are views of one helix."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from cryorefine.geometry.helix import Helix
from cryorefine.geometry.rotation import euler_from_matrix
from cryorefine.model.filament import filament_atoms, filament_map, made_up_subunit
from cryorefine.model.simulate import SimulationPlan, draw_parameters, simulate_images
from cryorefine.model.tubes import TubePlan, draw_tubes

PIXEL_A = 3.0
HELICES = [
    (48, Helix(33.0, 7.3)),
    (49, Helix(-33.0, 7.3)),
    (48, Helix(-40.0, 12.0, fold=3)),
    (49, Helix(25.0, 9.0, is_dihedral=True)),
]
ALONG_Z = slice(4, -4)


def tube_plan(helix, **changes):
    given = {"segments_per_tube": 5, "step_A": 20.0, "tilt_spread_deg": 4.0, "prior_error_deg": 2.0}
    return TubePlan(helix, **{**given, **changes})


def drawn_tubes(plan, n=40, *, per_micrograph=12, pick_error_A=3.0, seed=1, box_px=48):
    return draw_tubes(
        plan, np.arange(n) // per_micrograph, box_px=box_px, pixel_A=PIXEL_A,
        pick_error_A=pick_error_A, seed=seed,
    )  # fmt: skip


def simulated(helix, size_px, tubes, n=6, snr=1e6, **changes):
    """Return the images of segments without contrast transfer, noise aside, and their poses."""
    unit = made_up_subunit(0.6 * size_px * PIXEL_A, 0)
    atoms = filament_atoms(unit, helix, box_A=size_px * PIXEL_A)
    plan = SimulationPlan(
        n, size_px, PIXEL_A, snr, noise="white", tubes=tubes, seed=4, amplitude_contrast=1.0,
        defocus_min_A=0.0, defocus_max_A=0.0, astigmatism_A=0.0, cs_mm=0.0, bfactor_A2=200.0,
        **changes,
    )  # fmt: skip
    drawn = draw_parameters(atoms, plan)
    images = torch.cat([x for _, x in simulate_images(atoms, plan, drawn)])
    return atoms, plan, drawn, images


def overlap(image, other, offset_px):
    """Return what two images of a micrograph have in common, by how far apart they are in it."""
    n = image.shape[-1]
    dx, dy = (int(v) for v in offset_px)
    mine = image[max(dy, 0) : n + min(dy, 0), max(dx, 0) : n + min(dx, 0)]
    theirs = other[max(-dy, 0) : n + min(-dy, 0), max(-dx, 0) : n + min(-dx, 0)]
    return mine, theirs


def correlation(a, b):
    a, b = a - a.mean(), b - b.mean()
    return float((a * b).sum() / (a.square().sum() * b.square().sum()).sqrt())


@pytest.mark.parametrize(("size_px", "helix"), HELICES, ids=str)
def test_the_map_of_a_filament_is_turned_by_the_twist_and_moved_by_the_rise(size_px, helix):
    n_steps = round(30 / helix.rise_A)
    step_px = n_steps * helix.rise_A / PIXEL_A
    unit = made_up_subunit(0.6 * size_px * PIXEL_A, 0)
    unit = replace(unit, bfactor_A2=0 * unit.bfactor_A2 + 900)
    atoms = filament_atoms(unit, helix, box_A=size_px * PIXEL_A)
    volume = filament_map(atoms, size_px=size_px, voxel_A=PIXEL_A)
    # The same filament, with its own copy n steps on in the middle: to be the same map again.
    angle = n_steps * helix.twist_rad
    c, s = np.cos(angle), np.sin(angle)
    turned = unit.xyz_A @ np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]).T
    turned[:, 2] += step_px * PIXEL_A
    atoms = filament_atoms(replace(unit, xyz_A=turned), helix, box_A=size_px * PIXEL_A)
    again = filament_map(atoms, size_px=size_px, voxel_A=PIXEL_A)
    assert float((again - volume)[ALONG_Z].std()) < 1e-3 * float(volume.std())


@pytest.mark.parametrize(("size_px", "helix"), HELICES, ids=str)
def test_neighbouring_segments_show_the_same_piece_of_their_filament(size_px, helix):
    # What a pose leaves of the filament's place: the images say it without the poses.
    plan = tube_plan(helix, segments_per_tube=3)
    _, _, drawn, images = simulated(helix, size_px, plan, n=9, shift_A=5.0)
    tubes = drawn.tubes
    assert tubes is not None
    for i in np.flatnonzero(np.diff(tubes.track_A) > 0):
        a, b = overlap(images[i], images[i + 1], tubes.corner_px[i + 1] - tubes.corner_px[i])
        assert correlation(a, b) > 0.99
    assert len(set(tubes.polarity)) == 2


@pytest.mark.parametrize("twist_deg", [33.0, -33.0])
def test_a_segment_some_whole_steps_along_its_tube_is_the_helix_turned_by_as_many_twists(twist_deg):
    helix = Helix(twist_deg, 6.0)
    plan = tube_plan(helix, step_A=18.0, tilt_spread_deg=0.0)  # three steps, six pixels
    tubes = drawn_tubes(plan, pick_error_A=0.0)
    rot, tilt, psi = np.degrees(euler_from_matrix(tubes.rotations).numpy()).T
    same = np.diff(tubes.track_A) > 0
    assert same.sum() > 25
    np.testing.assert_allclose(tilt, 90.0, atol=1e-9)
    np.testing.assert_allclose(np.diff(psi)[same], 0.0, atol=1e-9)
    # A whole pixel's place along the tube is within a step of three.
    moved = -np.diff(rot)[same] * np.sign(tubes.polarity[1:][same]) / twist_deg
    off = (moved - 3 + 180 / abs(twist_deg)) % (360 / abs(twist_deg)) - 180 / abs(twist_deg)
    assert set(np.round(off, 6)) <= {-1.0, 0.0, 1.0}
    assert (np.abs(off) < 0.5).mean() > 0.7
    # What is left along the axis is at most half a rise.
    along = (tubes.shift_A * tubes.rotations[:, :2, 2]).sum(-1)
    assert float(along.abs().max()) <= 3.0 + 1e-9


def test_segments_lie_along_their_tubes_within_micrographs_and_run_both_ways():
    plan = tube_plan(Helix(33.0, 7.3), segments_per_tube=7)
    tubes = drawn_tubes(plan, 1200, per_micrograph=18, pick_error_A=2.0)
    assert tubes.number.max() == 3  # the last tube of each micrograph has four segments
    assert tubes.track_A.max() == pytest.approx(6 * 20.0)
    assert tubes.corner_px.min() >= 24
    assert tubes.corner_px.max() <= 4096 - 24
    assert 0.35 < (tubes.polarity > 0).mean() < 0.65
    rot_tilt_psi = np.degrees(euler_from_matrix(tubes.rotations).numpy())
    assert np.std(rot_tilt_psi[:, 1] - 90) == pytest.approx(4.0, rel=0.3)
    # The prior is that of the line of the picks, and the truth is there or half a turn from it.
    same = np.flatnonzero(tubes.number[:-6] == tubes.number[6:])
    same = same[tubes.track_A[same] == 0]
    line = (tubes.corner_px[same + 6] - tubes.corner_px[same]) * PIXEL_A
    np.testing.assert_allclose(np.hypot(*line.T), 120.0, atol=14)
    of_line = np.degrees(-np.arctan2(line[:, 1], line[:, 0]))
    off = (tubes.psi_prior_deg[same] - of_line + 180) % 360 - 180
    assert np.std(off) < 4  # 2° of the prior, and of picks 3 Å apart on 120 Å
    half_turn = np.where(tubes.polarity > 0, 180.0, 0.0)
    error = (rot_tilt_psi[:, 2] - tubes.psi_prior_deg - half_turn + 180) % 360 - 180
    assert np.std(error) == pytest.approx(2.0, rel=0.3)


def test_overlapping_segments_share_their_noise():
    helix = Helix(33.0, 7.3)
    plan = tube_plan(helix, segments_per_tube=4, step_A=30.0)
    _, _, drawn, images = simulated(helix, 48, plan, n=8, snr=1e-6, shift_A=0.0)
    tubes = drawn.tubes
    assert tubes is not None
    a, b = overlap(images[0], images[1], tubes.corner_px[1] - tubes.corner_px[0])
    assert correlation(a, b) > 0.999
    assert abs(correlation(images[0], images[4])) < 0.1  # of another tube
    assert float(images.std()) == pytest.approx(1.0, abs=0.06)  # of two fields


def test_a_seed_gives_the_same_tubes_and_another_seed_others():
    plan = tube_plan(Helix(33.0, 7.3))
    first, again, other = (drawn_tubes(plan, seed=seed) for seed in (3, 3, 4))
    np.testing.assert_array_equal(first.corner_px, again.corner_px)
    assert torch.equal(first.rotations, again.rotations)
    assert torch.equal(first.shift_A, again.shift_A)
    assert not torch.equal(first.rotations, other.rotations)


def test_a_filament_ends_in_no_image():
    helix = Helix(55.0, 2.5)
    tubes = tube_plan(helix, tilt_spread_deg=15.0, segments_per_tube=1)
    _, _, drawn, images = simulated(helix, 48, tubes, n=24, shift_A=0.0)
    y, x = torch.meshgrid(torch.arange(48) - 24, torch.arange(48) - 24, indexing="ij")
    for rotation, image in zip(drawn.rotations, images, strict=True):
        axis = rotation[:2, 2] / rotation[:2, 2].norm()
        along = x * axis[0] + y * axis[1]
        across = (x * axis[1] - y * axis[0]).abs()
        level = image
        ends = [level[(across < 8) & (along * sign > 15)].mean() for sign in (1, -1)]
        middle = level[(across < 8) & (along.abs() <= 15)].mean()
        rim = level[(across > 18) & (along.abs() <= 12)].mean()
        for end in ends:
            assert float((end - rim) / (middle - rim)) > 0.6
