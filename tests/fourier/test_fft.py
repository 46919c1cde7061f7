import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cryorefine.compiled import kernel_threads, use_kernel_threads
from cryorefine.fourier.band import make_band, phase_ramp
from cryorefine.fourier.fft import (
    fast_even_length,
    image_from_half,
    image_to_half,
    volume_from_grid,
    volume_from_half,
    volume_to_half,
)

SIZES = [1, 2, 7, 8, 31, 32]
EPS32 = float(np.finfo(np.float32).eps)


def _noise(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("n", SIZES)
def test_a_point_at_the_origin_pixel_has_a_flat_real_transform(n):
    image, volume = torch.zeros(n, n), torch.zeros(n, n, n)
    image[n // 2, n // 2] = 1
    volume[n // 2, n // 2, n // 2] = 1
    assert torch.equal(image_to_half(image), torch.ones(n, n // 2 + 1) + 0j)
    assert torch.equal(volume_to_half(volume), torch.ones(n, n, n // 2 + 1) + 0j)


@pytest.mark.parametrize("n", SIZES)
def test_the_first_coefficient_is_the_sum_over_all_pixels(n):
    image, volume = _noise(n, n), _noise(n, n, n)
    assert math.isclose(image_to_half(image)[0, 0].real, image.sum(), abs_tol=1e-13 * n)
    assert math.isclose(volume_to_half(volume)[0, 0, 0].real, volume.sum(), abs_tol=1e-13 * n**1.5)


@pytest.mark.parametrize("n", [5, 6])
def test_coefficients_are_the_sums_that_the_definition_writes_out(n):
    image = _noise(n, n)
    x = torch.arange(n, dtype=torch.float64) - n // 2
    half = image_to_half(image)
    for ky in range(-(n // 2), (n + 1) // 2):
        for kx in range(n // 2 + 1):
            wave = torch.exp(-2j * math.pi / n * (ky * x[:, None] + kx * x[None]))
            np.testing.assert_allclose(half[ky, kx], (image * wave).sum(), atol=1e-13)


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_images_and_volumes_survive_the_round_trip(n, dtype):
    images, volumes = _noise(3, n, n, dtype=dtype), _noise(2, n, n, n, dtype=dtype)
    bound = 8 * torch.finfo(dtype).eps * max(1, math.log2(n)) * 5  # values reach 5 sigma
    torch.testing.assert_close(
        image_from_half(image_to_half(images), n), images, atol=bound, rtol=0
    )
    torch.testing.assert_close(
        volume_from_half(volume_to_half(volumes), n), volumes, atol=bound, rtol=0
    )


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("shape", [(), (0,), (2, 3)])
def test_transforms_keep_any_batch_shape(n, shape):
    assert image_to_half(torch.zeros(*shape, n, n)).shape == (*shape, n, n // 2 + 1)
    assert volume_to_half(torch.zeros(*shape, n, n, n)).shape == (*shape, n, n, n // 2 + 1)


@pytest.mark.parametrize("n", [8, 9])
@given(dx=st.integers(-4, 4), dy=st.integers(-4, 4))
def test_the_phase_ramp_moves_the_content_by_plus_the_shift(n, dx, dy):
    # The factor exp(-2πi k·s/n) on every coefficient that the band lists; an even box's Nyquist
    # terms, which it does not list, are left out of the image to begin with.
    band = make_band(n, n)
    image = image_from_half(band.put(_noise(len(band)).to(torch.complex128)), n)
    shift = torch.tensor([dx, dy], dtype=torch.float64)
    moved = image_from_half(band.put(band.take(image_to_half(image)) * phase_ramp(band, shift)), n)
    np.testing.assert_allclose(moved, torch.roll(image, (dy, dx), (0, 1)), atol=1e-13)


@pytest.mark.parametrize("n", [31, 32])
@given(st.floats(-3, 3), st.floats(-3, 3))
def test_a_fractional_shift_moves_a_blob_by_just_that_fraction(n, dx, dy):
    axis = torch.arange(n, dtype=torch.float64) - n // 2
    width = 1.7

    def blob(x0: float, y0: float) -> torch.Tensor:
        x, y = axis[None] - x0, axis[:, None] - y0
        return torch.exp(-(x * x + y * y) / (2 * width**2))

    band = make_band(n, n)
    ramp = phase_ramp(band, torch.tensor([dx, dy], dtype=torch.float64))
    moved = image_from_half(band.put(band.take(image_to_half(blob(0, 0))) * ramp), n)
    # What the blob has beyond Nyquist: exp(-2π²σ²/4) = 6e-7 of its transform's maximum, 18.
    np.testing.assert_allclose(moved, blob(dx, dy), atol=1e-5)


def test_each_image_of_a_batch_gets_its_own_shift():
    band = make_band(8, 3)
    shifts = _noise(2, 3, 2)
    ramps = phase_ramp(band, shifts)
    assert ramps.shape == (2, 3, len(band))
    assert torch.equal(ramps[1, 2], phase_ramp(band, shifts[1, 2]))
    np.testing.assert_allclose(ramps.abs(), 1.0, atol=1e-14)


@given(st.floats(1, 5000))
def test_fast_lengths_are_even_long_enough_and_made_of_small_primes(at_least):
    length = fast_even_length(at_least)
    assert length % 2 == 0
    assert at_least <= length
    rest = length
    for prime in (2, 3, 5):
        while rest % prime == 0:
            rest //= prime
    assert rest == 1


@given(st.integers(1, 2000))
def test_no_shorter_fast_even_length_would_do(at_least):
    def is_fast(n: int) -> bool:
        for prime in (2, 3, 5):
            while n % prime == 0:
                n //= prime
        return n == 1

    length = fast_even_length(at_least)
    assert not any(is_fast(n) for n in range(at_least + at_least % 2, length, 2))


@given(
    size=st.integers(1, 9),
    padding=st.integers(0, 7),
    centre=st.integers(0, 8),
    seed=st.integers(0, 9),
)
def test_a_centred_band_goes_back_to_the_middle_of_its_padded_box(size, padding, centre, seed):
    padded = size + padding + (size + padding) % 2
    centre = min(centre, (padded - 1) // 2)
    whole = _noise(padded, padded, padded, seed=seed)
    half = volume_to_half(whole)
    axis = torch.fft.fftfreq(padded, 1 / padded)
    inside = (axis[:, None, None].abs() <= centre) & (axis[:, None].abs() <= centre)
    inside = inside & (torch.arange(padded // 2 + 1) <= centre)
    half = torch.where(inside, half, 0)
    places = [k % padded for k in range(-centre, centre + 1)]
    core = half[places][:, places][:, :, : centre + 1]
    found = volume_from_grid(core, centre=centre, size_px=size, padded_px=padded)
    low = padded // 2 - size // 2
    middle = slice(low, low + size)
    expected = volume_from_half(half, padded)[middle, middle, middle]
    assert torch.allclose(found, expected, atol=1e-12 * padded**1.5)


@pytest.mark.parametrize("n", [15, 16, 33, 48])
def test_the_number_of_threads_changes_no_bit_of_a_volumes_transforms(n):
    volume = _noise(n, n, n, dtype=torch.float32)
    core = _noise(n | 1, n | 1, n // 2 + 1, dtype=torch.complex64)
    options = {"centre": n // 2, "size_px": n, "padded_px": fast_even_length(1.5 * n)}
    found = []
    before = kernel_threads()
    try:
        for threads in (1, 2, 5):
            use_kernel_threads(threads)
            half = volume_to_half(volume)
            back = volume_from_half(half, n)
            found.append((half, back, volume_from_grid(core, **options)))
    finally:
        use_kernel_threads(before)
    for others in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], others, strict=True))
