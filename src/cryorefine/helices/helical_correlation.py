"""Correlation of a map with itself turned about z and moved along z, and what speaks of a helix.

A helix shows in the correlation ``ρ(φ, z)`` as peaks at all ``(l twist, l rise)``. Only l ≠ 0
counts, and of those only copies farther away than the resolution: next to a place any map is like
itself, so that the smallest of steps would always win.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Complex, Float, Int
from scipy import ndimage
from torch import Tensor

from cryorefine.fourier.cylindrical import angular_orders, cylindrical_grid
from cryorefine.helices.helical_symmetry import central_window, soft_radius

__all__ = [
    "MIN_OVERLAP",
    "CentralPart",
    "HelicalCorrelation",
    "central_part",
    "circle_spline",
    "correlation_of",
    "measure_correlation",
    "on_circle",
    "peak_sum",
    "refined_series",
    "significance",
]

_FINER = 4
"""Points of the correlation for each half wave at its limit, along both axes: cubic splines
between them are right to (1/7)^4 of the amplitude, 4e-4."""

_MAX_WHOLE, _BLOCK = 1 << 26, 1 << 24
"""Coefficients of spectra that are worked on together, 24 bytes each, and of a part of those that
are more: as of a filament of 500 voxels' width with detail to Nyquist."""

MIN_OVERLAP = 0.1
"""Share of the central part that must still meet its copy: noise grows as one to its root."""


@dataclass(frozen=True, eq=False)
class HelicalCorrelation:
    """Correlation of a map with itself, turned and moved.

    Attributes
    ----------
    rho
        (z, φ): 1 at the origin. Rows begin at lag 0, columns go round the circle.
    spline
        Coefficients of ``rho`` for cubic splines, with its first columns again at the end.
    noise
        (z,): root mean square of each row over the circle and neighbouring rows, which is what
        copies at wrong angles have.
    overlap
        (z,): share of the central part that meets its copy.
    step_A, step_rad
        Of the rows and columns.
    radius_A
        Root mean square distance from the axis of what correlates.
    resolution_A
        Of the map.
    """

    rho: Float[np.ndarray, "z p"]
    spline: Float[np.ndarray, "z q"]
    noise: Float[np.ndarray, "z"]
    overlap: Float[np.ndarray, "z"]
    step_A: float
    step_rad: float
    radius_A: float
    resolution_A: float

    @property
    def longest_A(self) -> float:
        """Largest lag at which enough of the map meets its copy."""
        return float(np.flatnonzero(self.overlap >= MIN_OVERLAP)[-1]) * self.step_A

    def lags(self, rise_A: float, most: int | None = None) -> Int[np.ndarray, "l"]:
        """Return the numbers of steps that are used at a rise: from 1, at most so many."""
        n = math.floor(self.longest_A / rise_A + 1e-9)
        return np.arange(1, (n if most is None else min(n, most)) + 1)

    def overlap_at(self, lag_A: Float[np.ndarray, "l"]) -> Float[np.ndarray, "l"]:
        """Return the share of the central part that meets its copy."""
        return np.interp(lag_A, np.arange(len(self.overlap)) * self.step_A, self.overlap)

    def is_near(self, angle_rad: np.ndarray, lag_A: np.ndarray, fold: int) -> np.ndarray:
        """Tell which copies lie within the resolution of the place itself; arrays of any shape."""
        sector = 2 * math.pi / fold
        turned = np.abs((angle_rad + sector / 2) % sector - sector / 2) * self.radius_A
        return np.hypot(turned, lag_A) < self.resolution_A

    def at(
        self, angle_rad: Float[np.ndarray, "l"], lag_A: Float[np.ndarray, "l"], fold: int
    ) -> Float[np.ndarray, "l"]:
        """Return the correlation of copies, mean over those that an n-fold axis makes of each."""
        columns = self.rho.shape[1]
        turns = np.arange(fold)[:, None] * (2 * math.pi / fold)
        place = ((angle_rad + turns) / self.step_rad) % columns
        rows = np.broadcast_to(lag_A / self.step_A, place.shape)
        return on_circle(self.spline, rows, place).mean(0)


_PAD = 12
"""Columns repeated at both ends: the spline's memory, which falls by 0.27 a column."""


def circle_spline(rows: Float[np.ndarray, "z p"]) -> Float[np.ndarray, "z q"]:
    """Return coefficients of cubic splines of values whose columns go round the circle."""
    wrapped = np.concatenate([rows[:, -_PAD:], rows, rows[:, :_PAD]], 1)
    return ndimage.spline_filter(wrapped, order=3, mode="mirror")


def on_circle(spline: Float[np.ndarray, "z q"], row: np.ndarray, column: np.ndarray) -> np.ndarray:
    """Return values of :func:`circle_spline` at places, columns from 0 up to once round."""
    return ndimage.map_coordinates(
        spline, [row, column + _PAD], order=3, prefilter=False, mode="nearest"
    )


@dataclass(frozen=True, eq=False)
class CentralPart:
    """Angular orders of the middle of a filament, along z in Fourier space.

    Attributes
    ----------
    orders
        (n, z, r): from 0, sections weighted by the window.
    weight
        (r,): of integrals over radii within the cylinder.
    radius_px
        (r,): the radii.
    window
        (z,): weight of each section.
    finer
        Rows of a correlation for each section.
    """

    orders: Complex[Tensor, "n z r"]
    weight: Float[Tensor, "r"]
    radius_px: Float[np.ndarray, "r"]
    window: Float[Tensor, "z"]
    finer: int

    @property
    def size_px(self) -> int:
        """Number of sections."""
        return len(self.window)

    @property
    def padded(self) -> int:
        """Length of the spectra, which have room for all lags."""
        return 2 * self.size_px

    @property
    def n_angles(self) -> int:
        """Columns of a correlation."""
        return 2 * _FINER * len(self.orders)

    def spectra(self) -> Iterator[Complex[Tensor, "m k r"]]:
        """Yield the spectra along z of all orders, in parts where they are large."""
        size = self.padded * self.orders.shape[2]
        count = len(self.orders)
        step = count if count * size <= _MAX_WHOLE else max(1, _BLOCK // size)
        for begin in range(0, count, step):
            yield torch.fft.fft(self.orders[begin : begin + step], n=self.padded, dim=1)


def central_part(
    volume: Float[Tensor, "z y x"],
    *,
    voxel_A: float,
    radius_A: float,
    resolution_A: float,
    fraction: float,
) -> CentralPart:
    """Return what :func:`measure_correlation` compares, with its parameters."""
    n = volume.shape[-1]
    outer_px = radius_A / voxel_A
    edge_px = max(min(0.1 * outer_px, n / 2 - outer_px), 1.0)
    grid = cylindrical_grid(n, min(outer_px + edge_px, n / 2))
    orders = angular_orders(volume, grid)
    window = torch.from_numpy(central_window(n, fraction)).float()[:, None]
    orders[0] -= (orders[0] * window).sum(0) / window.sum()
    weight = torch.from_numpy(
        grid.weight * soft_radius(grid.radius_px, grid.radius_px[-1] - edge_px, edge_px) ** 2
    ).float()
    # Orders up to the resolution, and room for lags of the whole box.
    n_orders = min(math.ceil(2 * math.pi * radius_A / resolution_A) + 8, grid.n_orders)
    orders = orders[:n_orders].mul_(window)
    # Finer along z: more room in Fourier space; half of Nyquist would hold the resolution.
    finer = max(round(_FINER * voxel_A / (resolution_A / 2)), 1)
    return CentralPart(orders, weight, grid.radius_px, window[:, 0], finer)


def measure_correlation(
    volume: Float[Tensor, "z y x"],
    *,
    voxel_A: float,
    radius_A: float,
    resolution_A: float,
    fraction: float,
) -> HelicalCorrelation:
    """Correlate the central part of a map within a cylinder with itself.

    What is the same all round and all along is left out: it would be like itself for any step.

    Parameters
    ----------
    volume
        Filtered; see :func:`~cryorefine.helices.helical_search.prepared_map`.
    fraction
        Part of the box along z that is used, the middle.
    """
    part = central_part(
        volume, voxel_A=voxel_A, radius_A=radius_A, resolution_A=resolution_A, fraction=fraction
    )
    return correlation_of(part, voxel_A=voxel_A, resolution_A=resolution_A)


def correlation_of(part: CentralPart, *, voxel_A: float, resolution_A: float) -> HelicalCorrelation:
    """Correlate the central part of a map with itself; see :func:`measure_correlation`."""
    n, padded, fine = part.size_px, part.padded, part.finer
    parts, by_radius = [], torch.zeros(len(part.weight), dtype=torch.float64)
    for spectra in part.spectra():
        power = (spectra.real**2 + spectra.imag**2).double()
        by_radius += power.sum((0, 1))
        parts.append(power @ part.weight.double())
    by_radius *= part.weight
    series = torch.cat(parts)  # (n, Z)
    series[1:] *= 2
    lags = refined_series(series, padded, fine)[:, : n * fine]
    columns = part.n_angles
    angles = torch.zeros(n * fine, columns, dtype=torch.complex128)
    angles[:, : len(lags)] = lags.T
    rho = torch.fft.ifft(angles, dim=1, norm="forward").real.numpy()
    shape = refined_series(_overlap_power(part.window, padded), padded, fine)
    overlap = shape.real.numpy()[0, : n * fine]
    overlap = np.maximum(overlap / overlap[0], 1e-6)
    rho = (rho / rho[0, 0] / overlap[:, None]).astype(np.float64)
    rho[overlap < MIN_OVERLAP / 2] = 0
    step_A = voxel_A / fine
    return HelicalCorrelation(
        rho=rho,
        spline=circle_spline(rho),
        noise=_row_noise(rho, resolution_A / step_A),
        overlap=overlap,
        step_A=step_A,
        step_rad=2 * math.pi / columns,
        radius_A=voxel_A
        * math.sqrt(float((by_radius.numpy() * part.radius_px**2).sum() / by_radius.sum())),
        resolution_A=resolution_A,
    )


def _overlap_power(window: Tensor, padded: int) -> Tensor:
    spectrum = torch.fft.fft(window.double(), n=padded)
    return (spectrum.real**2 + spectrum.imag**2)[None]


def refined_series(series: Tensor, padded: int, fine: int) -> Tensor:
    """Return what spectra along z are of lags, so many times as finely spaced as sections."""
    wide = torch.zeros(len(series), padded * fine, dtype=torch.complex128)
    half = padded // 2
    wide[:, :half] = series[:, :half]
    wide[:, -half:] = series[:, half:]
    return torch.fft.ifft(wide, dim=1, norm="forward")


def _row_noise(rho: np.ndarray, reach: float) -> np.ndarray:
    """Return the root mean square of rows, smoothed over a few resolutions."""
    square = (rho**2).mean(1)
    square[: math.ceil(reach)] = square[math.ceil(reach)]  # near the origin any map is like itself
    return np.sqrt(ndimage.uniform_filter1d(square, 2 * math.ceil(2 * reach) + 1) + 1e-12)


def peak_sum(
    correlation: HelicalCorrelation,
    twist_rad: float,
    rise_A: float,
    fold: int,
    weight: Float[np.ndarray, "l"],
) -> float:
    """Return the weighted sum of the correlations with copies at steps 1 to so many.

    Weights are given, one a step. Those of the lags themselves would fall towards long ones, and
    draw a rise that is refined to shorter ones.
    """
    number = np.arange(1, len(weight) + 1)
    found = correlation.at(number * twist_rad, number * rise_A, fold)
    return float((found * weight).sum())


def significance(
    correlation: HelicalCorrelation,
    twist_rad: float,
    rise_A: float,
    fold: int,
) -> tuple[float, float]:
    """Return how far a helix's copies stand out from copies at wrong places, and their mean.

    Returns
    -------
    score, correlation
        The score is in standard deviations that as many copies at wrong places would have, of
        whom an n-fold axis makes n times as many. The correlation is the mean over copies, less
        that of places halfway between them.
    """
    steps = correlation.lags(rise_A)
    lag_A, angle = steps * rise_A, steps * twist_rad
    far = ~correlation.is_near(angle, lag_A, fold)
    if not far.any():
        return 0.0, 0.0
    lag_A, angle = lag_A[far], angle[far]
    weight = correlation.overlap_at(lag_A)
    noise = np.interp(
        lag_A, np.arange(len(correlation.noise)) * correlation.step_A, correlation.noise
    )
    found = correlation.at(angle, lag_A, fold)
    # What is alike all along a screw is so for any rise: places halfway between two copies count
    # against them.
    half = np.array([[-0.5], [0.5]])
    between = correlation.at(
        (angle + half * twist_rad).ravel(), (lag_A + half * rise_A).ravel(), fold
    )
    found = found - between.reshape(2, -1).mean(0)
    single = found * np.sqrt(fold * weight) / noise
    return float(single.sum() / np.sqrt(weight.sum())), float((weight * found).sum() / weight.sum())
