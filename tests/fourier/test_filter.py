import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cryorefine.fourier.fft import volume_to_half
from cryorefine.fourier.filter import (
    filter_volume,
    interpolate_shells,
    low_pass,
    raised_cosine,
)
from cryorefine.fourier.shell import frequency_radius

EPS = float(np.finfo(np.float64).eps)


def _noise(n: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(n)
    return torch.randn(n, n, n, dtype=torch.float64, generator=generator)


def _gain(before: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
    """Return what each coefficient was multiplied with."""
    return volume_to_half(after) / volume_to_half(before)


@given(st.floats(1, 30), st.floats(0.1, 10))
def test_a_raised_cosine_falls_from_one_to_zero_within_its_width(cutoff, width):
    radius = torch.linspace(0, 50, 501, dtype=torch.float64)
    weight = raised_cosine(radius, cutoff, width)
    # At the very edges the cosine is flat: rounding of the radius does not show.
    assert bool((weight[radius <= cutoff - width / 2 - 1e-9] == 1).all())
    assert bool((weight[radius >= cutoff + width / 2 + 1e-9].abs() < EPS).all())
    assert bool((weight.diff() <= EPS).all())
    middle = raised_cosine(torch.tensor([cutoff], dtype=torch.float64), cutoff, width)
    assert abs(float(middle) - 0.5) < 4 * EPS


def test_a_raised_cosine_without_width_is_a_step():
    weight = raised_cosine(torch.tensor([0.0, 2.9, 3.1, 9.0]), 3.0, 0.0)
    np.testing.assert_allclose(weight, [1, 1, 0, 0], atol=1e-7)


def test_shell_curves_are_joined_by_straight_lines_and_end_at_the_last_shell():
    shells = torch.tensor([2.0, 4.0, -1.0], dtype=torch.float64)
    radius = torch.tensor([0.0, 0.25, 1.0, 1.5, 2.0, 2.001, 7.0], dtype=torch.float64)
    expected = [2.0, 2.5, 4.0, 1.5, -1.0, 0.0, 0.0]
    np.testing.assert_allclose(interpolate_shells(shells, radius), expected, atol=4 * EPS)
    lone = interpolate_shells(torch.tensor([3.0]), torch.tensor([[0.0, 0.5]]))
    assert lone.tolist() == [[3.0, 0.0]]


@pytest.mark.parametrize("n", [8, 9])
def test_a_filter_multiplies_every_coefficient_by_its_weight(n):
    volume = _noise(n)
    found = _gain(volume, filter_volume(volume, lambda k: 1 / (1 + k)))
    np.testing.assert_allclose(found, 1 / (1 + frequency_radius(n, 3).double()), rtol=1e-6)


@pytest.mark.parametrize("n", [16, 17])
def test_a_low_pass_keeps_what_is_coarser_and_removes_what_is_finer(n):
    volume, voxel_A, resolution_A = _noise(n), 2.0, 8.0
    gain = _gain(volume, low_pass(volume, voxel_A=voxel_A, resolution_A=resolution_A)).real
    frequency = frequency_radius(n, 3) / (n * voxel_A)
    shell = 1 / (n * voxel_A)
    kept, gone = frequency < 1 / resolution_A - shell, frequency > 1 / resolution_A + shell
    np.testing.assert_allclose(gain[kept], 1.0, atol=1e-6)
    np.testing.assert_allclose(gain[gone], 0.0, atol=1e-6)
    assert bool(((gain > -1e-6) & (gain < 1 + 1e-6)).all())
