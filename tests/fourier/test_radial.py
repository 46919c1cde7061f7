import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cryorefine.fourier.fft import volume_from_half, volume_to_half
from cryorefine.fourier.filter import filter_volume
from cryorefine.fourier.radial import (
    centred_axis,
    divide_radially,
    multiply_radially,
    radii,
    random_phases,
    shell_products,
    shell_totals,
    wrapped_axis,
)
from cryorefine.fourier.shell import _shell_sum, frequency_radius

sizes = st.integers(1, 13)


def transform(size_px: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return volume_to_half(torch.randn((size_px,) * 3, generator=generator))


@given(size_px=sizes)
def test_a_table_over_squared_radii_multiplies_as_the_function_itself(size_px):
    half, axis = transform(size_px), wrapped_axis(size_px)
    found = multiply_radially(half, axis, (-radii(axis) / 3).exp())
    expected = half * (-frequency_radius(size_px, 3) / 3).exp()
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@given(size_px=sizes)
def test_shell_products_are_the_plain_sums(size_px):
    a, b = transform(size_px), transform(size_px, 1)
    n_shells = size_px // 2 + 1
    plain = (
        a.real * b.real + a.imag * b.imag,
        a.abs().square(),
        b.abs().square(),
    )
    found = shell_products(a, b, size_px)
    for sums, values in zip(found, plain, strict=True):
        expected = _shell_sum(values, size_px, n_shells, 3)
        torch.testing.assert_close(sums, expected, rtol=1e-5, atol=1e-4)


@given(half_px=st.integers(0, 6))
def test_shell_totals_count_every_stored_point(half_px):
    axis = centred_axis(half_px)
    values = torch.randn(len(axis), len(axis), half_px + 1)
    shell_of = radii(axis).round().int().numpy()
    total, count = shell_totals(values, axis, shell_of, len(shell_of))
    assert float(count.sum()) == values.numel()
    torch.testing.assert_close(total.sum(), values.double().sum(), rtol=1e-6, atol=1e-6)
    assert float(total[0]) == pytest.approx(float(values[half_px, half_px, 0]))


@given(half_px=st.integers(0, 5))
def test_division_by_weights_and_a_radial_floor(half_px):
    axis = centred_axis(half_px)
    shape = (len(axis), len(axis), half_px + 1)
    values, weights = torch.randn(*shape, dtype=torch.complex64), torch.rand(*shape)
    radius = radii(axis)
    found = divide_radially(values, weights, axis, gain=1 / (1 + radius), floor=0.1 + radius)
    k = torch.from_numpy(axis).float()
    r = (k[:, None, None] ** 2 + k[None, :, None] ** 2 + k[half_px:] ** 2).sqrt()
    expected = values / (1 + r) / (weights + 0.1 + r)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("size_px", [16, 15])
def test_random_phases_leave_a_real_volume_with_the_same_moduli(size_px):
    half = transform(size_px)
    changed = random_phases(half, size_px, from_shell=4, seed=7)
    torch.testing.assert_close(changed.abs(), half.abs(), rtol=1e-4, atol=1e-4)
    again = volume_to_half(volume_from_half(changed, size_px))
    torch.testing.assert_close(again, changed, rtol=1e-3, atol=1e-3)
    inner = frequency_radius(size_px, 3).round() < 4
    assert torch.equal(changed[inner], half[inner])


def test_random_phases_are_uniform_and_differ_between_seeds():
    half = torch.ones(32, 32, 17, dtype=torch.complex64)
    first, second = (random_phases(half, 32, from_shell=1, seed=s) for s in (1, 2))
    inside = first[:, :, 1:-1]
    n = inside.numel()
    for order in (1, 2, 3):
        assert abs(complex((inside**order).mean())) < 4 / math.sqrt(n)
    assert abs(complex((inside * second[:, :, 1:-1].conj()).mean())) < 4 / math.sqrt(n)


@pytest.mark.parametrize("size_px", [12, 13])
def test_filtering_with_one_changes_nothing(size_px):
    volume = torch.randn((size_px,) * 3, generator=torch.Generator().manual_seed(0))
    same = filter_volume(volume, torch.ones_like)
    torch.testing.assert_close(same, volume, rtol=1e-5, atol=1e-5)
