import math
from dataclasses import fields

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import j0

from cryorefine.optics.ctf import Defocus, contrast_transfer, envelope, image_frequencies
from cryorefine.optics.group import Envelope, OpticsGroup
from cryorefine.units import electron_wavelength_A

NONE = Envelope()
EPS32 = float(np.finfo(np.float32).eps)


def _group(**changes) -> OpticsGroup:
    return OpticsGroup(**{"name": "g", "pixel_A": 1.1, "box_px": 64, **changes})


def _defocus(u_A, v_A=None, angle_rad=0.0, phase=0.0, bfactor=0.0, scale=1.0) -> Defocus:
    values = (u_A, u_A if v_A is None else v_A, angle_rad, phase, bfactor, scale)
    tensors = torch.broadcast_tensors(*(torch.as_tensor(v, dtype=torch.float64) for v in values))
    return Defocus(*tensors)


def _along(s_per_A: float, angle_rad: float = 0.0) -> torch.Tensor:
    return torch.tensor(
        [[s_per_A * math.cos(angle_rad), s_per_A * math.sin(angle_rad)]], dtype=torch.float64
    )


def _minus_sine_gamma(
    sx: float,
    sy: float,
    *,
    u_A: float,
    v_A: float,
    angle_rad: float,
    voltage_kV: float,
    cs_mm: float,
    q: float,
    phase: float,
    bfactor: float,
    scale: float,
) -> float:
    """Return RELION's -sin γ, written with an arc tangent of the direction, one value at a time."""
    volts = 1e3 * voltage_kV
    wavelength = 12.2643247 / math.sqrt(volts * (1 + 0.978466e-6 * volts))
    u2 = sx * sx + sy * sy
    z = (u_A + v_A) / 2 + (u_A - v_A) / 2 * math.cos(2 * (math.atan2(sy, sx) - angle_rad))
    gamma = -math.pi * wavelength * z * u2
    gamma += math.pi / 2 * (cs_mm * 1e7) * wavelength**3 * u2**2
    gamma -= math.atan(q / math.sqrt(1 - q * q)) + phase
    return -math.sin(gamma) * scale * math.exp(-bfactor / 4 * u2)


def test_the_wavelength_at_300_kv_is_0_0196876_angstrom():
    assert abs(electron_wavelength_A(300.0) - 0.0196876) < 0.5e-7
    # Within the digits of the formula's constants, those of the relativistic de Broglie formula.
    h, c, m, e = 6.62607015e-34, 299792458.0, 9.1093837e-31, 1.602176634e-19
    for voltage_kV in (100.0, 200.0, 300.0):
        energy = voltage_kV * 1e3 * e
        exact_A = 1e10 * h * c / math.sqrt(energy * (2 * m * c * c + energy))
        assert abs(electron_wavelength_A(voltage_kV) / exact_A - 1) < 1e-5


@pytest.mark.parametrize("q", [0.0, 0.07, 0.1, 1.0])
def test_at_zero_frequency_the_ctf_is_plus_the_amplitude_contrast(q):
    group = _group(amplitude_contrast=q)
    found = contrast_transfer(group, _defocus(15000.0, 14000.0, 0.5), _along(0.0))
    assert abs(float(found) - q) < 1e-15


def test_the_first_zero_lies_where_the_phase_reaches_half_a_turn():
    group = _group(cs_mm=2.7, amplitude_contrast=0.1)
    wavelength, z, cs_A = group.wavelength_A, 15000.0, 2.7e7
    # π λ z x - π/2 Cs λ³ x² + asin Q = π, a quadratic in x = s².
    a, b, c = (
        math.pi / 2 * cs_A * wavelength**3,
        -math.pi * wavelength * z,
        math.pi - math.asin(0.1),
    )
    zero = math.sqrt((-b - math.sqrt(b * b - 4 * a * c)) / (2 * a))
    assert abs(1 / zero - 17.4) < 0.1  # Å: a zero between 17 and 18 Å at 1.5 µm underfocus

    def ctf(s: float) -> float:
        return float(contrast_transfer(group, _defocus(z), _along(s)))

    assert abs(ctf(zero)) < 1e-12
    assert ctf(zero * 0.99) > 0 > ctf(zero * 1.01)
    assert all(ctf(zero * t) > 0 for t in np.linspace(0, 0.999, 50))


@given(
    s=st.tuples(st.floats(-0.45, 0.45), st.floats(-0.45, 0.45)),
    u_A=st.floats(-5000, 40000),
    difference_A=st.floats(-3000, 3000),
    angle_rad=st.floats(-4, 4),
    voltage_kV=st.sampled_from([100.0, 200.0, 300.0]),
    cs_mm=st.floats(0, 3),
    q=st.floats(0, 0.99),
    phase=st.floats(0, math.pi),
    bfactor=st.floats(-20, 200),
    scale=st.floats(0.1, 2),
)
def test_the_ctf_is_relions_minus_sine_of_gamma(
    s, u_A, difference_A, angle_rad, voltage_kV, cs_mm, q, phase, bfactor, scale
):
    v_A = u_A + difference_A
    group = _group(voltage_kV=voltage_kV, cs_mm=cs_mm, amplitude_contrast=q)
    found = contrast_transfer(
        group,
        _defocus(u_A, v_A, angle_rad, phase, bfactor, scale),
        torch.tensor([s], dtype=torch.float64),
    )
    expected = _minus_sine_gamma(
        *s, u_A=u_A, v_A=v_A, angle_rad=angle_rad, voltage_kV=voltage_kV, cs_mm=cs_mm, q=q,
        phase=phase, bfactor=bfactor, scale=scale,
    )  # fmt: skip
    # Phases up to 2,000 rad in double precision, times a damping of at most e² · 2.
    assert abs(float(found) - expected) < 1e-10


# Values of torch-ctf 0.6.0 from PyPI, calculate_ctf_2d in single precision, for 64 pixels of
# 1.3 Å, 300 kV, Cs 2.7 mm, Q 0.1, defocus 1.5 ± 0.1 µm at 30°: (kx, ky), without phase plate and
# with one of 40°.
TORCH_CTF = [
    ((0, 0), 0.1000000, 0.7161701),
    ((5, 0), -0.4046962, -0.8978130),
    ((11, 3), -0.4162121, 0.2656288),
    ((13, -9), 0.3436035, 0.8668669),
    ((4, -20), 0.9945713, 0.8287726),
    ((28, 31), -0.1447377, 0.5251467),
]


@pytest.mark.parametrize(("k", "plain", "with_plate"), TORCH_CTF)
def test_the_ctf_agrees_with_torch_ctf(k, plain, with_plate):
    group = _group(pixel_A=1.3, cs_mm=2.7, amplitude_contrast=0.1)
    s = image_frequencies(group, torch.tensor([k], dtype=torch.float64))
    angle, plate = math.radians(30.0), math.radians(40.0)
    # torch-ctf takes the wavelength from the constants of nature, 6.4e-6 shorter: the phase
    # differs by that fraction of the defocus term and thrice that of the spherical one.
    s2 = float(s.square().sum())
    defocus_phase = math.pi * group.wavelength_A * 16000 * s2
    spherical_phase = math.pi / 2 * 2.7e7 * group.wavelength_A**3 * s2 * s2
    bound = 6.5e-6 * (defocus_phase + 3 * spherical_phase) + 1e-5
    for phase, expected in ((0.0, plain), (plate, with_plate)):
        defocus = _defocus(16000.0, 14000.0, angle, phase)
        assert abs(float(contrast_transfer(group, defocus, s)) - expected) < bound


@given(st.floats(5000, 30000), st.floats(-2000, 2000), st.floats(-3, 3))
def test_swapping_the_principal_defoci_is_turning_their_axis_by_90_degrees(u_A, difference, angle):
    s = torch.from_numpy(np.random.default_rng(0).uniform(-0.3, 0.3, (50, 2)))
    one = contrast_transfer(_group(), _defocus(u_A, u_A + difference, angle), s)
    other = contrast_transfer(_group(), _defocus(u_A + difference, u_A, angle + math.pi / 2), s)
    np.testing.assert_allclose(one, other, atol=1e-10)


@pytest.mark.parametrize("angle_deg", [0.0, 30.0, 90.0, 135.0])
def test_along_the_axis_of_u_the_defocus_is_u_and_across_it_v(angle_deg):
    angle, s = math.radians(angle_deg), 0.2
    stigmatic = _defocus(torch.tensor([12000.0, 10000.0]))
    along_u, along_v = contrast_transfer(_group(), stigmatic, _along(s))[:, 0].tolist()
    assert abs(along_u - along_v) > 0.1  # or the test could not tell
    defocus = _defocus(12000.0, 10000.0, angle)
    assert abs(float(contrast_transfer(_group(), defocus, _along(s, angle))) - along_u) < 1e-10
    across = _along(s, angle + math.pi / 2)
    assert abs(float(contrast_transfer(_group(), defocus, across)) - along_v) < 1e-10
    if angle_deg == 30.0:
        wrong_sense = float(contrast_transfer(_group(), defocus, _along(s, -angle)))
        assert abs(wrong_sense - along_u) > 0.1


def test_the_ctf_of_plain_aberrations_is_the_same_at_s_and_minus_s():
    s = torch.from_numpy(np.random.default_rng(1).uniform(-0.4, 0.4, (100, 2)))
    group = _group(even_zernike=(0.1, 3.0, -2.0, 5.0, 20.0))
    defocus = _defocus(15000.0, 14000.0, 0.3)
    plus, minus = contrast_transfer(group, defocus, s), contrast_transfer(group, defocus, -s)
    np.testing.assert_allclose(plus, minus, atol=1e-12)


def test_a_quarter_turn_of_phase_turns_sine_into_cosine():
    s = torch.from_numpy(np.random.default_rng(2).uniform(-0.3, 0.3, (100, 2)))
    group = _group(amplitude_contrast=0.0)
    plain = contrast_transfer(group, _defocus(12000.0), s)
    turned = contrast_transfer(group, _defocus(12000.0, phase=math.pi / 2), s)
    np.testing.assert_allclose(plain**2 + turned**2, 1.0, atol=1e-12)
    assert (
        abs(float(contrast_transfer(group, _defocus(0.0, phase=1.0), _along(0.0))) - math.sin(1))
        < 1e-15
    )


def test_b_factor_and_scale_multiply_the_ctf():
    s = torch.from_numpy(np.random.default_rng(3).uniform(-0.3, 0.3, (100, 2)))
    plain = contrast_transfer(_group(), _defocus(12000.0), s)
    damped = contrast_transfer(_group(), _defocus(12000.0, bfactor=80.0, scale=1.7), s)
    expected = plain * 1.7 * (-20.0 * s.square().sum(1)).exp()
    np.testing.assert_allclose(damped, expected, atol=1e-14)


def test_an_even_zernike_phase_is_taken_from_chi():
    # The polynomial (0, 0) is one everywhere: a constant phase, of RELION's sign in -sin γ.
    s = torch.from_numpy(np.random.default_rng(4).uniform(-0.3, 0.3, (20, 2)))
    with_zernike = contrast_transfer(_group(even_zernike=(0.4,)), _defocus(12000.0, phase=0.4), s)
    plain = contrast_transfer(_group(), _defocus(12000.0), s)
    np.testing.assert_allclose(with_zernike, plain, atol=1e-12)


def test_images_without_ctf_have_ones():
    s = torch.zeros(4, 2)
    found = contrast_transfer(_group(has_ctf=False), _defocus(torch.zeros(2, 3)), s)
    assert torch.equal(found, torch.ones(2, 3, 4))


@pytest.mark.parametrize("shape", [(), (0,), (1,), (2, 3)])
@pytest.mark.parametrize("has_ctf", [True, False])
def test_every_particle_gets_its_row_in_the_precision_of_the_frequencies(shape, has_ctf):
    group = _group(has_ctf=has_ctf)
    defocus = _defocus(torch.linspace(8000.0, 20000.0, math.prod(shape)).reshape(shape))
    for dtype in (torch.float32, torch.float64):
        found = contrast_transfer(group, defocus, torch.zeros(5, 2, dtype=dtype))
        assert found.shape == (*shape, 5)
        assert found.dtype == dtype
    assert contrast_transfer(group, defocus, torch.zeros(0, 2)).shape == (*shape, 0)


def test_in_single_precision_the_ctf_is_right_to_1e_4_up_to_300_radians():
    # 3 µm of underfocus at 2.6 Å, the bound that the function states.
    rng = np.random.default_rng(5)
    direction = rng.uniform(0, 2 * math.pi, 20_000)
    radius = np.sqrt(rng.uniform(0, (1 / 2.6) ** 2, 20_000))
    s = torch.from_numpy(radius * np.stack([np.cos(direction), np.sin(direction)])).T.float()
    group = _group(cs_mm=2.7, amplitude_contrast=0.1)
    defocus = _defocus(30000.0, 29500.0, 0.7)
    largest = math.pi * group.wavelength_A * 30000 / 2.6**2
    assert 250 < largest < 300
    single = contrast_transfer(group, defocus, s)
    double = contrast_transfer(group, defocus, s.double())
    assert single.dtype == torch.float32
    assert float((single - double).abs().max()) < 1e-4


def test_frequencies_are_cycles_per_box_over_the_box_in_angstrom():
    k = torch.tensor([[3.0, -4.0]], dtype=torch.float64)
    found = image_frequencies(_group(pixel_A=1.25, box_px=80), k)
    np.testing.assert_allclose(found, [[0.03, -0.04]], rtol=1e-14)


def test_the_magnification_matrix_multiplies_columns_of_x_and_y():
    group = _group(pixel_A=1.0, box_px=10, magnification=(1.02, 0.01, -0.03, 0.98))
    k = torch.tensor([[1.0, 0.0], [0.0, 1.0], [2.0, -3.0]], dtype=torch.float64)
    expected = np.array([[0.102, -0.003], [0.001, 0.098], [0.201, -0.300]])
    np.testing.assert_allclose(image_frequencies(group, k), expected, atol=1e-15)
    assert not group.is_magnification_isotropic
    assert _group().is_magnification_isotropic


# One term at a time, with numbers large enough to damp by tens of percent, and all together.
TERMS = {
    "energy spread": {"chromatic_mm": 2.0, "energy_loss_eV": 3.0},
    "lens current": {"chromatic_mm": 2.0, "lens_stability_ppm": 5.0},
    "longitudinal": {"longitudinal_A": 300.0},
    "transversal": {"transversal_A": 2.0},
    "convergence": {"convergence_mrad": 0.05},
}
TERMS["all"] = {name: value for term in TERMS.values() for name, value in term.items()}


def _envelope_by_scalars(e: Envelope, s: float, z_A: float) -> float:
    """Return the envelope of 300 kV and Cs 2.7 mm as the formulas of Xmipp's CTF model have it."""
    wavelength = electron_wavelength_A(300.0)
    spread = e.energy_loss_eV / 300e3 + 2 * e.lens_stability_ppm * 1e-6
    out = math.exp(
        -((math.pi / 4 * e.chromatic_mm * 1e7 * wavelength * spread) ** 2) * s**4 / math.log(2)
    )
    out *= float(j0(math.pi * e.longitudinal_A * wavelength * s * s))
    x = math.pi * s * e.transversal_A
    out *= math.sin(x) / x if x else 1.0
    slope = 2.7e7 * wavelength**2 * s**3 - z_A * s
    out *= math.exp(-((math.pi * e.convergence_mrad * 1e-3) ** 2) * slope**2)
    return max(out, 0.0)


@pytest.mark.parametrize("term", TERMS)
def test_each_envelope_term_is_its_formula(term):
    e = Envelope(**TERMS[term])
    group, plain = _group(envelope=e), _group()
    radii = np.linspace(0.0, 0.45, 46)
    expected = np.array([_envelope_by_scalars(e, s, 15000.0) for s in radii])
    assert expected.min() < 0.8  # or the term would do nothing
    s = torch.from_numpy(np.stack([radii * math.cos(0.4), radii * math.sin(0.4)], -1))
    s2 = s.square().sum(1)
    found = envelope(group, (15000.0 * s2)[None], s2)
    np.testing.assert_allclose(found.expand(1, 46)[0], expected, atol=1e-10)
    ctf = contrast_transfer(group, _defocus(15000.0), s)
    without = contrast_transfer(plain, _defocus(15000.0), s).numpy()
    np.testing.assert_allclose(ctf, without * expected, atol=1e-10)


@pytest.mark.parametrize("term", TERMS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_envelope_term_is_one_at_zero_frequency(term, dtype):
    group = _group(envelope=Envelope(**TERMS[term]))
    found = contrast_transfer(group, _defocus(15000.0), torch.zeros(1, 2, dtype=dtype))
    assert abs(float(found) - 0.1) < 4 * torch.finfo(dtype).eps


def test_the_convergence_term_follows_the_astigmatic_defocus():
    group = _group(envelope=Envelope(convergence_mrad=0.05))
    defocus, s = _defocus(20000.0, 10000.0, math.pi / 2), 0.15
    for angle, z_A in ((math.pi / 2, 20000.0), (0.0, 10000.0)):
        plain = contrast_transfer(_group(), defocus, _along(s, angle))
        found = contrast_transfer(group, defocus, _along(s, angle))
        expected = _envelope_by_scalars(group.envelope, s, z_A)
        assert abs(float(found / plain) - expected) < 1e-9


def test_the_envelope_is_never_negative():
    # J0 and the sinc change sign; contrast that they would invert is taken as lost.
    group = _group(envelope=Envelope(longitudinal_A=2000.0, transversal_A=9.0))
    s2 = torch.linspace(0, 0.2, 500, dtype=torch.float64)
    assert float(envelope(group, s2[None], s2).min()) == 0.0


def test_no_envelope_is_one_exactly():
    assert all(getattr(NONE, f.name) == 0 for f in fields(NONE))
    s2 = torch.linspace(0, 0.2, 50)
    assert torch.equal(envelope(_group(), 1e4 * s2[None], s2), torch.ones(50))
