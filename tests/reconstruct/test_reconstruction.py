import math

import pytest
import torch

from cryorefine.evaluate.fsc import fsc
from cryorefine.fourier.band import make_band
from cryorefine.geometry.rotation import random_rotations
from cryorefine.geometry.symmetry import parse_symmetry
from cryorefine.kernels.grid import fold_accumulator, make_accumulator, make_slice_grid
from cryorefine.masks.soft import sphere_mask
from cryorefine.model.atoms import project_atoms, scattering_basis, volume_from_atoms
from cryorefine.model.observe import make_group_band
from cryorefine.optics.group import OpticsGroup
from cryorefine.reconstruct.accumulate import (
    CentredImages,
    Levels,
    accumulate,
    centre,
    residual_power,
)
from cryorefine.reconstruct.solve import fold, solve
from cryorefine.reconstruct.symmetrise import (
    coset_representatives,
    symmetrise_volume,
)
from tests.builders import phantom

PIXEL_A = 3.0


def view_of(size_px: int):
    group = OpticsGroup("g", PIXEL_A, size_px, has_ctf=False)
    return make_group_band(group, volume_size_px=size_px, voxel_A=PIXEL_A, resolution_A=2 * PIXEL_A)


def phantom_and_images(symmetry: str, size_px: int, n: int):
    """A symmetric particle's map, its exact noise-free images' coefficients, and their poses."""
    group = parse_symmetry(symmetry)
    atoms = phantom(symmetry, 0.7 * size_px * PIXEL_A, 1)
    basis = scattering_basis(atoms, 0.6 / PIXEL_A)
    truth = volume_from_atoms(atoms, basis, size_px=size_px, voxel_A=PIXEL_A)
    rotations = random_rotations(n, torch.Generator().manual_seed(0))
    view = view_of(size_px)
    return group, truth, project_atoms(atoms, basis, rotations, view.band, PIXEL_A), rotations


def sums_of(images, rotations, group, size_px: int, *, c=None, weights=None, balance=None):
    view = view_of(size_px)
    acc = make_accumulator(size_px, size_px / 2)
    c = torch.ones(images.shape) if c is None else c
    weights = torch.ones(len(images)) if weights is None else weights
    seen = CentredImages(view, images, c, rotations)
    accumulate(acc, seen, torch.ones(len(view.band)), weights, Levels(balance))
    return fold(acc, group)


@pytest.mark.parametrize(
    ("symmetry", "size_px", "n"),
    [("c1", 48, 1500), ("c1", 47, 1500), ("d2", 48, 500), ("o", 48, 120), ("d7", 48, 150),
     ("c3", 47, 600), ("t", 48, 200), ("i2", 48, 60), ("i3", 48, 60)],
)  # fmt: skip
def test_perfect_images_give_back_the_map(symmetry, size_px, n):
    group, truth, images, rotations = phantom_and_images(symmetry, size_px, n)
    volume = solve(sums_of(images, rotations, group, size_px))
    mask = sphere_mask(size_px, 0.4 * size_px)
    curve = fsc(volume * mask, truth * mask)
    assert float(curve[1 : int(0.8 * size_px / 2)].min()) > 0.99
    ratio = float((volume * truth * mask).sum() / (truth * truth * mask).sum())
    assert ratio == pytest.approx(1.0, abs=0.02)


def test_symmetry_on_the_grid_equals_inserting_every_symmetric_pose():
    group, _, images, rotations = phantom_and_images("d3", 32, 40)
    imposed = solve(sums_of(images, rotations, group, 32))
    expanded = group.equivalents(rotations)
    repeated = images[:, None].expand(-1, group.order, -1)
    inserted = solve(
        sums_of(repeated.flatten(0, 1), expanded.flatten(0, 1), parse_symmetry("c1"), 32)
    )
    mask = sphere_mask(32, 12)
    curve = fsc(imposed * mask, inserted * mask)
    assert float(curve[1:13].min()) > 0.99
    assert float((imposed * mask).norm() / (inserted * mask).norm()) == pytest.approx(1, abs=0.02)


def test_contrast_transfer_is_undone():
    group, truth, images, rotations = phantom_and_images("o", 48, 150)
    radius = view_of(48).band.radius
    defocus = torch.linspace(0.02, 0.05, 150)[:, None]
    c = torch.sin(defocus * radius**2 + 0.1)
    volume = solve(sums_of(images * c, rotations, group, 48, c=c))
    mask = sphere_mask(48, 19)
    curve = fsc(volume * mask, truth * mask)
    # Where c² rises steeply from the origin its average over the kernel's width leans outwards.
    assert float(curve[1:5].min()) > 0.95
    assert float(curve[5:19].min()) > 0.99
    assert float((volume * truth * mask).sum() / (truth**2 * mask).sum()) == pytest.approx(
        1, abs=0.03
    )


def test_weights_count_like_repeated_images_and_their_scale_does_not_matter():
    group, _, images, rotations = phantom_and_images("c1", 32, 60)
    noisy = images + 50 * torch.randn(images.shape, generator=torch.Generator().manual_seed(1)) + 0j
    weights = torch.ones(60)
    weights[::3] = 2.0
    weighted = solve(sums_of(noisy, rotations, group, 32, weights=weights))
    scaled = solve(sums_of(noisy, rotations, group, 32, weights=7 * weights))
    twice = torch.cat([torch.arange(60), torch.arange(0, 60, 3)])
    repeated = solve(sums_of(noisy[twice], rotations[twice], group, 32))
    torch.testing.assert_close(scaled, weighted, rtol=1e-3, atol=1e-3 * float(weighted.abs().max()))
    torch.testing.assert_close(
        repeated, weighted, rtol=1e-3, atol=1e-3 * float(weighted.abs().max())
    )


def test_the_regularised_map_is_the_plain_one_damped_by_ssnr_over_ssnr_plus_one():
    group, _, images, rotations = phantom_and_images("c1", 32, 800)
    sums = sums_of(images, rotations, group, 32)
    plain, damped = solve(sums), solve(sums, ssnr=torch.full((17,), 1.0))
    # Even coverage: every weight is near its shell's mean, so all is halved.
    mask = sphere_mask(32, 12)
    ratio = float((damped * plain * mask).sum() / (plain * plain * mask).sum())
    assert ratio == pytest.approx(0.5, abs=0.03)


def test_shells_without_signal_are_empty():
    group, _, images, rotations = phantom_and_images("c1", 32, 200)
    ssnr = torch.full((17,), 1e3)
    ssnr[8:] = 0.0
    volume = solve(sums_of(images, rotations, group, 32), ssnr=ssnr)
    spectrum = torch.fft.fftn(torch.fft.ifftshift(volume)).abs()
    k = torch.fft.fftfreq(32, 1 / 32)
    radius = (k[:, None, None] ** 2 + k[None, :, None] ** 2 + k[None, None] ** 2).sqrt()
    inner = spectrum[(radius > 3) & (radius < 7)].mean()
    assert float(spectrum[radius > 11].mean() / inner) < 1e-2


def test_no_image_gives_an_empty_map_and_one_image_a_finite_one():
    group, _, images, rotations = phantom_and_images("c1", 32, 1)
    empty = solve(sums_of(images[:0], rotations[:0], group, 32))
    assert float(empty.abs().max()) == 0
    one = solve(sums_of(images, rotations, group, 32))
    assert bool(torch.isfinite(one).all())
    assert float(one.abs().max()) > 0


def test_images_are_centred_by_their_shift_before_insertion():
    group, truth, images, rotations = phantom_and_images("o", 48, 100)
    view = view_of(48)
    shifts = 3 * torch.randn(100, 2, generator=torch.Generator().manual_seed(3)).double()
    displaced = centre(view, images, -shifts)
    volume = solve(sums_of(centre(view, displaced, shifts), rotations, group, 48))
    mask = sphere_mask(48, 19)
    assert float(fsc(volume * mask, truth * mask)[1:19].min()) > 0.99


def test_the_residual_of_perfect_images_is_the_interpolation_error_and_without_model_the_power():
    _, truth, images, rotations = phantom_and_images("c1", 48, 20)
    view, c = view_of(48), torch.ones(images.shape)
    grid = make_slice_grid(truth, 24)
    one = {"of": torch.zeros(len(images), dtype=torch.int64), "n_sums": 1}
    seen = CentredImages(view, images, c, rotations)
    (power,) = residual_power(None, seen, max_shell=0, **one)
    (left,) = residual_power(grid, seen, max_shell=18, **one)
    expected = torch.zeros(view.band.n_shells, dtype=torch.float64)
    for shell in range(view.band.n_shells):
        expected[shell] = images[:, view.band.shell == shell].abs().square().double().mean(1).sum()
    torch.testing.assert_close(power, expected, rtol=1e-5, atol=0.0)
    assert float((left[1:19] / power[1:19]).max()) < 0.02**2 * 4
    torch.testing.assert_close(left[19:], power[19:])


def test_the_residuals_of_several_sums_are_those_of_their_images():
    _, truth, images, rotations = phantom_and_images("c1", 32, 7)
    view, c = view_of(32), torch.ones(images.shape)
    grid, of = make_slice_grid(truth, 16), torch.tensor([2, 0, 2, 2, 0, 0, 2])
    seen = CentredImages(view, images, c, rotations)
    both = residual_power(grid, seen, max_shell=9, of=of, n_sums=3)
    assert both.shape == (3, view.band.n_shells)
    assert float(both[1].abs().max()) == 0
    for g in (0, 2):
        mine = of == g
        (alone,) = residual_power(
            grid, CentredImages(view, images[mine], c[mine], rotations[mine]), max_shell=9,
            of=torch.zeros(int(mine.sum()), dtype=torch.int64), n_sums=1,
        )  # fmt: skip
        torch.testing.assert_close(both[g], alone)


@pytest.mark.parametrize("name", ["c1", "c4", "d2", "d7", "t", "o", "i1", "i2", "i3"])
def test_coset_representatives_times_exact_rotations_make_the_group(name):
    group = parse_symmetry(name)
    representatives, exact = coset_representatives(group)
    assert len(representatives) * len(exact) == group.order
    products = (exact[:, None] @ representatives[None]).flatten(0, 1)
    for matrix in group.matrices:
        assert int(((products - matrix).abs().amax((-1, -2)) < 1e-9).sum()) == 1
    assert float((exact - exact.round()).abs().max()) == 0


@pytest.mark.parametrize("name", ["c3", "d2", "d3", "d7", "t", "o", "i1", "i3"])
def test_every_symmetric_copy_of_an_image_counts_once(name):
    size_px, n = 24, 40
    group, generator = parse_symmetry(name), torch.Generator().manual_seed(3)
    view = view_of(size_px)
    # Noise has no symmetry: a copy left out, or counted twice, changes the map.
    noise = torch.randn(n, len(view.band), 2, generator=generator)
    images = torch.view_as_complex(noise)
    rotations = random_rotations(n, generator)
    copies = (rotations[:, None] @ group.matrices[None]).flatten(0, 1)
    repeated = images.repeat_interleave(group.order, 0)
    short = solve(sums_of(images, rotations, group, size_px))
    long = solve(sums_of(repeated, copies, parse_symmetry("c1"), size_px))
    mask = sphere_mask(size_px, 0.35 * size_px)
    assert float(fsc(short * mask, long * mask)[1 : size_px // 2 - 2].min()) > 0.97


@pytest.mark.parametrize("size_px", [32, 33])
def test_a_symmetrised_volume_is_symmetric_and_a_symmetric_one_stays(size_px):
    group = parse_symmetry("d3")
    atoms = phantom("d3", 0.7 * size_px * 6.0, 1)
    volume = volume_from_atoms(atoms, scattering_basis(atoms, 0.1), size_px=size_px, voxel_A=6.0)
    mask = sphere_mask(size_px, 0.42 * size_px)
    again = symmetrise_volume(volume, group, voxel_A=1.0)
    assert float((again * volume * mask).sum() / (volume**2 * mask).sum()) == pytest.approx(
        1, abs=0.05
    )
    lopsided = volume * (1 + 0.5 * torch.linspace(-1, 1, size_px))
    once = symmetrise_volume(lopsided, group, voxel_A=1.0)
    twice = symmetrise_volume(once, group, voxel_A=1.0)
    agreement = (once * twice * mask).sum() / ((once * mask).norm() * (twice * mask).norm())
    assert float(agreement) > 0.99


def test_folding_doubles_what_lies_beside_the_plane_of_symmetry():
    acc = make_accumulator(16, 8)
    acc.weights[acc.centre, acc.centre, 2] = 1.0  # the origin: its own mate
    acc.weights[acc.centre, acc.centre, 1] = 0.25  # x = -1 is the mate of x = +1
    _, folded = fold_accumulator(acc)
    assert float(folded[acc.centre, acc.centre, 0]) == 2.0
    assert float(folded[acc.centre, acc.centre, 1]) == 0.25


def test_the_mean_weight_of_a_shell_counts_its_grid_points():
    group, _, images, rotations = phantom_and_images("c1", 32, 300)
    sums = sums_of(images, rotations, group, 32)
    mean = sums.mean_weight()
    # Sampling of slices thins out as 1/k² over a shell's 4πk² points, times the k of the ramp:
    # the mean weight is the same in all shells but the first few.
    inner = mean[4:14]
    assert float(inner.std() / inner.mean()) < 0.1
    assert math.isfinite(float(mean.max()))


def test_a_band_with_few_points_is_left_alone():
    band = make_band(16, 0.0)
    assert len(band) == 1


def test_noise_where_an_envelope_has_left_nothing_does_not_drown_the_rest():
    group, truth, images, rotations = phantom_and_images("o", 48, 100)
    c = torch.exp(-((view_of(48).band.radius / 4) ** 2)).expand(images.shape)  # e^-36 at Nyquist
    generator = torch.Generator().manual_seed(2)
    noise = torch.randn(images.shape, generator=generator, dtype=images.dtype)
    strength = 0.1 * images.abs().square().mean().sqrt()
    volume = solve(sums_of(images * c + strength * noise, rotations, group, 48, c=c))
    assert float(fsc(volume, truth)[1:5].min()) > 0.9


@pytest.mark.parametrize("size_px", [32, 33])
def test_the_map_ends_softly_with_the_sphere_that_fits_in_the_box(size_px):
    group, _, images, rotations = phantom_and_images("c1", size_px, 20)
    volume = solve(sums_of(images, rotations, group, size_px))
    axis = torch.arange(size_px).float() - size_px // 2
    radius = (axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2).sqrt()
    assert float(volume[radius >= size_px / 2].abs().max()) == 0
    assert float(volume[radius < size_px / 2 - 3].abs().min()) > 0
