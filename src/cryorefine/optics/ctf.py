"""The contrast transfer function."""

import math
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from cryorefine.optics.aberration import even_phase
from cryorefine.optics.group import OpticsGroup
from cryorefine.units import MM_TO_A, MRAD

__all__ = [
    "Defocus",
    "contrast_transfer",
    "contrast_transfer_and_slopes",
    "division_by_transfer",
    "envelope",
    "image_frequencies",
]

_NEAR_ZERO = 0.05**2
"""Square of the CTF below which division is damped; ``docs/mathematics.md`` says what it leaves of
signal and noise. The value is not measured."""


@dataclass(frozen=True, eq=False)
class Defocus:
    """Per-particle CTF values, tensors of one shape.

    Attributes
    ----------
    u_A, v_A
        Defocus along the two principal axes in ångströms, positive for underfocus.
    angle_rad
        From the image's x axis to the axis of ``u_A``, towards y.
    phase_shift_rad
        Of a phase plate.
    bfactor_A2
        Amplitudes fall as ``exp(-B s² / 4)``.
    scale
        Overall factor.
    """

    u_A: Float[Tensor, "*b"]
    v_A: Float[Tensor, "*b"]
    angle_rad: Float[Tensor, "*b"]
    phase_shift_rad: Float[Tensor, "*b"]
    bfactor_A2: Float[Tensor, "*b"]
    scale: Float[Tensor, "*b"]


def image_frequencies(group: OpticsGroup, k: Float[Tensor, "p 2"]) -> Float[Tensor, "p 2"]:
    """Return spatial frequencies in 1/Å, magnification matrix applied.

    Parameters
    ----------
    k
        Frequencies (x, y) in cycles per box.
    """
    m = torch.tensor(group.magnification, dtype=k.dtype, device=k.device).view(2, 2)
    return (k / group.box_A) @ m.T


def contrast_transfer(
    group: OpticsGroup, defocus: Defocus, s: Float[Tensor, "p 2"]
) -> Float[Tensor, "*b p"]:
    """Return the CTF of each particle at spatial frequencies.

    ``CTF = K E [sqrt(1 - Q²) sin χ + Q cos χ]`` with
    ``χ = π λ z s² - π/2 Cs λ³ s⁴ + phase shift - even aberrations`` and
    ``z = (U + V)/2 + (U - V)/2 cos 2(θ - θ_az)``, so that CTF(0) = +Q: particles are white.
    It equals RELION's ``-sin γ``.

    Parameters
    ----------
    s
        Frequencies (x, y) in 1/Å, from :func:`image_frequencies`.

    Returns
    -------
    Real values in the dtype of ``s``; ones where the group has no CTF. Of images that have been
    phase-flipped, the absolute value; of images that have been multiplied by their CTF, the
    transfer that is left after :func:`division_by_transfer`.

    Notes
    -----
    In float32 the error stays below 1e-4 for phases up to 300 rad (3 µm at 2.6 Å).

    References
    ----------
    .. [1] Wade (1992) Ultramicroscopy 46, 145.
    """
    if not group.has_ctf:
        return torch.ones((*defocus.u_A.shape, len(s)), dtype=s.dtype, device=s.device)
    chi, damping = _phase_and_damping(group, defocus, s)
    c = chi.sin() * damping
    if group.correction == "phase_flipped":
        return c.abs()
    if group.correction == "premultiplied":
        return c**3 / (c.square() + _NEAR_ZERO)
    return c


def division_by_transfer(
    group: OpticsGroup, defocus: Defocus, s: Float[Tensor, "p 2"]
) -> Float[Tensor, "*b p"]:
    """Return what brings images that were multiplied by their CTF back to white noise.

    ``c / (c² + ε²)`` with ε = 0.05: the coefficients then are :func:`contrast_transfer` times the
    object plus noise of at most its original variance, less near the zeros, where there is next
    to no signal.
    """
    c = contrast_transfer(replace(group, correction="none"), defocus, s)
    return c / (c.square() + _NEAR_ZERO)


def contrast_transfer_and_slopes(
    group: OpticsGroup, defocus: Defocus, s: Float[Tensor, "p 2"]
) -> tuple[Float[Tensor, "*b p"], Float[Tensor, "*b p 3"]]:
    """Return the CTF, and its derivatives by mean defocus and the two parts of the astigmatism.

    The parts are ``(U - V)/2`` times the cosine and the sine of twice the astigmatism's angle.
    The derivatives are per Å; the convergence envelope is taken as constant. Zero without a CTF,
    and for images that were multiplied by it, which hold no other defocus.
    """
    if not group.has_ctf or group.correction == "premultiplied":
        c = contrast_transfer(group, defocus, s)
        return c, c.new_zeros((*c.shape, 3))
    chi, damping = _phase_and_damping(group, defocus, s)
    x, y = s.unbind(1)
    directions = torch.stack([x * x + y * y, x * x - y * y, 2 * x * y], 1)
    slopes = (chi.cos() * damping)[..., None] * (math.pi * group.wavelength_A * directions)
    c = chi.sin() * damping
    if group.correction == "phase_flipped":
        return c.abs(), slopes * c.sign()[..., None]
    return c, slopes


def _phase_and_damping(
    group: OpticsGroup, defocus: Defocus, s: Float[Tensor, "p 2"]
) -> tuple[Float[Tensor, "*b p"], Float[Tensor, "*b p"]]:
    wavelength = group.wavelength_A
    x2, y2, xy = s[:, 0] ** 2, s[:, 1] ** 2, s[:, 0] * s[:, 1]
    s2 = x2 + y2

    def column(values: Tensor) -> Tensor:
        return values.to(s)[..., None]

    u, v, angle = column(defocus.u_A), column(defocus.v_A), column(defocus.angle_rad)
    mean, half_difference = 0.5 * (u + v), 0.5 * (u - v)
    # z s² without an arc tangent: s² cos 2(θ - a) = (x² - y²) cos 2a + 2 x y sin 2a.
    z_s2 = mean * s2 + half_difference * (
        (x2 - y2) * (2 * angle).cos() + 2 * xy * (2 * angle).sin()
    )
    constant = -0.5 * math.pi * group.cs_mm * MM_TO_A * wavelength**3 * s2 * s2 - even_phase(
        group, s
    )
    amplitude_phase = math.asin(group.amplitude_contrast)
    chi = (
        math.pi * wavelength * z_s2 + constant + (column(defocus.phase_shift_rad) + amplitude_phase)
    )
    damping = column(defocus.scale) * torch.ones_like(s2)
    if group.has_envelope:
        damping = damping * (column(defocus.bfactor_A2) * (-0.25 * s2)).exp()
        damping = damping * envelope(group, z_s2, s2)
    return chi, damping


def envelope(
    group: OpticsGroup, z_s2: Float[Tensor, "*b p"], s2: Float[Tensor, "p"]
) -> Float[Tensor, "*#b p"]:
    """Return the physical envelope, the product of four damping terms (1 where none is set).

    Energy spread ``exp(-[π/4 Ca λ (dE/E + 2 dI/I)]² s⁴ / ln 2)``, longitudinal displacement
    ``J0(π ΔF λ s²)``, transversal displacement ``sinc(s ΔR)``, convergence
    ``exp(-π² α² (Cs λ² s³ - z s)²)``.

    Parameters
    ----------
    z_s2
        Defocus along the direction of s, times s².
    """
    e, wavelength = group.envelope, group.wavelength_A
    out = torch.ones_like(s2)
    spread = e.energy_loss_eV / (group.voltage_kV * 1e3) + 2 * e.lens_stability_ppm * 1e-6
    if e.chromatic_mm and spread:
        a = math.pi / 4 * e.chromatic_mm * MM_TO_A * wavelength * spread
        out = out * (-(a * a) * s2 * s2 / math.log(2)).exp()
    if e.longitudinal_A:
        out = out * torch.special.bessel_j0(math.pi * e.longitudinal_A * wavelength * s2)
    if e.transversal_A:
        out = out * torch.sinc(s2.sqrt() * e.transversal_A)
    if e.convergence_mrad:
        # (Cs λ² s³ - z s)² = (Cs λ² s⁴ - z s²)² / s²: the form that has z s² at hand.
        b = group.cs_mm * MM_TO_A * wavelength**2
        alpha = e.convergence_mrad * MRAD
        slope2 = (b * s2 * s2 - z_s2).square() / s2.clamp_min(1e-20)
        out = out * (-((math.pi * alpha) ** 2) * slope2).exp()
    return out.clamp_min(0.0)
