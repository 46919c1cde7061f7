"""Volumes in cylindrical coordinates: each section's angular Fourier series at chosen radii.

Sections are evaluated by their own Fourier series (non-uniform transforms), not by interpolation,
and radii are the nodes of a Gauss rule: from sections to angular orders and back is exact to the
transforms' accuracy, for what lies within the cylinder.
"""

import math
from dataclasses import dataclass

import finufft
import numpy as np
import torch
from jaxtyping import Complex, Float
from torch import Tensor

from cryorefine.compiled import in_threads
from cryorefine.fourier.fft import fast_even_length

__all__ = ["CylindricalGrid", "angular_orders", "cylindrical_grid", "sections_from_orders"]

_ACCURACY = 1e-5
"""Of the non-uniform transforms, relative: a hundredth of what single precision maps are good to
after a reconstruction."""

_MARGIN = 12
"""Nodes and angular orders beyond what the oscillations at Nyquist ask for, where Bessel functions
of order n at argument n have fallen below the accuracy."""

_SLAB = 8
"""Sections that are transformed at once: 8 × 170,000 points take 11 MB at 256 px."""


@dataclass(frozen=True, eq=False)
class CylindricalGrid:
    """Points of a section at which volumes are sampled.

    Attributes
    ----------
    size_px
        Side of the volumes.
    radius_px
        (r,): nodes of a Gauss-Legendre rule from 0 to the cylinder's radius.
    weight
        (r,): of the rule, times the radius: sums over nodes are integrals of ``r dr``.
    n_angles
        Angles of a circle, even; orders run from 0 to half of them.
    """

    size_px: int
    radius_px: Float[np.ndarray, "r"]
    weight: Float[np.ndarray, "r"]
    n_angles: int

    @property
    def n_orders(self) -> int:
        """Number of angular orders, from 0."""
        return self.n_angles // 2 + 1

    def points(self) -> tuple[np.ndarray, np.ndarray]:
        """Return (y, x) of all points, radius slowest, in radians of the section's side."""
        angle = np.arange(self.n_angles) * (2 * math.pi / self.n_angles)
        scale = 2 * math.pi / self.size_px * self.radius_px[:, None]
        y, x = scale * np.sin(angle), scale * np.cos(angle)
        return (
            np.ascontiguousarray(y.ravel(), dtype=np.float32),
            np.ascontiguousarray(x.ravel(), dtype=np.float32),
        )


def cylindrical_grid(size_px: int, radius_px: float) -> CylindricalGrid:
    """Return the points that hold all of a section up to Nyquist within a radius.

    Raises
    ------
    ValueError
        If the radius is not positive or beyond the half side.
    """
    if not 0 < radius_px <= size_px / 2:
        raise ValueError(f"radius {radius_px:g} px in a box of {size_px} px")
    # A product of two waves up to Nyquist oscillates by 2π a pixel. n nodes integrate polynomials
    # of degree 2n - 1, and a wave over [0, R] is one of degree 2π R / 2.
    nodes, weights = np.polynomial.legendre.leggauss(math.ceil(math.pi * radius_px / 2) + _MARGIN)
    radius = (nodes + 1) * radius_px / 2
    # Orders reach to 2π (1/2) R, and as far again on the other side.
    n_angles = fast_even_length(2 * math.pi * radius_px + 2 * _MARGIN)
    return CylindricalGrid(size_px, radius, radius * weights * radius_px / 2, n_angles)


def _circle(size_px: int) -> np.ndarray:
    """Return which coefficients of a section, frequency zero in the middle, lie below Nyquist."""
    k = np.arange(size_px) - size_px // 2
    return k[:, None] ** 2 + k[None] ** 2 <= ((size_px - 1) / 2) ** 2


def _plan(kind: int, grid: CylindricalGrid, n: int) -> finufft.Plan:
    plan = finufft.Plan(
        kind,
        (grid.size_px, grid.size_px),
        n_trans=n,
        eps=_ACCURACY,
        isign=1 if kind == 2 else -1,
        dtype="complex64",
        nthreads=1,
    )
    plan.setpts(*grid.points())
    return plan


def _slabs(n: int) -> list[tuple[int, int, int]]:
    """Return (first, middle, end) of pairs of equal runs of sections; the last may be uneven."""
    found = []
    for start in range(0, n, 2 * _SLAB):
        end = min(start + 2 * _SLAB, n)
        found.append((start, start + (end - start + 1) // 2, end))
    return found


def _in_slabs(work, n: int) -> None:
    slabs = _slabs(n)

    def part(begin: int, end: int) -> None:
        for slab in slabs[begin:end]:
            work(*slab)

    in_threads(part, len(slabs))


def angular_orders(
    volume: Float[Tensor, "z y x"], grid: CylindricalGrid
) -> Complex[Tensor, "n z r"]:
    """Return ``G_n(z, r) = 1/2π ∫ V exp(-i n φ) dφ``, φ from x towards y, for orders from 0.

    Coefficients of a section beyond the circle of Nyquist are left out. Cost: a few seconds for
    256 sections of 256 px.
    """
    size, n_r = grid.size_px, len(grid.radius_px)
    keep = _circle(size)
    values = volume.numpy()
    out = torch.empty(grid.n_orders, len(values), n_r, dtype=torch.complex64)

    def work(first: int, middle: int, end: int) -> None:
        # Two real sections at once, as real and imaginary part: their series is the same sum.
        pair = np.zeros((middle - first, size, size), np.complex64)
        pair.real = values[first:middle]
        pair[: end - middle].imag = values[middle:end]
        spectra = np.fft.fftshift(
            np.fft.fft2(np.fft.ifftshift(pair, axes=(1, 2))), axes=(1, 2)
        ).astype(np.complex64)
        spectra *= keep / size**2
        found = _plan(2, grid, middle - first).execute(spectra)
        polar = torch.from_numpy(found.reshape(middle - first, n_r, grid.n_angles))
        for part, begin, stop in ((polar.real, first, middle), (polar.imag, middle, end)):
            if stop > begin:
                series = torch.fft.rfft(part[: stop - begin].contiguous()) / grid.n_angles
                out[:, begin:stop] = series.permute(2, 0, 1)

    _in_slabs(work, len(values))
    return out


def sections_from_orders(
    orders: Complex[Tensor, "n z r"], grid: CylindricalGrid
) -> Float[Tensor, "z y x"]:
    """Return the volume of angular orders, zero outside the cylinder; see :func:`angular_orders`.

    Up to Nyquist it is what the orders hold, if they fall off smoothly at the cylinder's radius.
    """
    size, n_z, n_r = grid.size_px, orders.shape[1], len(grid.radius_px)
    keep = _circle(size)
    weight = torch.from_numpy(grid.weight * (2 * math.pi / grid.n_angles)).float()[:, None]
    out = torch.empty(n_z, size, size)

    def work(first: int, middle: int, end: int) -> None:
        pair = torch.zeros(middle - first, n_r, grid.n_angles, dtype=torch.complex64)
        for part, begin, stop in ((pair.real, first, middle), (pair.imag, middle, end)):
            if stop > begin:
                series = orders[:, begin:stop].permute(1, 2, 0).contiguous()
                polar = torch.fft.irfft(series, n=grid.n_angles) * grid.n_angles
                part[: stop - begin] = polar * weight
        points = pair.numpy().reshape(middle - first, -1)
        spectra = _plan(1, grid, middle - first).execute(points).reshape(-1, size, size) * keep
        sections = np.fft.fftshift(
            np.fft.ifft2(np.fft.ifftshift(spectra, axes=(1, 2))), axes=(1, 2)
        )
        found = torch.from_numpy(sections.astype(np.complex64))
        out[first:middle] = found.real
        out[middle:end] = found[: end - middle].imag

    _in_slabs(work, n_z)
    return out
