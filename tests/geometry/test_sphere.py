import math

import numpy as np
import pytest
import torch
from scipy.spatial import KDTree, SphericalVoronoi

from cryorefine.geometry.rotation import matrix_from_euler, random_rotations
from cryorefine.geometry.sphere import asymmetric_unit, direction_grid, directions_from_poses
from cryorefine.geometry.symmetry import parse_symmetry

GROUPS = ["c1", "c2", "c3", "c7", "d2", "d3", "d7", "t", "o", "i1", "i2", "i3", "i4"]
WHOLE = (0.0, 180.0)
BANDS = [(0.0, 30.0), (60.0, 120.0), (80.0, 100.0), (20.0, 50.0), (100.0, 130.0), (150.0, 180.0)]


def _directions(n: int, seed: int = 0) -> torch.Tensor:
    drawn = torch.from_numpy(np.random.default_rng(seed).normal(size=(n, 3)))
    return drawn / drawn.norm(dim=1, keepdim=True)


def _tilt_deg(directions: torch.Tensor) -> torch.Tensor:
    return torch.rad2deg(torch.acos(directions[:, 2].clamp(-1, 1)))


def _grid(step_deg: float, name: str, band_deg: tuple[float, float]) -> torch.Tensor:
    return direction_grid(
        math.radians(step_deg),
        group=parse_symmetry(name),
        min_tilt_rad=math.radians(band_deg[0]),
        max_tilt_rad=math.radians(band_deg[1]),
    )


def _farthest(directions: torch.Tensor, grid: torch.Tensor, name: str) -> float:
    """Return the largest angle from a direction to the grid modulo the group, in degrees."""
    copies = torch.einsum("ni,gij->gnj", grid, parse_symmetry(name).matrices).reshape(-1, 3)
    chord = KDTree(copies.numpy()).query(directions.numpy())[0]
    return math.degrees(2 * math.asin(chord.max() / 2))


@pytest.mark.parametrize("step_deg", [40.0, 15.0, 7.5, 2.0])
def test_the_grid_has_one_direction_per_square_of_the_step(step_deg):
    grid = direction_grid(math.radians(step_deg))
    # The sphere has 4π steradians: 41252.96 square degrees.
    assert abs(len(grid) - 41252.96 / step_deg**2) <= 1
    assert grid.dtype == torch.float64
    np.testing.assert_allclose(grid.norm(dim=1), 1.0, atol=1e-15)


@pytest.mark.parametrize("step_deg", [40.0, 30.0, 20.0, 15.0, 11.0, 7.5, 5.0, 3.0, 2.0])
def test_no_direction_is_farther_than_three_quarters_of_a_step_from_the_grid(step_deg):
    grid = direction_grid(math.radians(step_deg)).numpy()
    # The farthest places from points on a sphere are the corners of their Voronoi cells.
    corners = SphericalVoronoi(grid).vertices
    chord = KDTree(grid).query(corners)[0].max()
    assert math.degrees(2 * math.asin(chord / 2)) <= 0.75 * step_deg


@pytest.mark.parametrize("step_deg", [15.0, 7.5, 3.0])
def test_the_grid_is_even_each_cell_has_the_area_of_a_squared_step(step_deg):
    grid = direction_grid(math.radians(step_deg)).numpy()
    areas = np.rad2deg(np.rad2deg(SphericalVoronoi(grid).calculate_areas()))
    inner = np.abs(grid[:, 2]) < math.cos(math.radians(2 * step_deg))  # the spiral ends at poles
    np.testing.assert_allclose(areas[inner], step_deg**2, rtol=0.05)


@pytest.mark.parametrize("name", GROUPS)
@pytest.mark.parametrize("step_deg", [15.0, 7.5, 3.0])
def test_a_groups_grid_covers_every_direction_modulo_the_group(name, step_deg):
    grid = _grid(step_deg, name, WHOLE)
    assert _farthest(_directions(20_000), grid, name) <= 0.75 * step_deg


@pytest.mark.parametrize("name", GROUPS)
@pytest.mark.parametrize("step_deg", [3.0, 1.5])
def test_a_groups_grid_is_one_asymmetric_unit_with_a_narrow_margin(name, step_deg):
    order = parse_symmetry(name).order
    share = len(_grid(step_deg, "c1", WHOLE)) / order
    # Half a step along the border. The seed's cell is a polygon of at most six sides, no longer
    # round than the slice of a cyclic group, which runs from pole to pole and back.
    border_steps = (0 if order == 1 else 2 * math.pi) / math.radians(step_deg)
    count = len(_grid(step_deg, name, WHOLE))
    assert share - border_steps * 0.1 - 1 <= count <= share + border_steps * 0.5 + 6


@pytest.mark.parametrize("name", GROUPS)
@pytest.mark.parametrize("band_deg", BANDS)
def test_a_band_of_tilts_is_covered_and_never_left(name, band_deg):
    step_deg = 5.0
    low, high = band_deg
    grid = _grid(step_deg, name, band_deg)
    tilt = _tilt_deg(grid)
    assert low - 1e-6 <= float(tilt.min())
    assert float(tilt.max()) <= high + 1e-6
    wanted = _directions(30_000)
    wanted = wanted[(_tilt_deg(wanted) >= low) & (_tilt_deg(wanted) <= high)]
    # Along an edge of the band a direction's nearest neighbour may have been left out.
    assert _farthest(wanted, grid, name) <= 0.8 * step_deg


@pytest.mark.parametrize("name", ["c1", "c4", "d2", "t", "o", "i2"])
@pytest.mark.parametrize("edge_deg", [30.0, 60.0])
def test_the_edge_of_a_band_is_covered_from_within(name, edge_deg):
    step_deg = 4.0
    azimuth = torch.arange(720, dtype=torch.float64) * (math.pi / 360)
    tilt = torch.full_like(azimuth, math.radians(edge_deg))
    edge = torch.stack([tilt.sin() * azimuth.cos(), tilt.sin() * azimuth.sin(), tilt.cos()], -1)
    for band_deg in [(0.0, edge_deg), (edge_deg, 180.0)]:
        assert _farthest(edge, _grid(step_deg, name, band_deg), name) <= 0.8 * step_deg


@pytest.mark.parametrize("name", ["c4", "d7", "o", "i1"])
def test_a_group_makes_a_bands_grid_smaller(name):
    whole, reduced = _grid(3.0, "c1", (60.0, 120.0)), _grid(3.0, name, (60.0, 120.0))
    group = parse_symmetry(name)
    # Polyhedral groups take much of a band out of itself, where nothing can be spared.
    largest = 1.6 / group.order if name[0] in "cd" else 0.35
    assert len(whole) / group.order <= len(reduced) <= largest * len(whole)


def test_a_whole_sphere_asked_for_as_a_band_is_the_whole_sphere():
    step = math.radians(7.5)
    assert torch.equal(
        direction_grid(step), direction_grid(step, min_tilt_rad=-1.0, max_tilt_rad=4.0)
    )


def test_even_a_step_of_half_a_turn_gives_some_directions():
    grid = direction_grid(math.pi)
    assert len(grid) >= 2
    assert bool(torch.isfinite(grid).all())


@pytest.mark.parametrize("name", GROUPS)
def test_copies_of_the_asymmetric_unit_cover_the_sphere_exactly_once(name):
    group = parse_symmetry(name)
    directions = _directions(5000, seed=1)
    # No random direction falls on a border, which has no area.
    hits = torch.stack([asymmetric_unit(directions @ m, group) for m in group.matrices]).sum(0)
    assert hits.unique().tolist() == [1]


@pytest.mark.parametrize("name", ["c1", "c2", "d7", "t", "o", "i3"])
def test_the_asymmetric_unit_holds_its_share_of_the_sphere(name):
    group = parse_symmetry(name)
    n = 40_000
    share = float(asymmetric_unit(_directions(n, seed=2), group).double().mean())
    expected = 1 / group.order
    assert abs(share - expected) <= 5 * math.sqrt(expected * (1 - expected) / n)


@pytest.mark.parametrize("name", ["c2", "d7", "o", "i2"])
def test_the_margin_keeps_just_what_lies_that_near_to_the_asymmetric_unit(name):
    group, margin = parse_symmetry(name), 0.1
    directions = _directions(20_000, seed=3)
    inside = asymmetric_unit(directions, group)
    kept = asymmetric_unit(directions, group, margin_rad=margin)
    assert bool((kept | ~inside).all())
    distance = KDTree(directions[inside].numpy()).query(directions.numpy())[0]
    # 20,000 directions leave gaps of about 0.05; corners may reach a little farther.
    assert bool(kept[torch.from_numpy(distance < margin - 0.06)].all())
    assert distance[kept.numpy()].max() < 3 * margin


def test_the_viewing_direction_of_a_pose_is_its_third_row():
    poses = random_rotations(6, torch.Generator().manual_seed(0)).reshape(2, 3, 3, 3)
    assert torch.equal(directions_from_poses(poses), poses[:, :, 2])
    top = matrix_from_euler(torch.tensor([0.4, 0.0, 1.0], dtype=torch.float64))
    assert directions_from_poses(top).tolist() == [0.0, 0.0, 1.0]
