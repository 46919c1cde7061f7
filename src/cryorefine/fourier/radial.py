"""Radial operations on grids of Fourier coefficients, in one pass each.

|k|² is a whole number on every grid point, so any radial function is a table with one entry per
|k|²: it is evaluated some thousand times instead of millions, and to the last bit the same. The
plain forms, which the tests compare with, are in ``shell`` and ``filter``. Volumes may be on any
device; curves over shells and tables over |k|² are short and stay on the CPU.
"""

from collections.abc import Callable, Iterator

import numpy as np
import torch
from jaxtyping import Complex, Float
from torch import Tensor

from cryorefine.compiled import array_of, in_threads
from cryorefine.fourier import radial_loops

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

_SLAB_POINTS = 1 << 22
"""Points of a volume that are worked on together: 16 MB of temporaries in single precision. Not
measured; results do not depend on it."""


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
    values: Complex[Tensor, "z y xh"],
    axis: np.ndarray,
    table: Float[Tensor, "m"],
    *,
    overwrite: bool = False,
) -> Complex[Tensor, "z y xh"]:
    """Return coefficients times a radial function given per |k|².

    Parameters
    ----------
    values
        x ≥ 0 only, x = 0 first.
    axis
        Frequencies along z and y.
    overwrite
        Whether ``values`` may hold anything afterwards: the result takes their place then.
    """
    is_plain = values.dtype == torch.complex64 and values.is_contiguous()
    if overwrite and is_plain:
        out = values
    else:
        out = torch.empty(values.shape, dtype=values.dtype, device=values.device)
    if values.device.type != "cpu":
        table = table.float().to(values.device)
        for part, r2 in _slabs(values, axis):
            out[part] = values[part] * table[r2]
        return out
    arrays = array_of(values, torch.complex64), axis, array_of(table, torch.float32), out.numpy()
    in_threads(radial_loops.multiply, len(values), *arrays)
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
    out = torch.empty(values.shape, dtype=values.dtype, device=values.device)
    gain, floor = gain.float(), floor.float().clamp_min(1e-30)
    if values.device.type != "cpu":
        gain, floor = gain.to(values.device), floor.to(values.device)
        for part, r2 in _slabs(values, axis):
            out[part] = values[part] * (gain[r2] / (weights[part] + floor[r2]))
        return out
    in_threads(
        radial_loops.divide,
        len(values),
        array_of(values, torch.complex64),
        array_of(weights, torch.float32),
        axis,
        array_of(gain, torch.float32),
        array_of(floor, torch.float32),
        out.numpy(),
    )
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
    if a.device.type != "cpu":
        counts = torch.full((a.shape[2],), 2.0, dtype=torch.float64, device=a.device)
        counts[0] = 1.0
        if size_px % 2 == 0:
            counts[-1] = 1.0

        def products(part: slice) -> Tensor:
            p, q = a[part], b[part]
            cross = p.real * q.real + p.imag * q.imag
            return torch.stack([cross, p.abs().square(), q.abs().square()]) * counts

        return _sum_by_shell(products, a, axis, shell_of, n_shells)
    parts = np.zeros((size_px, 3, n_shells))
    in_threads(
        radial_loops.products,
        len(a),
        array_of(a, torch.complex64),
        array_of(b, torch.complex64),
        axis,
        shell_of,
        parts,
    )
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
    if values.device.type != "cpu":

        def terms(part: slice) -> Tensor:
            return torch.stack([values[part], torch.ones_like(values[part])]).double()

        sums = _sum_by_shell(terms, values, axis, shell_of, n_shells)
        return sums[0], sums[1]
    total, count = np.zeros((len(axis), n_shells)), np.zeros((len(axis), n_shells))
    points = array_of(values, torch.float32)
    in_threads(radial_loops.totals, len(points), points, axis, shell_of, total, count)
    return torch.from_numpy(total.sum(0)), torch.from_numpy(count.sum(0))


def random_phases(
    half: Complex[Tensor, "z y xh"], size_px: int, *, from_shell: int, seed: int
) -> Complex[Tensor, "z y xh"]:
    """Replace the phases of a real volume's transform from a shell on by random ones.

    Moduli stay, and the result is the transform of a real volume, too. The CPU does it for every
    device, so that all draw the same phases.
    """
    out = torch.empty(half.shape, dtype=torch.complex64)
    in_threads(
        radial_loops.random_phases,
        len(half),
        array_of(half.cpu(), torch.complex64),
        wrapped_axis(size_px),
        max(0.0, from_shell - 0.5) ** 2,
        np.uint64(seed),
        out.numpy(),
    )
    return out.to(half.device)


def _slabs(values: Tensor, axis: np.ndarray) -> Iterator[tuple[slice, Tensor]]:
    """Yield a few sections (z) at a time and the |k|² of their points."""
    k2 = torch.from_numpy(axis).to(values.device).square()
    x2 = torch.arange(values.shape[2], dtype=torch.int32, device=values.device).square()
    section = k2[:, None] + x2
    step = max(1, _SLAB_POINTS // section.numel())
    for z in range(0, len(k2), step):
        yield slice(z, z + step), k2[z : z + step, None, None] + section


def _sum_by_shell(
    terms: Callable[[slice], Tensor],
    values: Tensor,
    axis: np.ndarray,
    shell_of: np.ndarray,
    n_shells: int,
) -> Float[Tensor, "k s"]:
    """Sum k terms (k, z, y, x) of each slab by shell; those from ``n_shells`` on are left out."""
    shells = torch.from_numpy(shell_of).long().clamp(max=n_shells).to(values.device)
    slabs = []
    for part, r2 in _slabs(values, axis):
        term = terms(part)
        # Every line has sums of its own: few points of a line share a shell, so that few
        # additions wait for each other.
        lines = term.new_zeros((*term.shape[:-1], n_shells + 1))
        lines.scatter_add_(-1, shells[r2].expand_as(term), term)
        slabs.append(lines.sum((1, 2)))
    return torch.stack(slabs).sum(0)[:, :n_shells].cpu()
