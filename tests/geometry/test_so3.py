import math

import numpy as np
import pytest
import torch
from scipy.spatial import KDTree

from cryorefine.geometry.rotation import (
    geodesic_angle,
    matrix_from_rotvec,
    quaternion_from_matrix,
    random_rotations,
    rotvec_from_matrix,
)
from cryorefine.geometry.so3 import in_plane_angles, neighbours, rotation_grid, subdivide
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


@pytest.mark.parametrize("step_deg", [7.5, 1.0, 0.05])
def test_children_stand_a_quarter_step_off_their_parent_along_each_axis(step_deg):
    step = math.radians(step_deg)
    parents = _poses(5)
    children = subdivide(parents, step)
    assert children.shape == (5, 8, 3, 3)
    offset = rotvec_from_matrix(children @ parents[:, None].mT)
    np.testing.assert_allclose(offset.abs(), step / 4, atol=1e-15)
    signs = {tuple(s) for s in offset[0].sign().int().tolist()}
    assert len(signs) == 8


@pytest.mark.parametrize("step_deg", [7.5, 1.0])
def test_every_rotation_of_a_cell_lies_in_the_cell_of_a_child(step_deg):
    step = math.radians(step_deg)
    parent = _poses(1)[0]
    children = subdivide(parent, step)
    inside = torch.from_numpy(np.random.default_rng(0).uniform(-0.5, 0.5, (2000, 3))) * step
    poses = matrix_from_rotvec(inside) @ parent
    offset = rotvec_from_matrix(poses[:, None] @ children.mT)
    nearest = offset.abs().amax(-1).amin(1)
    # Rotation vectors add up to half their cross product: |a||b|/2 <= (√3/2)(√3/4)/2 step².
    curvature = 3 / 16 * step**2
    assert float(nearest.max()) <= step / 4 + curvature * (1 + step)
    owner = offset.abs().amax(-1).argmin(1)
    assert owner.bincount(minlength=8).min() > 150  # of 250 each


def test_subdividing_twice_fills_the_cell_with_sixty_four_separate_cells():
    step = math.radians(4.0)
    parent = _poses(1)[0]
    grandchildren = subdivide(subdivide(parent, step), step / 2).reshape(64, 3, 3)
    offset = rotvec_from_matrix(grandchildren @ parent.T) / step
    wanted = torch.tensor([-0.375, -0.125, 0.125, 0.375], dtype=torch.float64)
    lattice = torch.cartesian_prod(wanted, wanted, wanted)
    distance = torch.cdist(offset, lattice)
    assert distance.argmin(1).unique().numel() == 64
    # Half the cross product of an offset of the first level with one of the second.
    assert float(distance.amin(1).max()) <= 0.5 * (3**0.5 / 4) * (3**0.5 / 8) * step * (1 + step)


def test_subdividing_refines_a_grid_to_half_the_covering_distance():
    step = math.radians(30.0)
    grid = rotation_grid(step)
    finer = subdivide(grid, step).flatten(0, 1)
    bound = 2 * math.acos(math.cos(0.375 * step) * math.cos(0.25 * step))
    # A child is at most √3/4 steps from its parent and owns half its cell.
    assert _farthest_rad(_poses(10_000), finer) < 0.75 * bound


@pytest.mark.parametrize("shape", [(), (0,), (2, 3)])
def test_subdividing_keeps_any_batch_shape_and_precision(shape):
    poses = _poses(math.prod(shape)).reshape(*shape, 3, 3)
    assert subdivide(poses, 0.1).shape == (*shape, 8, 3, 3)
    assert subdivide(poses.float(), 0.1).dtype == torch.float32


@pytest.mark.parametrize("name", [None, "c1", "c4", "d2", "t", "o"])
@pytest.mark.parametrize("radius_deg", [0.0, 25.0, 60.0, 180.0])
def test_neighbours_are_those_that_brute_force_finds(name, radius_deg):
    group = None if name is None else parse_symmetry(name)
    poses = _poses(60, seed=2)
    radius = math.radians(radius_deg)
    n = len(poses)
    a, b = poses[:, None].expand(n, n, 3, 3), poses[None].expand(n, n, 3, 3)
    distance = geodesic_angle(a, b) if group is None else group.distance(a, b)
    # No pair lies so near to the radius that rounding could decide, but the pose itself at 0.
    expected = distance <= radius + 1e-9
    found = neighbours(poses, radius, group=group)
    assert len(found) == n
    for i in range(n):
        assert found[i].tolist() == torch.nonzero(expected[i]).flatten().tolist()


def test_a_lone_pose_is_its_own_neighbour_and_no_poses_have_none():
    assert [k.tolist() for k in neighbours(_poses(1), 0.1)] == [[0]]
    assert neighbours(_poses(0), 0.1) == []
    group = parse_symmetry("c2")
    assert [k.tolist() for k in neighbours(_poses(1), 0.1, group=group)] == [[0]]


def test_equivalent_poses_are_neighbours_only_modulo_the_group():
    group = parse_symmetry("d3")
    poses = group.equivalents(_poses(1)[0])
    assert [k.tolist() for k in neighbours(poses, 0.01)] == [[i] for i in range(6)]
    assert all(k.tolist() == list(range(6)) for k in neighbours(poses, 0.01, group=group))
