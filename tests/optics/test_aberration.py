import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cryorefine.optics.aberration import (
    even_index,
    even_phase,
    odd_basis,
    odd_coefficients,
    odd_index,
    odd_phase,
    zernike,
)
from cryorefine.optics.group import OpticsGroup
from cryorefine.units import electron_wavelength_A

# Radial polynomials R(n, |m|) as tables of optics print them.
RADIAL = {
    (0, 0): lambda r: 1 + 0 * r,
    (1, 1): lambda r: r,
    (2, 0): lambda r: 2 * r**2 - 1,
    (2, 2): lambda r: r**2,
    (3, 1): lambda r: 3 * r**3 - 2 * r,
    (3, 3): lambda r: r**3,
    (4, 0): lambda r: 6 * r**4 - 6 * r**2 + 1,
    (4, 2): lambda r: 4 * r**4 - 3 * r**2,
    (4, 4): lambda r: r**4,
    (5, 1): lambda r: 10 * r**5 - 12 * r**3 + 3 * r,
    (5, 3): lambda r: 5 * r**5 - 4 * r**3,
    (5, 5): lambda r: r**5,
    (6, 0): lambda r: 20 * r**6 - 30 * r**4 + 12 * r**2 - 1,
    (6, 2): lambda r: 15 * r**6 - 20 * r**4 + 6 * r**2,
    (6, 4): lambda r: 6 * r**6 - 5 * r**4,
}

EVEN = [
    (0, 0),
    (-2, 2), (0, 2), (2, 2),
    (-4, 4), (-2, 4), (0, 4), (2, 4), (4, 4),
    (-6, 6), (-4, 6), (-2, 6), (0, 6), (2, 6), (4, 6), (6, 6),
]  # fmt: skip
ODD = [
    (-1, 1), (1, 1),
    (-3, 3), (-1, 3), (1, 3), (3, 3),
    (-5, 5), (-3, 5), (-1, 5), (1, 5), (3, 5), (5, 5),
]  # fmt: skip


def _group(**changes) -> OpticsGroup:
    return OpticsGroup(**{"name": "g", "pixel_A": 1.1, "box_px": 64, **changes})


def _points(n: int = 200, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).uniform(-0.5, 0.5, (n, 2)))


def test_even_coefficients_come_in_relions_order():
    assert [even_index(i) for i in range(len(EVEN))] == EVEN


def test_odd_coefficients_come_in_relions_order():
    assert [odd_index(i) for i in range(len(ODD))] == ODD


@pytest.mark.parametrize(("n", "m"), RADIAL)
def test_polynomials_are_radius_times_cosine_or_sine(n, m):
    s = _points()
    rho, phi = s.norm(dim=1), torch.atan2(s[:, 1], s[:, 0])
    radial = RADIAL[n, m](rho)
    np.testing.assert_allclose(zernike(m, n, s), radial * (m * phi).cos(), atol=1e-13)
    if m:
        np.testing.assert_allclose(zernike(-m, n, s), radial * (m * phi).sin(), atol=1e-13)


def test_the_polynomial_that_relions_manual_writes_out_is_ours():
    s = _points()
    x, y = s[:, 0], s[:, 1]
    np.testing.assert_allclose(zernike(-1, 3, s), 3 * (x * x + y * y) * y - 2 * y, atol=1e-14)


@given(st.sampled_from(EVEN + ODD))
def test_polynomials_are_even_or_odd_and_one_on_the_unit_circles_x_axis(index):
    m, n = index
    s = _points(50)
    np.testing.assert_allclose(zernike(m, n, -s), (-1) ** n * zernike(m, n, s), atol=1e-13)
    on_axis = float(zernike(m, n, torch.tensor([1.0, 0.0], dtype=torch.float64)))
    assert abs(on_axis - (1.0 if m >= 0 else 0.0)) < 1e-12


@pytest.mark.parametrize("index", EVEN + ODD)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_polynomials_are_finite_at_the_origin_and_take_any_batch(index, dtype):
    m, n = index
    at_origin = zernike(m, n, torch.zeros(2, 3, 2, dtype=dtype))
    assert at_origin.dtype == dtype
    expected = (-1.0) ** (n // 2) if m == 0 else 0.0
    assert torch.equal(at_origin, torch.full((2, 3), expected, dtype=dtype))
    assert zernike(m, n, torch.zeros(0, 2, dtype=dtype)).shape == (0,)


def test_phases_are_sums_over_the_coefficients():
    s = _points()
    even, odd = (0.3, -1.0, 2.0, 0.0, 7.0), (5.0, -3.0, 0.0, 40.0)
    expected_even = sum(c * zernike(*EVEN[i], s) for i, c in enumerate(even))
    expected_odd = sum(c * zernike(*ODD[i], s) for i, c in enumerate(odd))
    np.testing.assert_allclose(even_phase(_group(even_zernike=even), s), expected_even, atol=1e-12)
    np.testing.assert_allclose(odd_phase(_group(odd_zernike=odd), s), expected_odd, atol=1e-12)


def test_no_coefficients_mean_no_phase():
    s = _points()
    assert torch.equal(even_phase(_group(), s), torch.zeros(200, dtype=torch.float64))
    assert torch.equal(odd_phase(_group(), s), torch.zeros(200, dtype=torch.float64))
    assert not _group().has_odd_aberration
    assert not _group(odd_zernike=(0.0, 0.0), beam_tilt_mrad=(0.0, 0.0)).has_odd_aberration
    assert _group(odd_zernike=(0.0, 0.1)).has_odd_aberration
    assert _group(beam_tilt_mrad=(0.0, -0.1)).has_odd_aberration


@given(st.floats(-2, 2), st.floats(-2, 2))
def test_beam_tilt_is_axial_coma_written_out(tilt_x, tilt_y):
    s, cs_A, wavelength = _points(), 2.7e7, electron_wavelength_A(300.0)
    dot = (s[:, 0] * tilt_x + s[:, 1] * tilt_y) * 1e-3
    expected = -2 * math.pi * cs_A * wavelength**2 * s.square().sum(1) * dot
    group = _group(beam_tilt_mrad=(tilt_x, tilt_y), cs_mm=2.7)
    np.testing.assert_allclose(odd_phase(group, s), expected, atol=1e-10)


@given(st.floats(-2, 2), st.floats(-2, 2))
def test_beam_tilt_equals_its_zernike_coefficients(tilt_x, tilt_y):
    # ρ³ cos φ = (Z(1, 3) + 2 Z(1, 1)) / 3, and with sines for y.
    wavelength = electron_wavelength_A(300.0)
    z3 = -2 * math.pi * 2.7e7 * wavelength**2 * 1e-3 / 3
    x, y = z3 * tilt_x, z3 * tilt_y
    zernikes = _group(odd_zernike=(2 * y, 2 * x, 0.0, y, x, 0.0))
    s = _points()
    tilted = _group(beam_tilt_mrad=(tilt_x, tilt_y), cs_mm=2.7)
    np.testing.assert_allclose(odd_phase(zernikes, s), odd_phase(tilted, s), atol=1e-10)


def test_beam_tilt_and_odd_coefficients_add_up():
    s = _points()
    both = _group(beam_tilt_mrad=(0.3, -0.2), odd_zernike=(1.0, 2.0))
    parts = odd_phase(_group(beam_tilt_mrad=(0.3, -0.2)), s) + odd_phase(
        _group(odd_zernike=(1.0, 2.0)), s
    )
    np.testing.assert_allclose(odd_phase(both, s), parts, atol=1e-12)


def test_odd_phases_change_sign_with_the_frequency_and_even_ones_do_not():
    s = _points()
    group = _group(
        beam_tilt_mrad=(0.5, 0.1), odd_zernike=(1.0, -2.0, 3.0), even_zernike=(1.0, 2.0, 3.0, 4.0)
    )
    np.testing.assert_allclose(odd_phase(group, -s), -odd_phase(group, s), atol=1e-12)
    np.testing.assert_allclose(even_phase(group, -s), even_phase(group, s), atol=1e-12)


@given(
    st.tuples(st.floats(-2, 2), st.floats(-2, 2)),
    st.lists(st.floats(-50, 50), max_size=8),
)
def test_odd_phases_are_sums_over_a_basis_that_all_groups_share(tilt_mrad, zernike_rad):
    group = OpticsGroup("g", 1.0, 64, beam_tilt_mrad=tilt_mrad, odd_zernike=tuple(zernike_rad))
    other = OpticsGroup("h", 1.0, 64, cs_mm=0.5, beam_tilt_mrad=(1.0, 1.0))
    s = 0.4 * torch.randn(30, 2, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    coefficients = odd_coefficients((group, other), 8)
    found = coefficients @ odd_basis(s, 8)
    for phase, g in zip(found, (group, other), strict=True):
        expected = odd_phase(g, s)
        scale = 1 + float(expected.abs().max()) + sum(map(abs, zernike_rad))
        np.testing.assert_allclose(phase, expected, atol=1e-12 * scale)
