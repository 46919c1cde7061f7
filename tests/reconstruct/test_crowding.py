import dataclasses
import math

import pytest
import torch

from cryorefine.geometry.rotation import matrix_from_euler, random_rotations, rotvec_from_matrix
from cryorefine.geometry.sphere import direction_grid
from cryorefine.geometry.symmetry import parse_symmetry
from cryorefine.kernels.dispatch import refine_poses
from cryorefine.kernels.grid import make_accumulator, make_slice_grid
from cryorefine.kernels.poses import LevenbergMarquardt, PoseProblem
from cryorefine.masks.soft import sphere_mask
from cryorefine.model.atoms import project_atoms, scattering_basis
from cryorefine.reconstruct.accumulate import CentredImages, Levels, accumulate
from cryorefine.reconstruct.crowding import evenness, slice_density, view_crowding
from cryorefine.reconstruct.solve import fold, solve
from tests.builders import phantom
from tests.reconstruct.test_reconstruction import PIXEL_A, phantom_and_images, sums_of, view_of

SIZE = 48


def views_about_z(n: int, spread_deg: float, *, share: float = 0.9) -> torch.Tensor:
    """Poses that look down z within a spread, and a share of even ones."""
    generator = torch.Generator().manual_seed(4)
    turn = torch.rand(n, 2, generator=generator).double() * 2 * math.pi
    tilt = math.radians(spread_deg) * torch.randn(n, generator=generator).double().abs()
    about = matrix_from_euler(torch.stack([turn[:, 0], tilt, turn[:, 1]], -1))
    even = random_rotations(n, generator)
    return torch.where(torch.arange(n)[:, None, None] < share * n, about, even)


def images_of(symmetry: str, rotations: torch.Tensor):
    group, view = parse_symmetry(symmetry), view_of(SIZE)
    atoms = phantom(symmetry, 0.6 * SIZE * PIXEL_A, 1)
    basis = scattering_basis(atoms, 0.6 / PIXEL_A)
    return group, view, project_atoms(atoms, basis, rotations, view.band, PIXEL_A)


def summed(group, view, images, rotations, crowding):
    acc = make_accumulator(SIZE, SIZE / 2)
    flat, ones = torch.ones(len(view.band)), torch.ones(len(images))
    seen = CentredImages(view, images, torch.ones(images.shape), rotations)
    accumulate(acc, seen, flat, ones, Levels(crowding=crowding))
    return fold(acc, group, crowding)


def refined(view, images, rotations, volume):
    """Poses that the images find on a map, from the true ones."""
    n = len(rotations)
    problem = PoseProblem(
        x=images.contiguous(),
        c=torch.ones(images.shape),
        points=view.points,
        k_px=view.k_px(),
        image_size_px=SIZE,
        image_of=torch.arange(n),
        rotations=rotations,
        shifts_px=torch.zeros(n, 2, dtype=torch.float64),
        prior_shift_px=torch.zeros(n, 2, dtype=torch.float64),
    )
    options = LevenbergMarquardt(
        max_evaluations=20, max_shift_px=5.0, max_turn_rad=0.1, max_move_px=1.0
    )
    grid = make_slice_grid(volume * sphere_mask(SIZE, 0.4 * SIZE), SIZE / 2)
    return refine_poses(grid, problem, options).rotations


def outward_deg(found, true):
    """How much farther from the z axis the views found lie than the true ones, on average."""
    axis = true[:, :, 2]
    axis = axis * axis[:, 2:].sign()
    lean = torch.nn.functional.normalize(axis[:, :2], dim=1)
    turn = rotvec_from_matrix(found @ true.transpose(1, 2))
    moved = torch.linalg.cross(turn, axis)[:, :2]
    return float(torch.rad2deg((moved * lean).sum(1)).mean())


@pytest.mark.parametrize(("symmetry", "n"), [("c1", 1200), ("d7", 400)])
def test_poses_on_a_map_from_preferred_views_do_not_lean_away_from_them(symmetry, n):
    rotations = views_about_z(n, 12)
    group, view, images = images_of(symmetry, rotations)
    chosen = slice(0, 60)

    def lean(crowding):
        volume = solve(summed(group, view, images, rotations, crowding))
        found = refined(view, images[chosen], rotations[chosen], volume)
        return outward_deg(found, rotations[chosen])

    crowding = view_crowding(rotations, torch.ones(n), group)
    plain, levelled = lean(None), lean(crowding)
    assert plain > 0.3
    assert abs(levelled) < 0.3 * plain


def test_what_is_levelled_comes_out_again():
    rotations = views_about_z(300, 15)
    group, view, images = images_of("d2", rotations)
    crowding = view_crowding(rotations, torch.ones(300), group)
    plain = summed(group, view, images, rotations, None)
    levelled = summed(group, view, images, rotations, crowding)
    assert crowding is not None
    assert plain.evenness == 1.0
    assert levelled.evenness == crowding.evenness < 0.9
    # The weights are data again: those of each shell, and of the crowded and the sparse directions.
    shells = slice(6, SIZE // 2 - 1)
    ratio = levelled.mean_weight()[shells] / plain.mean_weight()[shells]
    assert float((ratio - 1).abs().max()) < 0.03
    middle, far = plain.centre, plain.centre + round(15 * plain.step)
    for z, x in ((far, 0), (middle, far - middle)):
        near = (slice(z - 2, z + 3), slice(middle - 2, middle + 3), slice(max(0, x - 2), x + 3))
        assert float(levelled.weights[near].sum()) == pytest.approx(
            float(plain.weights[near].sum()), rel=0.2
        )


def test_levelled_slices_are_nowhere_crowded():
    rotations = views_about_z(2000, 15)
    group, view = parse_symmetry("c1"), view_of(SIZE)
    crowding = view_crowding(rotations, torch.ones(2000), group)
    assert crowding is not None

    def weights(levels):
        acc = make_accumulator(SIZE, SIZE / 2)
        one = torch.ones(2000, len(view.band))
        flat = torch.ones(len(view.band))
        seen = CentredImages(view, one + 0j, one, rotations)
        accumulate(acc, seen, flat, torch.ones(2000), Levels(crowding=levels))
        return fold(acc, group).weights

    def unevenness(grid):
        """Density beside the plane of the common slice over that towards z, at shell 12."""
        c, at = (grid.shape[0] - 1) // 2, 18
        plane = grid[c - 2 : c + 3, c - 2 : c + 3, at - 2 : at + 3].mean()
        pole = grid[c + at - 2 : c + at + 3, c - 2 : c + 3, :3].mean()
        return float(plane / pole)

    assert unevenness(weights(None)) > 5
    assert unevenness(weights(crowding)) == pytest.approx(1, abs=0.5)


@pytest.mark.parametrize("symmetry", ["c1", "d7", "o"])
def test_even_views_are_left_alone(symmetry):
    rotations = random_rotations(250, torch.Generator().manual_seed(0))
    assert view_crowding(rotations, torch.ones(250), parse_symmetry(symmetry)) is None


def test_particles_without_weight_do_not_crowd():
    rotations = torch.cat(
        [random_rotations(250, torch.Generator().manual_seed(0)), views_about_z(250, 5, share=1)]
    )
    c1 = parse_symmetry("c1")
    weights = torch.ones(500)
    assert view_crowding(rotations, weights, c1) is not None
    weights[250:] = 0
    assert view_crowding(rotations, weights, c1) is None
    assert view_crowding(rotations, torch.zeros(500), c1) is None


def test_the_density_of_even_slices_is_one_and_that_of_one_slice_is_its_own():
    probes = direction_grid(math.radians(10))
    rotations = random_rotations(4000, torch.Generator().manual_seed(0))
    c1 = parse_symmetry("c1")
    density = slice_density(probes, rotations, torch.ones(4000), c1, band=0.08)
    assert float(density.mean()) == pytest.approx(1, abs=0.01)
    assert float(density.std()) < 0.1
    # One view down z: its slice is the plane z = 0.
    one = slice_density(
        torch.tensor([[1.0, 0, 0], [0, 0, 1]]), torch.eye(3)[None], torch.ones(1), c1, band=0.08
    )
    assert float(one[0]) == pytest.approx(1 / (0.08 * math.sqrt(math.pi / 2)), rel=1e-5)
    assert float(one[1]) < 1e-6


def test_evenness_is_the_harmonic_over_the_arithmetic_mean_of_what_is_filled():
    density = torch.tensor([1.0, 1.0, 4.0, 4.0])
    assert evenness(torch.ones(7)) == pytest.approx(1, abs=1e-9)
    assert evenness(density) == pytest.approx(0.64, rel=0.01)
    # Empty directions hold no noise: data in half of the directions are even among themselves.
    assert evenness(torch.tensor([2.0, 2.0, 0.0, 0.0])) == pytest.approx(2, rel=0.01)


def test_factors_have_the_symmetry_of_the_group_and_of_mates():
    group = parse_symmetry("c4")
    rotations = views_about_z(600, 10) @ matrix_from_euler(torch.tensor([[0.3, 0.5, 0.1]]).double())
    crowding = view_crowding(rotations, torch.ones(600), group)
    assert crowding is not None
    points = view_of(SIZE).points
    some = random_rotations(5, torch.Generator().manual_seed(9))
    factor = crowding.of_slices(some, points)
    assert float(factor.max() / factor.min()) > 3
    for turn in group.matrices:
        torch.testing.assert_close(
            crowding.of_slices(some @ turn, points), factor, rtol=1e-3, atol=0
        )
    torch.testing.assert_close(crowding.of_slices(some, -points), factor, rtol=1e-3, atol=0)


def test_uneven_data_are_damped_by_their_mean_noise():
    group, _, images, rotations = phantom_and_images("c1", 32, 800)
    sums = sums_of(images, rotations, group, 32)
    plain, ssnr = solve(sums), torch.full((17,), 1.0)
    mask = sphere_mask(32, 12)
    for even, expected in ((1.0, 0.5), (0.25, 0.8)):
        damped = solve(dataclasses.replace(sums, evenness=even), ssnr=ssnr)
        ratio = float((damped * plain * mask).sum() / (plain * plain * mask).sum())
        assert ratio == pytest.approx(expected, abs=0.03)
