import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cryorefine.fourier.fft import image_from_half, image_to_half
from cryorefine.fourier.shell import shell_index
from cryorefine.geometry.symmetry import parse_symmetry
from cryorefine.masks.soft import disc_mask
from cryorefine.model.phantom import make_phantom
from cryorefine.model.simulate import SimulationPlan, draw_parameters, simulate_images
from cryorefine.weigh.ssnr import image_ssnr, ssnr_weight
from tests.other_device import OTHER, Elsewhere, OtherDevice


def noise(n_images: int, size_px: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n_images, size_px, size_px, generator=generator)


def texture_in_disc(n_images: int, size_px: int, radius_px: float, gain: float) -> torch.Tensor:
    """Return white noise, within a disc stronger by ``gain`` in power."""
    disc = disc_mask(size_px, radius_px, 6.0)
    return noise(n_images, size_px) * (1 + (gain - 1) * disc).sqrt()


def by_hand(image: np.ndarray, radius_px: float, pixel_A: float) -> float:
    """Return the ratio by full transforms, a loop over shells and the definition."""
    n = len(image)
    y, x = np.mgrid[:n, :n] - n // 2
    t = np.clip((np.hypot(y, x) - radius_px) / 6.0, 0, 1)
    inside = 0.5 + 0.5 * np.cos(math.pi * t)
    outside = 1 - inside
    image = image - (image * outside).sum() / outside.sum()
    k = np.fft.fftfreq(n, 1 / n)
    shell = np.round(np.hypot(k[:, None], k)).astype(int)
    power = [np.abs(np.fft.fft2(image * mask)) ** 2 / (mask**2).sum() for mask in (inside, outside)]
    low = max(2, round(n * pixel_A / 40))
    high = min(n // 2 - 1, round(n * pixel_A / 3))
    ratios = [
        10 * math.log10(power[0][shell == s].mean() / power[1][shell == s].mean())
        for s in range(low, high + 1)
    ]
    return sum(ratios) / len(ratios)


@pytest.mark.parametrize("size_px", [40, 41])
@pytest.mark.parametrize("pixel_A", [0.8, 2.0])
def test_the_ratio_is_what_its_definition_says(size_px, pixel_A):
    images = texture_in_disc(3, size_px, 10.0, 3.0) + 2.0
    found = image_ssnr(images, radius_px=10.0, pixel_A=pixel_A)
    expected = [by_hand(image.double().numpy(), 10.0, pixel_A) for image in images]
    # The mask is made in float32.
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("size_px", [64, 65])
def test_noise_alone_is_near_zero_decibels(size_px):
    found = image_ssnr(noise(64, size_px), radius_px=16.0, pixel_A=1.5)
    # An image has some tenths of a dB of its own; the mean of 64 an eighth of that.
    assert abs(float(found.mean())) < 0.15
    assert float(found.std()) < 1.0


@pytest.mark.parametrize("size_px", [64, 65])
def test_the_ratio_is_that_of_the_powers(size_px):
    images = texture_in_disc(32, size_px, 16.0, 10.0)
    found = float(image_ssnr(images, radius_px=16.0, pixel_A=1.5).mean())
    # The edge is 6 px wide and counts partly for both sides.
    assert 6 < found < 10


def test_power_beyond_3_angstroms_does_not_matter():
    n, pixel_A = 128, 1.0
    quiet = noise(8, n)
    shell = shell_index(n, 2)
    # A disc's own width blurs the shells: leave room for it.
    beyond = (shell > 1.2 * n * pixel_A / 3.0).float()
    loud = image_from_half(image_to_half(noise(8, n, seed=1)) * beyond, n) * disc_mask(n, 30.0)
    before = image_ssnr(quiet, radius_px=30.0, pixel_A=pixel_A)
    after = image_ssnr(quiet + 2 * loud, radius_px=30.0, pixel_A=pixel_A)
    assert float((after - before).abs().max()) < 0.3
    assert float((image_ssnr(quiet + 2 * loud, radius_px=30.0, pixel_A=2.0) - before).min()) > 0.6


@pytest.fixture(scope="module")
def simulated() -> tuple[torch.Tensor, np.ndarray]:
    """Return images of a phantom, half of them without it, and which these are."""
    atoms = make_phantom(parse_symmetry("c1"), diameter_A=60.0, seed=0)
    plan = SimulationPlan(
        48, box_px=64, pixel_A=2.0, snr=0.3, junk_fraction=0.5, shift_A=1.0, seed=3
    )
    drawn = draw_parameters(atoms, plan)
    images = torch.cat([x for _, x in simulate_images(atoms, plan, drawn)])
    return images, drawn.is_junk


def test_phantoms_are_above_noise_and_get_more_weight(simulated):
    images, junk = simulated
    found = image_ssnr(images, radius_px=16.0, pixel_A=2.0)
    assert abs(float(found[junk].mean())) < 0.3
    assert float(found[~junk].mean()) > float(found[junk].mean()) + 0.5
    weight = ssnr_weight(found)
    assert float(weight[~junk].mean()) > 2 * float(weight[junk].mean())


@given(st.floats(1e-3, 1e3), st.floats(-10, 10), st.booleans())
def test_neither_grey_scale_nor_offset_nor_contrast_matters(scale, offset, inverted):
    images = texture_in_disc(2, 33, 8.0, 4.0).double()
    scale = -scale if inverted else scale
    expected = image_ssnr(images, radius_px=8.0, pixel_A=1.5)
    found = image_ssnr(scale * (images + offset), radius_px=8.0, pixel_A=1.5)
    np.testing.assert_allclose(found, expected, atol=1e-8)


def test_an_image_does_not_depend_on_the_others_of_its_batch():
    images = texture_in_disc(5, 32, 8.0, 4.0)
    together = image_ssnr(images, radius_px=8.0, pixel_A=1.5)
    apart = torch.cat([image_ssnr(x[None], radius_px=8.0, pixel_A=1.5) for x in images])
    np.testing.assert_allclose(together, apart, atol=1e-10)


@pytest.mark.parametrize("value", [0.0, 0.1, -1e4])
def test_constant_images_have_no_ratio(value):
    images = torch.full((2, 33, 33), value)
    assert image_ssnr(images, radius_px=8.0, pixel_A=1.5).tolist() == [0, 0]


def test_a_particle_on_an_empty_background_stays_finite():
    found = image_ssnr(noise(1, 64) * disc_mask(64, 10.0, 0.0), radius_px=12.0, pixel_A=1.5)
    assert 40 < float(found) < 200


def test_without_background_or_shells_there_is_no_ratio():
    # Round a disc that reaches the corners, and in a box that has no shells between the ends.
    assert image_ssnr(noise(2, 32), radius_px=23.0, pixel_A=1.5).tolist() == [0, 0]
    assert image_ssnr(noise(2, 5), radius_px=1.0, pixel_A=1.5).tolist() == [0, 0]
    assert image_ssnr(noise(2, 1), radius_px=1.0, pixel_A=1.5).tolist() == [0, 0]


def test_no_images_have_no_ratios():
    assert image_ssnr(torch.zeros(0, 32, 32), radius_px=8.0, pixel_A=1.5).shape == (0,)


@pytest.mark.parametrize("pixel_A", [0.01, 50.0])
def test_extreme_pixels_leave_one_shell_at_the_end_of_the_range(pixel_A):
    images = texture_in_disc(16, 32, 6.0, 100.0)
    assert float(image_ssnr(images, radius_px=6.0, pixel_A=pixel_A).mean()) > 5


def test_the_ratio_stays_on_its_device():
    images = texture_in_disc(3, 21, 5.0, 4.0)
    expected = image_ssnr(images, radius_px=5.0, pixel_A=1.5)
    with OtherDevice():
        found = image_ssnr(images.to(OTHER), radius_px=5.0, pixel_A=1.5)
        assert isinstance(found, Elsewhere)
        found = found.cpu()
    np.testing.assert_allclose(found, expected, rtol=1e-12)


values = st.lists(st.floats(-20, 20), min_size=1, max_size=60)


@given(values)
def test_weights_lie_between_zero_and_one_and_rise_with_the_ratio(ssnr):
    weight = ssnr_weight(torch.tensor(ssnr, dtype=torch.float64))
    assert 0 <= float(weight.min()) <= float(weight.max()) == 1
    ordered = weight[torch.tensor(ssnr, dtype=torch.float64).argsort()]
    assert bool((ordered.diff() >= 0).all())


@given(st.lists(st.floats(0.1, 20), min_size=1, max_size=60), st.floats(0.01, 100), st.randoms())
def test_weights_depend_neither_on_scale_nor_on_order(ssnr, scale, random):
    order = list(range(len(ssnr)))
    random.shuffle(order)
    x = torch.tensor(ssnr, dtype=torch.float64)
    np.testing.assert_allclose(
        ssnr_weight(scale * x[order]), ssnr_weight(x)[order], rtol=0, atol=1e-12
    )


def test_a_hundred_and_one_even_ratios_get_even_weights():
    weight = ssnr_weight(torch.arange(-50, 51, dtype=torch.float64))
    # The 95th percentile of -50 ... 50 is 45.
    expected = (torch.arange(-50, 51, dtype=torch.float64) / 45).clamp(0, 1)
    np.testing.assert_allclose(weight, expected, atol=1e-12)


def test_junk_gets_no_weight():
    weight = ssnr_weight(torch.tensor([3.0, 4.0, 5.0, -0.2, 4.0, 3.5, 0.0]))
    assert weight[3] == weight[6] == 0
    assert float(weight[[0, 1, 2, 4, 5]].min()) > 0.5


@pytest.mark.parametrize("ssnr", [[-1.0, -2.0, 0.0], [0.0], [math.nan], [math.nan, -1.0], []])
def test_ratios_that_tell_nothing_weigh_all_alike(ssnr):
    assert ssnr_weight(torch.tensor(ssnr)).tolist() == [1.0] * len(ssnr)


def test_an_unknown_ratio_gets_the_weight_of_the_median():
    weight = ssnr_weight(torch.tensor([1.0, math.nan, 2.0, 4.0, -3.0, 4.0]))
    # The 95th percentile of the known ones is 4.
    np.testing.assert_allclose(weight, [0.25, 0.5, 0.5, 1, 0, 1])
