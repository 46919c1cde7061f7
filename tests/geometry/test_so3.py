import math

import numpy as np
import pytest
import torch
from scipy.spatial import KDTree

from cryorefine.geometry.rotation import (
    quaternion_from_matrix,
    random_rotations,
)
from cryorefine.geometry.so3 import in_plane_angles, rotation_grid
from cryorefine.geometry.symmetry import parse_symmetry


def _poses(n: int, seed: int = 0) -> torch.Tensor:
    return random_rotations(n, torch.Generator().manual_seed(seed))


def _farthest_rad(poses: torch.Tensor, grid: torch.Tensor) -> float:
    """Return the largest angle from a pose to its nearest grid member."""
    quaternions = quaternion_from_matrix(grid).numpy()
    tree = KDTree(np.concatenate([quaternions, -quaternions]))
    chord = tree.query(quaternion_from_matrix(poses).numpy())[0].max()
    return 4 * math.asin(chord / 2)


@pytest.mark.parametrize(
    ("step_deg", "count"), [(90.0, 4), (7.5, 48), (7.0, 52), (360.0, 1), (500.0, 1)]
)
def test_in_plane_angles_divide_the_turn_evenly_no_coarser_than_the_step(step_deg, count):
    angles = in_plane_angles(math.radians(step_deg))
    expected = np.arange(count) * 2 * math.pi / count
    np.testing.assert_allclose(angles, expected, atol=1e-14)


@pytest.mark.parametrize("step_deg", [30.0, 15.0, 10.0])
def test_every_rotation_is_near_a_member_of_the_grid(step_deg):
    step = math.radians(step_deg)
    grid = rotation_grid(step)
    # 0.75 steps to the direction and half a step in plane, about axes at right angles.
    bound = 2 * math.acos(math.cos(0.375 * step) * math.cos(0.25 * step))
    assert _farthest_rad(_poses(30_000), grid) <= bound
    assert abs(len(grid) / (8 * math.pi**2 / step**3) - 1) < 0.05


@pytest.mark.parametrize("name", ["c3", "d2", "t", "o", "i1", "i4"])
def test_a_groups_grid_covers_every_rotation_modulo_the_group(name):
    group, step = parse_symmetry(name), math.radians(15.0)
    grid = rotation_grid(step, group=group)
    bound = 2 * math.acos(math.cos(0.375 * step) * math.cos(0.25 * step))
    assert _farthest_rad(_poses(20_000), group.equivalents(grid).flatten(0, 1)) <= bound
    assert len(grid) < 2.5 * len(rotation_grid(step)) / group.order


def test_a_grid_in_a_band_of_tilts_looks_from_nowhere_else():
    grid = rotation_grid(
        math.radians(10.0), min_tilt_rad=math.radians(60), max_tilt_rad=math.radians(100)
    )
    tilt = torch.rad2deg(torch.acos(grid[:, 2, 2]))
    assert float(tilt.min()) >= 60 - 1e-6
    assert float(tilt.max()) <= 100 + 1e-6
