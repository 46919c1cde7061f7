"""Radial operations on grids of Fourier coefficients, in one pass each.

|k|² is a whole number on every grid point, so any radial function is a table with one entry per
|k|²: it is evaluated some thousand times instead of millions, and to the last bit the same. The
plain forms, which the tests compare with, are in ``shell`` and ``filter``.
"""

import numpy as np
import torch
from jaxtyping import Complex, Float
from torch import Tensor

from cryorefine.fourier import cpu

__all__ = [
    "centred_axis",
    "divide_radially",
    "multiply_radially",
    "radii",
    "random_phases",
    "shell_products",
    "shell_totals",
    "wrapped_axis",
]


def wrapped_axis(size_px: int) -> np.ndarray:
    """Return the frequencies along an axis in the transform's own order: 0, 1, ..., -1."""
    k = np.arange(size_px)
    return np.where(k < (size_px + 1) // 2, k, k - size_px).astype(np.int32)


def centred_axis(half_px: int) -> np.ndarray:
    """Return the frequencies along an axis with zero in its middle."""
    return np.arange(-half_px, half_px + 1, dtype=np.int32)


def radii(axis: np.ndarray) -> Float[Tensor, "m"]:
    """Return |k| for every |k|² that three axes like this can make, float64."""
    largest = 3 * int(np.abs(axis).max(initial=0)) ** 2
    return torch.arange(largest + 1, dtype=torch.float64).sqrt()


def multiply_radially(
    values: Complex[Tensor, "z y xh"], axis: np.ndarray, table: Float[Tensor, "m"]
) -> Complex[Tensor, "z y xh"]:
    """Return coefficients times a radial function given per |k|².

    Parameters
    ----------
    values
        x ≥ 0 only, x = 0 first.
    axis
        Frequencies along z and y.
    """
    out = torch.empty_like(values)
    cpu.multiply(values.numpy(), axis, table.float().numpy(), out.numpy())
    return out


def divide_radially(
    values: Complex[Tensor, "z y xh"],
    weights: Float[Tensor, "z y xh"],
    axis: np.ndarray,
    *,
    gain: Float[Tensor, "m"],
    floor: Float[Tensor, "m"],
) -> Complex[Tensor, "z y xh"]:
    """Return ``values * gain / (weights + floor)``, gain and floor > 0 given per |k|²."""
    out = torch.empty_like(values)
    tables = (gain.float().numpy(), floor.float().clamp_min(1e-30).numpy())
    cpu.divide(values.numpy(), weights.numpy(), axis, *tables, out.numpy())
    return out


def shell_products(
    a: Complex[Tensor, "z y xh"], b: Complex[Tensor, "z y xh"], size_px: int
) -> Float[Tensor, "3 s"]:
    """Return sums over each shell up to Nyquist of Re(a b*), |a|² and |b|², float64.

    Every coefficient of the full transforms counts once.
    """
    axis = wrapped_axis(size_px)
    n_shells = size_px // 2 + 1
    shell_of = radii(axis).round().to(torch.int32).numpy()
    parts = np.zeros((size_px, 3, n_shells))
    cpu.products(a.numpy(), b.numpy(), axis, size_px % 2 == 0, shell_of, n_shells, parts)
    return torch.from_numpy(parts.sum(0))


def shell_totals(
    values: Float[Tensor, "z y xh"], axis: np.ndarray, shell_of: np.ndarray, n_shells: int
) -> tuple[Float[Tensor, "s"], Float[Tensor, "s"]]:
    """Return sums and numbers of the stored points of each shell.

    Parameters
    ----------
    shell_of
        Shell per |k|²; shells from ``n_shells`` on are left out.
    """
    total, count = np.zeros((len(axis), n_shells)), np.zeros((len(axis), n_shells))
    cpu.totals(values.numpy(), axis, shell_of, n_shells, total, count)
    return torch.from_numpy(total.sum(0)), torch.from_numpy(count.sum(0))


def random_phases(
    half: Complex[Tensor, "z y xh"], size_px: int, *, from_shell: int, seed: int
) -> Complex[Tensor, "z y xh"]:
    """Replace the phases of a real volume's transform from a shell on by random ones.

    Moduli stay, and the result is the transform of a real volume, too.
    """
    out = torch.empty_like(half)
    cpu.random_phases(
        half.numpy(),
        wrapped_axis(size_px),
        max(0.0, from_shell - 0.5) ** 2,
        np.uint64(seed),
        size_px % 2 == 0,
        out.numpy(),
    )
    return out
