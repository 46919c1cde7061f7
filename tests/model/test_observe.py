import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cryorefine.fourier.band import make_band, phase_ramp
from cryorefine.fourier.fft import image_from_half, image_to_half
from cryorefine.model.observe import (
    GroupBand,
    ImageStatistics,
    image_statistics,
    make_group_band,
    observe,
    select_statistics,
)
from cryorefine.optics.aberration import odd_phase
from cryorefine.optics.ctf import Defocus, contrast_transfer
from cryorefine.optics.group import OpticsGroup

EPS32 = float(np.finfo(np.float32).eps)


def _group(**changes) -> OpticsGroup:
    return OpticsGroup(**{"name": "g", "pixel_A": 1.2, "box_px": 48, **changes})


def _view(group: OpticsGroup, **changes) -> GroupBand:
    options = {"volume_size_px": group.box_px, "voxel_A": group.pixel_A, "resolution_A": 3.0}
    return make_group_band(group, **{**options, **changes})


def _defocus(n: int) -> Defocus:
    u = torch.linspace(9000.0, 16000.0, n)
    zero = torch.zeros(n)
    return Defocus(u, u - 300.0, zero + 0.4, zero, zero + 20.0, zero + 1.0)


def _noise(*shape: int, seed: int = 0, mean: float = 0.0, std: float = 1.0) -> torch.Tensor:
    return mean + std * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def _statistics(n: int, mean: float = 0.0, std: float = 1.0) -> ImageStatistics:
    return ImageStatistics(torch.full((n,), mean), torch.full((n,), std))


@pytest.mark.parametrize("size_px", [20, 21])
def test_the_background_is_measured_outside_the_disc_only(size_px):
    images = _noise(3, size_px, size_px, mean=4.0, std=2.0)
    axis = torch.arange(size_px) - size_px // 2
    outside = axis[:, None] ** 2 + axis[None] ** 2 > 7.0**2
    expected = images[:, outside].double()
    images[:, ~outside] = 1000.0
    found = image_statistics(images, 7.0)
    np.testing.assert_allclose(found.mean, expected.mean(1), rtol=4 * EPS32)
    np.testing.assert_allclose(found.std, expected.std(1, correction=0), rtol=4 * EPS32)


def test_a_radius_beyond_half_the_box_leaves_the_corners():
    images = _noise(2, 16, 16)
    beyond, half = image_statistics(images, 100.0), image_statistics(images, 8.0)
    assert torch.equal(beyond.mean, half.mean)
    assert torch.equal(beyond.std, half.std)
    assert bool((half.std > 0).all())


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("place", [(0, 0), (8, 8)])
def test_images_with_a_value_that_is_not_finite_cannot_be_used(bad, place):
    images = _noise(3, 16, 16, mean=2.0)
    images[1][place] = bad
    found = image_statistics(images, 5.0)
    assert (found.std > 0).tolist() == [True, False, True]
    assert bool(torch.isfinite(found.mean).all())


@pytest.mark.parametrize("size_px", [16, 21, 48])
@pytest.mark.parametrize("value", [0.0, 0.1, -7.7, 1e6 / 3])
def test_constant_images_cannot_be_used(size_px, value):
    images = torch.stack([_noise(size_px, size_px), torch.full((size_px, size_px), value)])
    assert (image_statistics(images, 5.0).std > 0).tolist() == [True, False]


def test_images_that_vary_by_the_rounding_of_their_grey_levels_only_cannot_be_used():
    images = 1e4 + 1e-3 * _noise(1, 32, 32)
    assert 0 < float(images.std()) < 0.01
    assert image_statistics(images, 10.0).std.tolist() == [0.0]


def test_images_whose_background_is_constant_cannot_be_used():
    image = torch.full((1, 16, 16), 0.1)
    image[0, 6:10, 6:10] = _noise(4, 4)
    assert image_statistics(image, 7.0).std.tolist() == [0.0]


@pytest.mark.parametrize("offset", [0.0, 1e3, -1e4])
def test_an_offset_of_the_grey_levels_does_not_make_images_unusable(offset):
    found = image_statistics(_noise(2, 32, 32, mean=offset), 10.0)
    # Some 700 pixels of unit noise: 3 % standard deviation of their spread, five of them.
    np.testing.assert_allclose(found.std, 1.0, atol=0.15)
    np.testing.assert_allclose(found.mean, offset, atol=0.2)


@pytest.mark.parametrize("n", [0, 1])
def test_no_images_and_a_single_one_have_statistics_too(n):
    found = image_statistics(_noise(n, 16, 16), 5.0)
    assert found.mean.shape == found.std.shape == (n,)


def test_statistics_of_some_images_are_picked_by_row():
    every = ImageStatistics(torch.arange(4.0), torch.arange(4.0) + 10)
    some = select_statistics(every, np.array([2, 0, 2]))
    assert some.mean.tolist() == [2.0, 0.0, 2.0]
    assert some.std.tolist() == [12.0, 10.0, 12.0]
    assert select_statistics(every, np.array([], np.int64)).mean.shape == (0,)


@pytest.mark.parametrize("box_px", [48, 49])
def test_the_band_ends_at_the_resolution_asked_for(box_px):
    view = _view(_group(box_px=box_px), resolution_A=5.0)
    frequency = view.s_per_A.norm(dim=1)
    assert float(frequency.max()) <= 1 / 5.0 * (1 + 2 * EPS32)
    assert float(frequency.max()) > 1 / 5.0 - 1 / (box_px * 1.2)


@pytest.mark.parametrize("box_px", [48, 49])
def test_the_band_ends_below_the_images_nyquist_frequency(box_px):
    view = _view(_group(box_px=box_px), resolution_A=0.1, volume_size_px=200, voxel_A=0.5)
    largest = max(int(view.band.kx.max()), int(view.band.ky.abs().max()))
    assert largest == (box_px - 1) // 2


def test_the_band_ends_where_slices_would_leave_the_volumes_transform():
    view = _view(_group(), resolution_A=2.5, volume_size_px=21, voxel_A=2.4)
    assert float(view.points.norm(dim=1).max()) <= 10 * (1 + 2 * EPS32)
    stretched = _group(magnification=(1.3, 0.0, 0.0, 1.0))
    view = _view(stretched, resolution_A=2.5, volume_size_px=21, voxel_A=2.4)
    assert float(view.points.norm(dim=1).max()) <= 10 * (1 + 2 * EPS32)


def test_points_are_the_images_frequencies_in_cycles_per_box_of_the_volume():
    # A volume twice as wide as the images, its voxels half as large again.
    view = _view(_group(), volume_size_px=64, voxel_A=1.8)
    k = view.k_px()
    assert torch.equal(k[:, 0], view.band.kx)
    assert torch.equal(k[:, 1], view.band.ky)
    np.testing.assert_allclose(view.s_per_A, k / (48 * 1.2), rtol=4 * EPS32)
    np.testing.assert_allclose(view.points, k * (64 * 1.8) / (48 * 1.2), rtol=4 * EPS32)
    assert abs(view.amplitude - (1.8 / 1.2) ** 2) < 1e-12


def test_the_magnification_matrix_says_where_slices_are_read():
    matrix = (1.02, 0.01, -0.03, 0.97)
    view = _view(_group(magnification=matrix))
    m = torch.tensor(matrix).view(2, 2)
    np.testing.assert_allclose(view.points, view.k_px().float() @ m.T, atol=1e-4)


def test_only_odd_aberrations_need_a_factor():
    assert _view(_group(even_zernike=(0.0, 1.0))).odd_factor is None
    tilted = _view(_group(beam_tilt_mrad=(0.4, 0.0)))
    assert tilted.odd_factor is not None
    np.testing.assert_allclose(tilted.odd_factor.abs(), 1.0, atol=4 * EPS32)


ABERRATIONS = {
    "none": {},
    "beam tilt": {"beam_tilt_mrad": (0.6, -0.3)},
    "trefoil and coma": {"odd_zernike": (0.5, -0.2, 30.0, 10.0, -15.0, 8.0)},
    "all, stretched": {
        "beam_tilt_mrad": (0.6, -0.3),
        "odd_zernike": (0.5, -0.2, 30.0),
        "even_zernike": (0.0, 2.0, 0.0, -3.0),
        "magnification": (1.02, 0.01, 0.01, 0.98),
    },
}


@pytest.mark.parametrize("aberrations", ABERRATIONS)
@pytest.mark.parametrize("box_px", [48, 49])
def test_odd_aberrations_put_into_images_come_out_again(aberrations, box_px):
    group = _group(box_px=box_px, **ABERRATIONS[aberrations])
    view, n = _view(group), 3
    defocus = _defocus(n)
    generator = torch.Generator().manual_seed(1)
    spectrum = torch.randn(n, len(view.band), dtype=torch.complex128, generator=generator)
    spectrum.imag[:, 0] = 0
    # The microscope's part, in double precision: exp(+i phase) times the contrast transfer.
    k = view.k_px().double() / group.box_A
    s = k @ torch.tensor(group.magnification, dtype=torch.float64).view(2, 2).T
    transfer = contrast_transfer(group, defocus, s)
    seen = spectrum * transfer * torch.exp(1j * odd_phase(group, s))
    if aberrations != "none":
        assert float(odd_phase(group, s).abs().max()) > 0.5  # or the test could not tell
    images = image_from_half(view.band.put(seen), box_px).float()
    coefficients, found_transfer = observe(images, _statistics(n), view, defocus)
    # Rounding of pixels to single precision, of phases up to 100 rad in the transfer.
    np.testing.assert_allclose(coefficients, spectrum * transfer, atol=2e-3)
    np.testing.assert_allclose(found_transfer, transfer, atol=1e-4)


def test_observing_brings_the_background_to_zero_mean_and_unit_spread():
    group, n = _group(), 4
    images = _noise(n, 48, 48, mean=100.0, std=7.0)
    coefficients, _ = observe(images, image_statistics(images, 0.0), _view(group), _defocus(n))
    power = coefficients[:, 1:].abs().square().mean()
    # White noise of unit variance has n² in every coefficient; some 4 · 900 of them.
    assert abs(float(power) / 48**2 - 1) < 5 / math.sqrt(4 * 900)


@given(st.floats(-50, 50), st.floats(0.1, 20))
def test_the_grey_scale_of_an_image_does_not_matter(offset, scale):
    group, images = _group(), _noise(2, 48, 48)
    view, defocus = _view(group), _defocus(2)
    plain, _ = observe(images, _statistics(2), view, defocus)
    scaled, _ = observe(images * scale + offset, _statistics(2, offset, scale), view, defocus)
    # An offset of 50 costs 50 / scale of a pixel's digits, spread over all coefficients.
    bound = 8 * EPS32 * (5 + abs(offset) / scale) * 48
    np.testing.assert_allclose(scaled, plain, atol=bound)


def test_the_transfer_includes_the_amplitude_between_volume_and_image():
    group, images = _group(), _noise(2, 48, 48)
    same = _view(group, resolution_A=4.5)
    coarse = _view(group, resolution_A=4.5, volume_size_px=32, voxel_A=1.8)
    assert same.amplitude == 1.0
    _, plain = observe(images, _statistics(2), same, _defocus(2))
    _, scaled = observe(images, _statistics(2), coarse, _defocus(2))
    assert torch.equal(same.band.kx, coarse.band.kx)
    np.testing.assert_allclose(scaled, plain * 1.5**2, rtol=1e-4, atol=1e-5)


def test_observed_coefficients_are_those_of_the_image_about_its_origin():
    group = _group(box_px=49)
    view = _view(group)
    point = torch.zeros(1, 49, 49)
    point[0, 24 - 3, 24 + 5] = 1
    coefficients, _ = observe(point, _statistics(1), view, _defocus(1))
    expected = phase_ramp(make_band(49, 100), torch.tensor([5.0, -3.0]))[: len(view.band)]
    np.testing.assert_allclose(coefficients[0], expected, atol=1e-5)
    assert torch.equal(view.band.take(image_to_half(point)), coefficients)
