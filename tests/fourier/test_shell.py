import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cryorefine.fourier.fft import image_to_half, volume_to_half
from cryorefine.fourier.shell import (
    frequency_radius,
    hermitian_weight,
    shell_correlation,
    shell_index,
    shell_mean,
    shell_power,
)

EPS = float(np.finfo(np.float64).eps)
BOXES = [(1, 2), (1, 3), (2, 2), (2, 3), (7, 2), (8, 2), (7, 3), (8, 3), (12, 3)]


def _noise(n: int, ndim: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*(n,) * ndim, dtype=torch.float64, generator=generator)


def _half(real: torch.Tensor) -> torch.Tensor:
    return image_to_half(real) if real.ndim == 2 else volume_to_half(real)


def _full_shells(n: int, ndim: int) -> np.ndarray:
    """Return round(|k|) of every coefficient of the full transform."""
    k = np.fft.fftfreq(n, 1 / n)
    return np.rint(np.sqrt(sum(a**2 for a in np.meshgrid(*[k] * ndim, indexing="ij")))).astype(int)


@pytest.mark.parametrize(("n", "ndim"), BOXES)
def test_radius_and_shell_are_those_of_the_coefficients_in_their_order(n, ndim):
    full = np.fft.fftfreq(n, 1 / n)
    half = np.arange(n // 2 + 1)
    axes = np.meshgrid(*[full] * (ndim - 1), half, indexing="ij")
    expected = np.sqrt(sum(a**2 for a in axes))
    np.testing.assert_allclose(frequency_radius(n, ndim), expected, rtol=2e-7)
    assert np.array_equal(shell_index(n, ndim), np.rint(expected))


@pytest.mark.parametrize("n", [1, 2, 7, 8, 33])
def test_the_columns_of_the_half_transform_stand_for_all_of_the_full_one(n):
    weight = hermitian_weight(n)
    assert len(weight) == n // 2 + 1
    assert float(weight.sum()) == n
    # A column has a mate unless it is its own: k = -k modulo n.
    own_mate = [(-k) % n == k for k in range(n // 2 + 1)]
    assert [w == 1 for w in weight.tolist()] == own_mate


@pytest.mark.parametrize(("n", "ndim"), BOXES)
def test_a_shells_mean_counts_every_coefficient_of_the_full_transform_once(n, ndim):
    real = _noise(n, ndim)
    full = np.abs(np.fft.fftn(real.numpy())) ** 2
    shells = _full_shells(n, ndim)
    expected = [full[shells == s].mean() for s in range(n // 2 + 1)]
    np.testing.assert_allclose(shell_power(_half(real), n), expected, rtol=100 * EPS)


@pytest.mark.parametrize(("n", "ndim"), [(7, 2), (8, 2), (7, 3), (8, 3)])
def test_as_many_shells_are_returned_as_asked_for(n, ndim):
    real = _noise(n, ndim)
    values = _half(real).abs()
    full, shells = np.abs(np.fft.fftn(real.numpy())), _full_shells(n, ndim)
    last = int(shells.max())
    for count in (1, 3, last + 1, last + 4):
        expected = [full[shells == s].mean() if s <= last else 0.0 for s in range(count)]
        found = shell_mean(values, n, n_shells=count)
        np.testing.assert_allclose(found, expected, rtol=100 * EPS)


@pytest.mark.parametrize(("n", "ndim"), [(7, 2), (8, 3)])
def test_all_shells_together_hold_the_energy_of_the_image(n, ndim):
    real = _noise(n, ndim)
    shells = _full_shells(n, ndim)
    counts = np.bincount(shells.ravel())
    power = shell_mean(_half(real).abs().square(), n, n_shells=len(counts)).numpy()
    # Parseval: the unnormalised transform holds n^ndim times the sum of squares.
    energy = float(real.square().sum()) * n**ndim
    assert math.isclose((power * counts).sum(), energy, rel_tol=1e-13)


@pytest.mark.parametrize(("n", "ndim"), BOXES)
def test_a_map_correlates_with_itself_fully_and_with_its_negative_inversely(n, ndim):
    half = _half(_noise(n, ndim))
    np.testing.assert_allclose(shell_correlation(half, half, n), 1.0, atol=100 * EPS)
    np.testing.assert_allclose(shell_correlation(half, -half, n), -1.0, atol=100 * EPS)
    np.testing.assert_allclose(shell_correlation(half, 3.5 * half, n), 1.0, atol=100 * EPS)


@pytest.mark.parametrize(("n", "ndim"), [(7, 2), (8, 2), (7, 3), (8, 3)])
def test_the_correlation_is_the_one_over_the_full_transform(n, ndim):
    a, b = _noise(n, ndim, 1), _noise(n, ndim, 2)
    fa, fb = np.fft.fftn(a.numpy()), np.fft.fftn(b.numpy())
    expected = []
    for s in range(n // 2 + 1):
        mine = _full_shells(n, ndim) == s
        cross = (fa[mine] * fb[mine].conj()).sum().real
        norm = (np.abs(fa[mine]) ** 2).sum() * (np.abs(fb[mine]) ** 2).sum()
        expected.append(cross / math.sqrt(norm))
    found = shell_correlation(_half(a), _half(b), n)
    np.testing.assert_allclose(found, expected, atol=100 * EPS)


@pytest.mark.parametrize("n", [7, 9])
@given(axes=st.permutations([0, 1, 2]).map(lambda p: tuple(p[:2])), turns=st.integers(1, 3))
def test_the_correlation_does_not_change_when_both_maps_are_turned_by_quarter_turns(n, axes, turns):
    # Odd boxes only: rot90 of an even box moves the origin.
    a, b = _noise(n, 3, 1), _noise(n, 3, 2)
    turned = [_half(torch.rot90(v, turns, axes)) for v in (a, b)]
    before = shell_correlation(_half(a), _half(b), n)
    np.testing.assert_allclose(shell_correlation(*turned, n), before, atol=1000 * EPS)


@pytest.mark.parametrize("n", [8, 9])
def test_a_phase_that_turns_all_coefficients_by_a_right_angle_leaves_no_correlation(n):
    # In the half-plane of kx > 0 only, where no coefficient is its own mate.
    half = _half(_noise(n, 2))
    half[:, 0] = 0
    half[:, (n - 1) // 2 + 1 :] = 0
    np.testing.assert_allclose(shell_correlation(half, 1j * half, n), 0.0, atol=100 * EPS)


def test_shells_without_energy_correlate_as_nothing():
    half = _half(_noise(8, 3))
    half[shell_index(8, 3) == 2] = 0
    found = shell_correlation(half, half, 8)
    assert found[2] == 0
    assert bool(torch.isfinite(found).all())
    nothing = torch.zeros_like(half)
    assert torch.equal(shell_correlation(nothing, nothing, 8), torch.zeros(5, dtype=torch.float64))


def test_sums_are_in_double_precision_whatever_comes_in():
    half = _half(_noise(8, 3)).to(torch.complex64)
    assert shell_power(half, 8).dtype == torch.float64
    assert shell_correlation(half, half, 8).dtype == torch.float64
