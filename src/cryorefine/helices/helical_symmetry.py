"""Impose a helix on a map: the mean of its copies over the central part, within a soft cylinder."""

import math

import numpy as np
import torch
from jaxtyping import Complex, Float
from torch import Tensor

from cryorefine.compiled import in_threads
from cryorefine.errors import InputError
from cryorefine.fourier.cylindrical import (
    angular_orders,
    cylindrical_grid,
    sections_from_orders,
)
from cryorefine.geometry.helix import Helix

__all__ = ["central_window", "impose_helix", "soft_radius"]

_TAPER = 0.15
"""Share of the central part over which it falls to nothing at each end. A step at the end would
count sections with errors of the box's faces as much as others; a longer taper wastes sections."""


def central_window(size_px: int, fraction: float) -> Float[np.ndarray, "z"]:
    """Return the weight of each section: 1 in the middle, falling along half a cosine to 0.

    Parameters
    ----------
    fraction
        Part of the box outside of which the weight is zero.
    """
    z = np.arange(size_px, dtype=np.float64) - size_px // 2
    return _window(z, size_px * fraction / 2)


def _window(z: np.ndarray, half_px: float) -> np.ndarray:
    taper = 2 * half_px * _TAPER
    t = np.clip((np.abs(z) - (half_px - taper)) / taper, 0, 1)
    return (1 + np.cos(math.pi * t)) / 2


def _shares(size_px: int, rise_px: float, fraction: float) -> np.ndarray:
    """Return the weight of each section among those that are a number of steps from it."""
    z = np.arange(size_px, dtype=np.float64) - size_px // 2
    half_px = size_px * fraction / 2
    reach = math.ceil(size_px / rise_px)
    total = sum(_window(z + k * rise_px, half_px) for k in range(-reach, reach + 1))
    return _window(z, half_px) / np.maximum(total, 1e-12)


def soft_radius(
    radius_px: Float[np.ndarray, "r"], outer_px: float, edge_px: float
) -> Float[np.ndarray, "r"]:
    """Return 1 up to a radius, falling along half a cosine to 0 within ``edge_px``."""
    t = np.clip((radius_px - outer_px) / edge_px, 0, 1)
    return (1 + np.cos(math.pi * t)) / 2


def impose_helix(
    volume: Float[Tensor, "z y x"],
    helix: Helix,
    *,
    voxel_A: float,
    radius_px: float | None = None,
    edge_px: float = 5.0,
    fraction: float = 0.9,
) -> Float[Tensor, "z y x"]:
    """Return the mean of a map's helical copies, filling the box along z.

    Parameters
    ----------
    volume
        Its axis is z, and the two-fold axis of a dihedral helix is x, both through the origin.
    radius_px, edge_px
        Of the cylinder outside of which the result is zero, and of its cosine edge. None: as wide
        as the box.
    fraction
        Part of the box along z that is averaged, the middle; its ends are tapered.

    Raises
    ------
    InputError
        If the central part is shorter than two rises, so that nothing repeats in it.

    Notes
    -----
    A map of a helix is a sum of layer lines: of order n only ``Z = (l - n twist / 2π) / rise``,
    with a whole number l. The mean over copies keeps these terms and no others: nothing is
    interpolated along z, and angular series are those of :mod:`cryorefine.fourier.cylindrical`.
    With a two-fold axis along x the terms are real. An exact helix loses what its sections hold
    beyond the circle of Nyquist, and 3e-4 of its standard deviation otherwise
    (``tests/helices/test_helical_symmetry.py``). Cost: ten seconds for 256³ voxels on two cores,
    and the memory of six such maps.
    """
    n = volume.shape[-1]
    rise_px = helix.rise_A / voxel_A
    if n * fraction < 2 * rise_px:
        raise InputError(
            f"a rise of {helix.rise_A:g} Å does not repeat within the central "
            f"{n * fraction * voxel_A:.0f} Å of the map",
            do="give a larger box, or a smaller rise",
        )
    outer_px = n / 2 - edge_px if radius_px is None else min(radius_px, n / 2 - edge_px)
    grid = cylindrical_grid(n, outer_px + edge_px)
    orders = angular_orders(volume, grid)
    edge = torch.from_numpy(soft_radius(grid.radius_px, outer_px, edge_px)).float()
    shares = torch.from_numpy(_shares(n, rise_px, fraction)).float()

    def part(begin: int, end: int) -> None:
        for order in range(begin, end):
            orders[order] = _symmetrised(orders[order], order, helix, rise_px, shares) * edge

    in_threads(part, grid.n_orders)
    found = sections_from_orders(orders, grid)
    # Sections end at Nyquist, and what has an edge rings beyond it.
    across = torch.arange(n) - n // 2
    return found * ((across[:, None] ** 2 + across**2).sqrt() <= outer_px + edge_px)


def _symmetrised(
    values: Complex[Tensor, "z r"], order: int, helix: Helix, rise_px: float, shares: Tensor
) -> Complex[Tensor, "z r"]:
    """Return one angular order with its layer lines only."""
    if order % helix.fold:
        return torch.zeros_like(values)
    n = len(values)
    z = torch.arange(n, dtype=torch.float64) - n // 2
    # Layer lines below Nyquist along z.
    turns = order * helix.twist_rad / (2 * math.pi)
    top = rise_px * (n - 1) / (2 * n)
    lines = torch.arange(math.ceil(turns - top), math.floor(turns + top) + 1, dtype=torch.float64)
    if len(lines) == 0:
        return torch.zeros_like(values)
    wave = torch.exp(2j * math.pi * (lines[:, None] - turns) / rise_px * z).to(values.dtype)
    terms = (wave.conj() * (shares / rise_px)) @ values
    if helix.is_dihedral:
        terms = terms.real.to(values.dtype)
    return wave.T @ terms
