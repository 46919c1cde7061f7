"""Higher-order aberrations as Zernike polynomials of the spatial frequency in 1/Å."""

import math
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from cryorefine.optics.group import OpticsGroup
from cryorefine.units import MM_TO_A, MRAD

__all__ = [
    "even_index",
    "even_phase",
    "odd_basis",
    "odd_coefficients",
    "odd_index",
    "odd_phase",
    "zernike",
]


def even_index(i: int) -> tuple[int, int]:
    """Return (m, n) of the i-th even polynomial, RELION's order: (0,0), (-2,2), (0,2)..."""
    k = math.isqrt(i)
    return 2 * (i - k * k - k), 2 * k


def odd_index(i: int) -> tuple[int, int]:
    """Return (m, n) of the i-th odd polynomial, RELION's order: (-1,1), (1,1), (-3,3)..."""
    k = (math.isqrt(1 + 4 * i) - 1) // 2
    return 2 * (i - k * k - k) - (2 * k + 1), 2 * k + 1


def zernike(m: int, n: int, s: Float[Tensor, "*p 2"]) -> Float[Tensor, "*p"]:
    """Return the Zernike polynomial (m, n) at Cartesian points, not normalised: R(1) = 1.

    ``R(ρ) cos(m φ)`` for m ≥ 0 and ``R(ρ) sin(|m| φ)`` for m < 0, φ from x towards y.
    """
    rho2 = s.square().sum(-1)
    a = abs(m)
    # ρ^a cos(aφ) and ρ^a sin(aφ) are the parts of (x + iy)^a: no angle is ever computed.
    angular = torch.complex(s[..., 0], s[..., 1]) ** a if a else torch.ones_like(rho2) + 0j
    radial = torch.zeros_like(rho2)
    for k in range((n - a) // 2 + 1):
        coefficient = (-1) ** k * math.factorial(n - k)
        coefficient //= (
            math.factorial(k) * math.factorial((n + a) // 2 - k) * math.factorial((n - a) // 2 - k)
        )
        radial = radial + coefficient * rho2 ** ((n - a) // 2 - k)
    return radial * (angular.imag if m < 0 else angular.real)


def _sum(
    coefficients: Sequence[float], index: Callable[[int], tuple[int, int]], s: Tensor
) -> Tensor:
    total = torch.zeros_like(s[..., 0])
    for i, coefficient in enumerate(coefficients):
        if coefficient:
            m, n = index(i)
            total = total + coefficient * zernike(m, n, s)
    return total


def even_phase(group: OpticsGroup, s: Float[Tensor, "*p 2"]) -> Float[Tensor, "*p"]:
    """Return the symmetric phase in radians that RELION adds to γ in ``CTF = -sin γ``."""
    return _sum(group.even_zernike, even_index, s)


def odd_phase(group: OpticsGroup, s: Float[Tensor, "*p 2"]) -> Float[Tensor, "*p"]:
    """Return the antisymmetric phase in radians: images hold ``exp(i phase) CTF`` times the object.

    Sum of the odd Zernike terms and of the beam tilt's coma ``-2π Cs λ² |s|² (s·tilt)``.

    Parameters
    ----------
    s
        Spatial frequencies (x, y) in 1/Å, after the magnification matrix.
    """
    tilt = torch.tensor(group.beam_tilt_mrad, dtype=s.dtype, device=s.device) * MRAD
    coma = -2 * math.pi * group.cs_mm * MM_TO_A * group.wavelength_A**2
    return _sum(group.odd_zernike, odd_index, s) + coma * s.square().sum(-1) * (s @ tilt)


def odd_basis(s: Float[Tensor, "p 2"], n_zernike: int) -> Float[Tensor, "m p"]:
    """Return the functions that antisymmetric phases are sums of, for any optics group.

    The coma of a beam tilt along x and along y, ``|s|² s``, then so many Zernike polynomials.

    Parameters
    ----------
    s
        Spatial frequencies (x, y) in 1/Å, after the magnification matrix.
    """
    polynomials = [zernike(*odd_index(i), s) for i in range(n_zernike)]
    return torch.stack([*(s.square().sum(-1) * s.T), *polynomials])


def odd_coefficients(groups: Sequence[OpticsGroup], n_zernike: int) -> Float[Tensor, "g m"]:
    """Return what :func:`odd_basis` is multiplied by: the sums are :func:`odd_phase`, in radians.

    Parameters
    ----------
    n_zernike
        At least as many polynomials as any group has coefficients.
    """
    out = torch.zeros(len(groups), 2 + n_zernike, dtype=torch.float64)
    for row, group in zip(out, groups, strict=True):
        coma = -2 * math.pi * group.cs_mm * MM_TO_A * group.wavelength_A**2
        row[:2] = coma * MRAD * torch.tensor(group.beam_tilt_mrad, dtype=torch.float64)
        row[2 : 2 + len(group.odd_zernike)] = torch.tensor(group.odd_zernike, dtype=torch.float64)
    return out
