"""Turn sums of weighted slices into a volume."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Complex, Float
from torch import Tensor

from cryorefine.fourier.filter import interpolate_shells, raised_cosine
from cryorefine.geometry.symmetry import SymmetryGroup
from cryorefine.kernels.grid import (
    Accumulator,
    apodisation,
    fold_accumulator,
    grid_layout,
    volume_from_grid,
)
from cryorefine.reconstruct.symmetrise import symmetrise_grid

__all__ = ["FoldedSums", "fold", "solve"]

_SLAB = 16
_FLOOR = 1e-3
"""Least regularisation, relative to a shell's mean weight: where nothing fell the map is zero."""


@dataclass(frozen=True, eq=False)
class FoldedSums:
    """Numerator and denominator of a reconstruction, mates and symmetry included.

    Attributes
    ----------
    values, weights
        Half grids, x ≥ 0.
    centre, step, size_px, max_radius
        As in :class:`~cryorefine.kernels.grid.Accumulator`.
    passes
        How often the values have been convolved with the interpolation kernel.
    """

    values: Complex[Tensor, "z y x"]
    weights: Float[Tensor, "z y x"]
    centre: int
    step: float
    size_px: int
    max_radius: float
    passes: int

    def slabs(self) -> Iterator[tuple[slice, Float[Tensor, "a y x"]]]:
        """Yield slabs of sections and |k| of their grid points in cycles per box.

        What is computed from |k| would take several times the memory of the sums themselves.
        """
        axis = torch.arange(-self.centre, self.centre + 1, dtype=torch.float32)
        in_plane = axis[:, None] ** 2 + axis[None, self.centre :] ** 2
        for start in range(0, len(axis), _SLAB):
            z = axis[start : start + _SLAB, None, None]
            yield slice(start, start + _SLAB), (in_plane + z**2).sqrt() / self.step

    def mean_weight(self) -> Float[Tensor, "s"]:
        """Return the mean weight over each shell: data per grid point, inverse noise variance."""
        n = int(self.max_radius) + 2
        total = torch.zeros(n + 1, dtype=torch.float64)
        count = torch.zeros(n + 1, dtype=torch.float64)
        for slab, radius in self.slabs():
            shell = radius.round().long().clamp_max(n).flatten()
            weights = self.weights[slab].flatten().double()
            total += torch.bincount(shell, weights, minlength=n + 1)
            count += torch.bincount(shell, minlength=n + 1)
        return total[:n] / count[:n].clamp_min(1)


def fold(acc: Accumulator, group: SymmetryGroup) -> FoldedSums:
    """Add Friedel mates and symmetric copies to accumulated slices."""
    values, weights = fold_accumulator(acc)
    values, weights, passes = symmetrise_grid(
        values, weights, centre=acc.centre, step=acc.step, group=group
    )
    return FoldedSums(
        values, weights, acc.centre, acc.step, acc.size_px, acc.max_radius, 1 + passes
    )


def solve(sums: FoldedSums, *, ssnr: Float[Tensor, "s"] | None = None) -> Float[Tensor, "w u v"]:
    """Divide numerator by denominator, regularise, transform back.

    ``V(k) = N(k) / (D(k) + mean_shell(D) / SSNR(|k|))``: the maximum a posteriori estimate for a
    signal whose power is SSNR times the mean noise power of its shell. Directions with more data
    than the shell's mean are damped less than those with fewer.

    Parameters
    ----------
    ssnr
        Spectral signal-to-noise ratio of *this* map per shell, ``FSC / (1 - FSC)`` for a half map;
        shells beyond its end are zero. None: no regularisation but a floor of 0.001 of the mean
        weight; the result fills the sphere up to ``max_radius``.

    Returns
    -------
    The map in the unpadded box.

    References
    ----------
    .. [1] Scheres (2012) J. Struct. Biol. 180, 519.
    """
    padded, _, _ = grid_layout(sums.size_px, sums.max_radius)
    mean = sums.mean_weight().clamp_min(1e-30)
    curve = None if ssnr is None else ssnr.double().clamp(1e-6, 1 / _FLOOR)
    spectrum = torch.empty_like(sums.values)
    for slab, radius in sums.slabs():
        expected = interpolate_shells(mean, radius)
        prior = expected * _FLOOR
        if curve is not None:
            signal = interpolate_shells(curve, radius).clamp_min(1e-6)
            prior = torch.maximum(expected / signal, prior)
        edge = raised_cosine(radius, sums.max_radius - 0.5, 1.0)
        spectrum[slab] = sums.values[slab] * (edge / (sums.weights[slab] + prior).clamp_min(1e-30))
    volume = volume_from_grid(spectrum, centre=sums.centre, size_px=sums.size_px, padded_px=padded)
    return volume / apodisation(sums.size_px, padded) ** sums.passes
