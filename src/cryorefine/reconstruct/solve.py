"""Turn sums of weighted slices into a volume."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Complex, Float
from torch import Tensor

from cryorefine.fourier.fft import volume_from_grid
from cryorefine.fourier.filter import interpolate_shells, raised_cosine
from cryorefine.fourier.radial import centred_axis, divide_radially, radii, shell_totals
from cryorefine.geometry.protocol import Symmetry
from cryorefine.kernels.grid import (
    Accumulator,
    apodisation,
    fold_accumulator,
)
from cryorefine.masks.soft import sphere_mask
from cryorefine.reconstruct.crowding import Crowding
from cryorefine.reconstruct.symmetrise import symmetrise_grid

__all__ = ["FoldedSums", "fold", "solve"]

_FLOOR = 1e-3
"""Least regularisation, relative to a shell's mean weight: where nothing fell the map is zero."""

_EMPTY = 1e-3
"""The same, relative to the best shell, beyond it: where a strong envelope has left next to no
signal, noise divided by it would drown the map."""

_EDGE = 1 / 16
"""Width of the soft edge of the sphere that the map keeps, of the box. Cut sharply out of its
padding, the noise of each shell would leak into all others."""


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
    evenness
        Mean noise power of a shell if all directions had the same data, over what it is.
    """

    values: Complex[Tensor, "z y x"]
    weights: Float[Tensor, "z y x"]
    centre: int
    step: float
    size_px: int
    max_radius: float
    passes: int
    evenness: float = 1.0

    def axis(self) -> np.ndarray:
        """Return the positions along z and y in grid points from frequency zero."""
        return centred_axis(self.centre)

    def radii(self) -> Float[Tensor, "m"]:
        """Return |k| in cycles per box for every squared distance in grid points."""
        return radii(self.axis()) / self.step

    def mean_weight(self) -> Float[Tensor, "s"]:
        """Return the mean weight over each shell: data per grid point, inverse noise variance."""
        shell_of = self.radii().round().to(torch.int32).numpy()
        n_shells = int(self.max_radius) + 2
        total, count = shell_totals(self.weights, self.axis(), shell_of, n_shells)
        return total / count.clamp_min(1)


def fold(acc: Accumulator, group: Symmetry, crowding: Crowding | None = None) -> FoldedSums:
    """Add Friedel mates and symmetric copies to accumulated slices.

    ``crowding`` is what the slices were levelled with: it is taken out of both sums again.
    """
    values, weights = fold_accumulator(acc)
    values, weights, passes = symmetrise_grid(
        values, weights, centre=acc.centre, step=acc.step, group=group
    )
    even = 1.0
    if crowding is not None:
        crowding.restore(values, weights, acc.centre)
        even = crowding.evenness
    return FoldedSums(
        values, weights, acc.centre, acc.step, acc.size_px, acc.max_radius, 1 + passes, even
    )


def solve(sums: FoldedSums, *, ssnr: Float[Tensor, "s"] | None = None) -> Float[Tensor, "w u v"]:
    """Divide numerator by denominator, regularise, transform back.

    ``V(k) = N(k) / (D(k) + E mean_shell(D) / SSNR(|k|))``: the maximum a posteriori estimate for a
    signal whose power is SSNR times the mean noise power of its shell, which is one over
    ``E mean_shell(D)`` with the evenness E. Directions with more data than the shell's mean are
    damped less than those with fewer.

    Parameters
    ----------
    ssnr
        Spectral signal-to-noise ratio of *this* map per shell, ``FSC / (1 - FSC)`` for a half map;
        shells beyond its end are zero. None: no regularisation but a floor of 0.001 of the mean
        weight and, beyond the best shell, of 0.001 of that one's; the result fills the sphere up
        to ``max_radius``.

    Returns
    -------
    The map in the unpadded box, zero outside the sphere that fits in it.

    References
    ----------
    .. [1] Scheres (2012) J. Struct. Biol. 180, 519.
    """
    padded = round(sums.step * sums.size_px)
    mean = sums.mean_weight().clamp_min(1e-30)
    radius = sums.radii()
    expected = interpolate_shells(mean, radius)
    # The same number of images puts less into each point of a larger shell.
    best, at = (mean * torch.arange(len(mean)).to(mean)).max(0)
    least = torch.where(radius > at, _EMPTY * best / radius.clamp_min(1), torch.zeros_like(radius))
    prior = torch.maximum(expected * _FLOOR, least)
    if ssnr is not None:
        curve = ssnr.double().clamp(1e-6, 1 / _FLOOR)
        signal = interpolate_shells(curve, radius).clamp_min(1e-6)
        prior = torch.maximum(sums.evenness * expected / signal, prior)
    edge = raised_cosine(radius, sums.max_radius - 0.5, 1.0)
    spectrum = divide_radially(sums.values, sums.weights, sums.axis(), gain=edge, floor=prior)
    volume = volume_from_grid(spectrum, centre=sums.centre, size_px=sums.size_px, padded_px=padded)
    volume /= apodisation(sums.size_px, padded, volume.device, passes=sums.passes)
    edge_px = sums.size_px * _EDGE
    volume *= sphere_mask(sums.size_px, sums.size_px / 2 - edge_px, edge_px, volume.device)
    return volume
