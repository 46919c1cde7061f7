"""Two-fold axes across a filament: where they lie, and whether a map of a helix shows them.

Half a turn about an axis across takes a place at angle φ and height z to ψ - φ and s - z, where ψ
is twice the angle of the axis, and s twice its height. With one such axis each step of the helix
makes another one, at ψ + twist and s + rise. The correlation of a map with its copies at all of
them is scored as that with copies at all steps (:mod:`cryorefine.helices.helical_correlation`).
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from scipy import ndimage, optimize
from torch import Tensor

from cryorefine.geometry.helix import Helix
from cryorefine.helices.helical_correlation import (
    MIN_OVERLAP,
    CentralPart,
    HelicalCorrelation,
    central_part,
    circle_spline,
    correlation_of,
    on_circle,
    refined_series,
    significance,
)

__all__ = ["NEEDED", "TwoFold", "find_two_fold"]

NEEDED = 0.8
"""Agreement from which a map has two-fold axes across. Dihedral helices with noise have 0.98 to
1.02 at 6 to 10 Å; polar ones 0.16 to 0.5 at 6 Å, and up to 0.9 at 10 Å, since a chain of round
subunits is dihedral (`benchmarks/RESULTS.md`)."""

_SIGMAS = 5.0
"""Score that is needed, too: of the few hundred places that are tried the best of a map without
axes is at 3 to 4."""

_GRID_SHARE = 6
"""Points of the grid within the resolution, along both axes: its best is within the peak, and its
picture is smooth."""

_LEAST_ROWS = 5
"""Rows of the grid at least: of helices with a rise below the resolution all are nearly alike."""


@dataclass(frozen=True, eq=False)
class TwoFold:
    """The two-fold axis across a helix that agrees best with a map.

    Attributes
    ----------
    angle_deg
        Of the axis about z, from x towards y: of those that the n-fold axis along z makes alike
        the nearest to x, -90°/n to 90°/n.
    height_A
        Of the axis along z, from the origin; of those that the helix makes alike the nearest.
    agreement
        Correlation of the map with its copies by half a turn, of that with its copies by steps of
        the helix: 1 for a dihedral helix, whatever its noise.
    score
        In standard deviations of copies at wrong places.
    is_supported
        Whether the map shows the axes.
    angles_deg, heights_A, scores
        The landscape: columns, rows, and the score of each place.
    """

    angle_deg: float
    height_A: float
    agreement: float
    score: float
    is_supported: bool
    angles_deg: Float[np.ndarray, "a"]
    heights_A: Float[np.ndarray, "h"]
    scores: Float[np.ndarray, "h a"]


@dataclass(frozen=True, eq=False)
class _TurnedOver:
    """Correlation of a map with itself by half a turn about axes across.

    ``spline`` has rows of ``s`` from ``-first_A`` on, and columns of ψ round the circle; ``noise``
    and ``overlap`` are of its rows.
    """

    spline: Float[np.ndarray, "s q"]
    noise: Float[np.ndarray, "s"]
    overlap: Float[np.ndarray, "s"]
    first_A: float
    step_A: float
    step_rad: float

    def at(self, psi_rad: np.ndarray, s_A: np.ndarray, fold: int) -> np.ndarray:
        """Return the correlation at places, mean over those that an n-fold axis makes of each."""
        turns = np.arange(fold).reshape(-1, *[1] * psi_rad.ndim) * (2 * math.pi / fold)
        columns = round(2 * math.pi / self.step_rad)
        column = ((psi_rad + turns) / self.step_rad) % columns
        row = np.broadcast_to((s_A + self.first_A) / self.step_A, column.shape)
        return on_circle(self.spline, row, column).mean(0)

    def of_row(self, values: np.ndarray, s_A: np.ndarray) -> np.ndarray:
        """Return what ``noise`` or ``overlap`` is at places; 0 beyond the ends."""
        row = (s_A + self.first_A) / self.step_A
        return np.interp(row, np.arange(len(values)), values, left=0.0, right=0.0)


def find_two_fold(
    volume: Float[Tensor, "z y x"],
    helix: Helix,
    *,
    voxel_A: float,
    radius_A: float,
    resolution_A: float,
    fraction: float,
) -> TwoFold:
    """Find the two-fold axes across a helix, and say whether a map shows them.

    Parameters
    ----------
    volume
        Filtered; see :func:`~cryorefine.helices.helical_search.prepared_map`.
    helix
        That of the map.
    radius_A, resolution_A, fraction
        As of :func:`~cryorefine.helices.helical_correlation.measure_correlation`.
    """
    part = central_part(
        volume, voxel_A=voxel_A, radius_A=radius_A, resolution_A=resolution_A, fraction=fraction
    )
    by_steps = correlation_of(part, voxel_A=voxel_A, resolution_A=resolution_A)
    turned = _turned_over(part, by_steps)
    of_steps = significance(by_steps, helix.twist_rad, helix.rise_A, helix.fold)[1]
    step_A = resolution_A / _GRID_SHARE
    sector = 2 * math.pi / helix.fold
    n_psi = max(math.ceil(sector * by_steps.radius_A / step_A), _LEAST_ROWS)
    n_rows = max(math.ceil(helix.rise_A / step_A), _LEAST_ROWS)
    psi = (np.arange(n_psi) / n_psi - 0.5) * sector
    s_A = (np.arange(n_rows) / n_rows - 0.5) * helix.rise_A
    scores = np.array([_scored(turned, helix, psi, np.full(n_psi, s))[0] for s in s_A])
    row, column = np.unravel_index(scores.argmax(), scores.shape)
    scale = np.array([step_A / by_steps.radius_A, step_A])
    start = np.array([psi[column], s_A[row]])

    def cost(x: np.ndarray) -> float:
        at = start + scale * x
        return -float(_scored(turned, helix, at[:1], at[1:])[0][0])

    found = optimize.minimize(
        cost, np.zeros(2), method="Nelder-Mead",
        options={"initial_simplex": [[-0.5, -0.3], [0.6, -0.2], [0.0, 0.6]], "maxiter": 80},
    )  # fmt: skip
    best_psi, best_s = _nearest(helix, *(start + scale * found.x))
    score, mean = _scored(turned, helix, np.array([best_psi]), np.array([best_s]))
    agreement = float(mean[0]) / max(of_steps, 1e-6)
    return TwoFold(
        angle_deg=math.degrees(best_psi) / 2,
        height_A=best_s / 2,
        agreement=agreement,
        score=float(score[0]),
        is_supported=agreement >= NEEDED and float(score[0]) > _SIGMAS,
        angles_deg=np.degrees(psi) / 2,
        heights_A=s_A / 2,
        scores=scores,
    )


def _nearest(helix: Helix, psi_rad: float, s_A: float) -> tuple[float, float]:
    """Return the axis nearest to the origin, of those that the helix makes alike."""
    steps = round(s_A / helix.rise_A)
    sector = 2 * math.pi / helix.fold
    return math.remainder(psi_rad - steps * helix.twist_rad, sector), s_A - steps * helix.rise_A


def _scored(
    turned: _TurnedOver, helix: Helix, psi_rad: np.ndarray, s_A: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return score and mean correlation of axes, with those that the helix makes of each."""
    reach = math.ceil(turned.first_A / helix.rise_A) + 1
    step = np.arange(-reach, reach + 1)[:, None]
    psi, s = psi_rad + step * helix.twist_rad, s_A + step * helix.rise_A
    weight = turned.of_row(turned.overlap, s)
    weight[weight < MIN_OVERLAP] = 0
    used = weight.any(1)
    psi, s, weight = psi[used], s[used], weight[used]
    half = np.array([-0.5, 0.5])[:, None, None]
    # As of steps: what is alike all along a screw is no axis.
    between = turned.at(psi + half * helix.twist_rad, s + half * helix.rise_A, helix.fold).mean(0)
    found = turned.at(psi, s, helix.fold) - between
    noise = np.maximum(turned.of_row(turned.noise, s), 1e-12)
    total = np.maximum(weight.sum(0), 1e-12)
    score = (found * weight * math.sqrt(helix.fold) / noise).sum(0) / np.sqrt(total)
    return score, (found * weight).sum(0) / total


def _turned_over(part: CentralPart, by_steps: HelicalCorrelation) -> _TurnedOver:
    """Correlate a map with itself by half a turn about all axes across.

    Of orders ``A_n(z)`` of a real map, those of the copy are ``exp(-i n ψ)`` times the conjugate of
    ``A_n(s - z)``. The correlation is ``Re Σ_n exp(i n ψ) Σ_z ∫ r dr A_n(z) A_n(s - z)``, and the
    sum over z a convolution.
    """
    n, padded, finer = part.size_px, part.padded, part.finer
    weight = part.weight.double()
    products, powers = [], []
    for spectra in part.spectra():
        products.append((spectra**2).to(torch.complex128) @ weight.to(torch.complex128))
        powers.append((spectra.real**2 + spectra.imag**2).double() @ weight)
    series, power = torch.cat(products), torch.cat(powers)
    series[1:] *= 2
    power[1:] *= 2
    rows = refined_series(series, padded, finer)
    angles = torch.zeros(rows.shape[1], part.n_angles, dtype=torch.complex128)
    angles[:, : len(rows)] = rows.T
    rho = torch.fft.ifft(angles, dim=1, norm="forward").real.numpy() / float(power.sum())
    window = torch.fft.fft(part.window.double(), n=padded)
    overlap = refined_series((window**2)[None], padded, finer).real.numpy()[0]
    overlap = overlap / float((window.real**2 + window.imag**2).sum())
    rho = np.where(overlap[:, None] < MIN_OVERLAP / 2, 0, rho / np.maximum(overlap, 1e-6)[:, None])
    square = ndimage.uniform_filter1d(
        (rho**2).mean(1), 2 * math.ceil(2 * by_steps.resolution_A / by_steps.step_A) + 1
    )
    return _TurnedOver(
        spline=circle_spline(rho),
        noise=np.sqrt(square + 1e-12),
        overlap=overlap,
        first_A=2 * (n // 2) * finer * by_steps.step_A,
        step_A=by_steps.step_A,
        step_rad=by_steps.step_rad,
    )
