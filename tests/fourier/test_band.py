import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cryorefine.fourier.band import make_band
from cryorefine.fourier.fft import image_from_half, image_to_half

boxes = st.integers(1, 24)
radii = st.floats(0, 14)


def _members(n: int, max_radius: float, min_radius: float = 0.0) -> set[tuple[int, int]]:
    """Return all (kx, ky) of a full transform, without Nyquist terms, between two radii."""
    largest = (n - 1) // 2
    # Half a coefficient short of Nyquist the band ends.
    limit = min(max_radius, (n - 1) / 2 + 1e-3)
    axis = range(-largest, largest + 1)
    return {(x, y) for x in axis for y in axis if min_radius <= math.hypot(x, y) <= limit}


@given(boxes, radii, st.floats(0, 3))
def test_a_band_and_its_friedel_mates_are_all_coefficients_within_the_radius_once(n, last, first):
    band = make_band(n, last, min_radius=first)
    listed = list(zip(band.kx.tolist(), band.ky.tolist(), strict=True))
    mates = [(-x, -y) for x, y in listed if (x, y) != (0, 0)]
    assert len(set(listed + mates)) == len(listed + mates)
    assert set(listed + mates) == _members(n, last, first)
    assert len(band) == len(listed)


@given(boxes, radii)
def test_radius_and_shell_belong_to_their_coefficients(n, last):
    band = make_band(n, last)
    radius = torch.hypot(band.kx.double(), band.ky.double())
    torch.testing.assert_close(band.radius, radius.float(), rtol=2e-7, atol=0)
    assert torch.equal(band.shell, radius.round().long())
    assert band.n_shells == int(radius.max().round()) + 1


@given(boxes, radii)
def test_a_band_is_sorted_by_shell_and_by_angle_within_a_shell(n, last):
    band = make_band(n, last)
    assert bool((band.shell.diff() >= 0).all())
    angle = torch.atan2(band.ky.double(), band.kx.double())
    within = band.shell.diff() == 0
    assert bool((angle.diff()[within] >= -1e-12).all())


@given(boxes, radii, st.integers(-1, 16))
def test_a_prefix_holds_the_shells_up_to_its_own_and_no_more(n, last, shell):
    band = make_band(n, last)
    count = band.prefix(shell)
    assert bool((band.shell[:count] <= shell).all())
    assert bool((band.shell[count:] > shell).all())


@given(st.integers(4, 24), st.integers(1, 8))
def test_a_shorter_band_is_a_prefix_of_a_longer_one(n, shell):
    longer = make_band(n, n)
    if shell >= longer.n_shells:
        shell = longer.n_shells - 1
    # All of a shell is in the band once the radius reaches half a step beyond it.
    shorter = make_band(n, shell + 0.5 - 1e-9)
    count = longer.prefix(shell)
    assert torch.equal(shorter.kx, longer.kx[:count])
    assert torch.equal(shorter.ky, longer.ky[:count])


def test_half_a_cycle_of_least_radius_leaves_out_the_mean_only():
    whole, without = make_band(16, 5), make_band(16, 5, min_radius=0.5)
    assert (int(whole.kx[0]), int(whole.ky[0])) == (0, 0)
    assert torch.equal(without.kx, whole.kx[1:])
    assert torch.equal(without.ky, whole.ky[1:])


@pytest.mark.parametrize("n", [1, 2])
def test_the_band_of_the_smallest_boxes_is_the_mean(n):
    band = make_band(n, 10)
    assert (band.kx.tolist(), band.ky.tolist(), band.n_shells) == ([0], [0], 1)
    image = torch.full((n, n), 2.0)
    assert band.take(image_to_half(image)).tolist() == [2.0 * n * n]


@pytest.mark.parametrize("n", [9, 10])
@pytest.mark.parametrize("shape", [(), (3,), (2, 2)])
def test_what_was_put_is_taken_out_again(n, shape):
    band = make_band(n, 4)
    values = torch.randn(*shape, len(band), dtype=torch.complex128)
    assert torch.equal(band.take(band.put(values)), values)


@pytest.mark.parametrize("n", [9, 10])
def test_take_and_put_are_adjoint_over_the_half_plane(n):
    # <take(h), v> over the band equals <h, put(v)> where each coefficient of the half transform
    # counts once and the mates on the column kx = 0, which put fills in, are left out.
    generator = torch.Generator().manual_seed(0)
    band = make_band(n, 4)
    half = torch.randn(n, n // 2 + 1, dtype=torch.complex128, generator=generator)
    values = torch.randn(len(band), dtype=torch.complex128, generator=generator)
    put = band.put(values)
    put[n // 2 + 1 :, 0] = 0
    left = (band.take(half).conj() * values).sum()
    right = (half.conj() * put).sum()
    np.testing.assert_allclose(left, right, rtol=1e-13)


@pytest.mark.parametrize("n", [9, 10])
def test_for_real_images_take_and_put_are_adjoint_up_to_the_counting_of_mates(n):
    # In real space: sum of image times the put image is the band's inner product over n², every
    # coefficient but the mean counted with its mate.
    generator = torch.Generator().manual_seed(1)
    band = make_band(n, 4)
    image = torch.randn(n, n, dtype=torch.float64, generator=generator)
    values = torch.randn(len(band), dtype=torch.complex128, generator=generator)
    values.imag[0] = 0  # the mean of a real image
    count = torch.where(band.radius == 0, 1.0, 2.0)
    left = (image * image_from_half(band.put(values), n)).sum()
    right = (count * (band.take(image_to_half(image)).conj() * values).real).sum() / n**2
    np.testing.assert_allclose(left, right, rtol=1e-12)


@pytest.mark.parametrize("n", [9, 10])
def test_put_makes_a_hermitian_transform_so_that_no_half_is_lost(n):
    band = make_band(n, 4)
    values = torch.randn(
        len(band), dtype=torch.complex128, generator=torch.Generator().manual_seed(2)
    )
    values.imag[0] = 0  # the mean of a real image
    again = band.take(image_to_half(image_from_half(band.put(values), n)))
    np.testing.assert_allclose(again, values, atol=1e-13)
    full = torch.fft.fft2(torch.fft.ifftshift(image_from_half(band.put(values), n)))
    assert int((full.abs() > 1e-12).sum()) == 2 * len(band) - 1
