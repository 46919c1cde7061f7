"""Poses that a helix makes alike: they show the same image, and one of them is meant."""

import math

import numpy as np
import pytest
import torch

from cryorefine.api.projection import project
from cryorefine.geometry.helix import Helix
from cryorefine.geometry.rotation import geodesic_angle, matrix_from_euler
from cryorefine.geometry.segments import HelicalStep, axis_in_image
from cryorefine.geometry.symmetry import parse_symmetry
from tests.builders import helical_map

HELIX = Helix(33.0, 12.0)
STEP = HelicalStep.of(HELIX)


def side_views(n: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(seed)
    tilt = 90 + rng.uniform(-15, 15, n)
    euler = np.radians(np.stack([rng.uniform(-180, 180, n), tilt, rng.uniform(-180, 180, n)], -1))
    return matrix_from_euler(torch.from_numpy(euler)), torch.from_numpy(rng.normal(0, 20, (n, 2)))


@pytest.mark.parametrize("number", [1, -2])
def test_steps_of_a_helix_lead_to_poses_that_show_the_same_image(number):
    """Of a filament longer than what is compared."""
    size_px, voxel_A = 64, 4.0
    volume = helical_map(HELIX, size_px, voxel_A).numpy()
    rotations, _ = side_views(6)
    shifts = torch.zeros(6, 2, dtype=torch.float64)
    turned, moved = STEP.taken(rotations, shifts, torch.full((6,), float(number)).double())
    axis = torch.arange(size_px) - size_px // 2
    inside = (axis[:, None] ** 2 + axis**2) < 16**2
    for rotation, shift, same in (
        (turned, moved, True), (turned, -moved, False), (rotations, moved, False)
    ):  # fmt: skip
        for a, b, one, other in zip(rotations, rotation, shifts, shift, strict=True):
            (first,) = project(volume, a.numpy(), one.numpy(), voxel_A=voxel_A)
            (second,) = project(volume, b.numpy(), other.numpy(), voxel_A=voxel_A)
            alike = np.corrcoef(first[inside], second[inside])[0, 1]
            assert (alike > 0.99) == same


def test_a_pose_is_brought_within_half_a_rise_along_its_filament_and_no_farther_than_needed():
    rotations, shifts = side_views(200)
    turned, moved = STEP.confined(rotations, shifts)
    axis = axis_in_image(turned)
    along = (moved * axis).sum(1) / axis.norm(dim=1)
    assert bool((along.abs() <= HELIX.rise_A * axis.norm(dim=1) / 2 + 1e-9).all())
    across = torch.stack([-axis[:, 1], axis[:, 0]], -1)
    torch.testing.assert_close((moved * across).sum(1), (shifts * across).sum(1))
    again = STEP.confined(turned, moved)
    torch.testing.assert_close(again[0], turned)
    torch.testing.assert_close(again[1], moved)


def test_views_along_the_axis_stay_as_they_are():
    rotations = matrix_from_euler(torch.tensor([[0.3, 0.1, 0.2]], dtype=torch.float64))
    shifts = torch.tensor([[40.0, -30.0]], dtype=torch.float64)
    found = STEP.confined(rotations, shifts)
    torch.testing.assert_close(found[0], rotations)
    torch.testing.assert_close(found[1], shifts)


@pytest.mark.parametrize("symmetry", ["c1", "c3", "d2"])
def test_a_pose_some_steps_away_is_no_other_pose(symmetry):
    group, (rotations, shifts) = parse_symmetry(symmetry), side_views(50)
    number = torch.arange(50).double() % 7 - 3
    away = STEP.taken(rotations, shifts, number)
    back = STEP.beside(away, (rotations, shifts), group, 60.0)
    assert float(group.distance(back[0], rotations).max()) < 1e-6
    torch.testing.assert_close(back[1], shifts)
    far = geodesic_angle(away[0], rotations)[number != 0]
    assert float(far.min()) > math.radians(25)


def test_a_grid_of_shifts_along_a_filament_holds_a_rise_and_across_it_everything():
    rotations, _ = side_views(100)
    axis = torch.arange(-10, 11).double() * 2.0
    shifts = torch.cartesian_prod(axis, axis)
    for rise, least, most in ((0.1, 21, 45), (13.0, 21 * 5, 21 * 10)):
        within = HelicalStep(0.5, rise).is_within(rotations, shifts, 2.0)
        counts = within.sum(0)
        assert least <= int(counts.min())
        assert int(counts.max()) <= most
        assert bool(within[(shifts == 0).all(1)].all())
