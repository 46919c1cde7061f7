"""The padded Fourier grid that slices are read from and written to."""

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Complex, Float
from torch import Tensor

from cryorefine.fourier.fft import fast_even_length, volume_to_half

__all__ = [
    "OUTSIDE",
    "OVERSAMPLING",
    "WIDTH",
    "Accumulator",
    "SliceGrid",
    "add_halo",
    "apodisation",
    "fold_accumulator",
    "grid_layout",
    "kernel_table",
    "make_accumulator",
    "make_slice_grid",
    "open_table",
    "packed_table",
]

WIDTH = 3
"""Support of the interpolation kernel in grid points along each axis."""

OVERSAMPLING = 1.5
"""Grid points per Fourier coefficient of the unpadded box, at least."""

HALO = 2
"""Grid points kept beyond the plane x = 0, so that no sample near it needs a second read."""

TABLE_SIZE = 2048
"""Entries per grid step in the table of kernel weights."""

OUTSIDE = TABLE_SIZE + 1
"""Last row of :func:`open_table`, of NaN: samples that are not in the grid have it for weights.

Such a sample has a coordinate that is no number, or lies so far out that not all points about it
are stored. It is read, and written, at the grid's first points: no index leaves an array, and
whoever asks for it is told by NaN."""


def _beta(oversampling: float) -> float:
    # Beatty, Nishimura & Pauly (2005) IEEE Trans. Med. Imaging 24, 799, eq. 5, which is optimal
    # for an object that fills the box. Particles do not: 20 % more halves the error for objects
    # within 90 % of the box (1.4 % -> 0.6 to 0.8 %) and costs nothing.
    ratio = WIDTH / oversampling * (oversampling - 0.5)
    return 1.2 * math.pi * math.sqrt(ratio * ratio - 0.8)


def _kaiser_bessel(u: np.ndarray, beta: float) -> np.ndarray:
    inside = np.maximum(1 - (2 * u / WIDTH) ** 2, 0)
    return np.where(np.abs(u) < WIDTH / 2, np.i0(beta * np.sqrt(inside)), 0.0)


def _kaiser_bessel_slope(u: np.ndarray, beta: float) -> np.ndarray:
    inside = np.sqrt(np.maximum(1 - (2 * u / WIDTH) ** 2, 1e-12))
    t = beta * inside
    i1_over_t = np.where(t < 1e-3, 0.5, _bessel_i1(t) / np.maximum(t, 1e-30))
    return np.where(np.abs(u) < WIDTH / 2, -(beta**2) * i1_over_t * (2 / WIDTH) ** 2 * u, 0.0)


def _bessel_i1(t: np.ndarray) -> np.ndarray:
    return torch.special.i1(torch.from_numpy(t)).numpy()


def _integral(oversampling: float) -> float:
    beta = _beta(oversampling)
    return WIDTH * math.sinh(beta) / beta


@lru_cache(maxsize=8)
def kernel_table(oversampling: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the kernel's weights, and their slopes, for positions within one grid step.

    Returns
    -------
    weights, slopes
        float32 arrays of shape (TABLE_SIZE, WIDTH): row t is for a sample (t + ½)/TABLE_SIZE - ½
        from its nearest grid point, column j for the grid point j - 1 from that one. The kernel
        has unit integral; slopes are per grid step of the sample's position.
    """
    beta, norm = _beta(oversampling), _integral(oversampling)
    offset = (np.arange(TABLE_SIZE) + 0.5) / TABLE_SIZE - 0.5
    u = offset[:, None] - (np.arange(WIDTH) - WIDTH // 2)[None]
    weights = _kaiser_bessel(u, beta) / norm
    slopes = _kaiser_bessel_slope(u, beta) / norm
    return weights.astype(np.float32), slopes.astype(np.float32)


@lru_cache(maxsize=8)
def open_table(oversampling: float) -> tuple[np.ndarray, np.ndarray]:
    """Return :func:`kernel_table` with two rows more in each.

    The first is the table's last again: rounding may put a sample a whole step from its neighbour.
    The second is that of samples :data:`OUTSIDE`.
    """
    outside = np.full((1, WIDTH), np.nan, np.float32)
    weights, slopes = (np.concatenate([t, t[-1:], outside]) for t in kernel_table(oversampling))
    return weights, slopes


@lru_cache(maxsize=8)
def packed_table(oversampling: float) -> np.ndarray:
    """Return :func:`open_table` as rows of (weights, 0, slopes, 0): one vector load each."""
    packed = np.zeros((OUTSIDE + 1, 8), np.float32)
    packed[:, :WIDTH], packed[:, 4 : 4 + WIDTH] = open_table(oversampling)
    return packed


@lru_cache(maxsize=8)
def _apodisation_1d(size_px: int, grid_px: int) -> np.ndarray:
    beta = _beta(grid_px / size_px)
    x = (np.arange(size_px) - size_px // 2) / grid_px
    a = beta**2 - (math.pi * WIDTH * x) ** 2
    root = np.sqrt(np.abs(a))
    value = np.where(a > 0, np.sinh(root) / root, np.sinc(root / math.pi))
    return value * beta / math.sinh(beta)


def apodisation(
    size_px: int, grid_px: int, device: torch.device | str = "cpu", *, passes: int = 1
) -> Float[Tensor, "z y x"]:
    """Return what so many interpolations multiply a centred volume with; 1 at the origin."""
    line = torch.from_numpy(_apodisation_1d(size_px, grid_px) ** passes).float().to(device)
    return line[:, None, None] * line[None, :, None] * line[None, None, :]


@dataclass(frozen=True, eq=False)
class SliceGrid:
    """A volume's transform, oversampled and cut to a band, ready for slices to be read from it.

    Attributes
    ----------
    values
        complex64, axes z, y, x. Frequency zero is at index ``(centre, centre, HALO)``; x runs
        from -HALO upwards, the rest follows by Hermitian symmetry.
    centre
        Index of frequency zero on z and y.
    step
        Grid points per cycle per box of the volume.
    size_px
        Side of the volume's box.
    max_radius
        Samples up to this radius (cycles per box of the volume) may be read.
    """

    values: Complex[Tensor, "z y x"]
    centre: int
    step: float
    size_px: int
    max_radius: float


@dataclass(frozen=True, eq=False)
class Accumulator:
    """Sums of weighted slices and of their weights, laid out as :class:`SliceGrid`."""

    values: Complex[Tensor, "z y x"]
    weights: Float[Tensor, "z y x"]
    centre: int
    step: float
    size_px: int
    max_radius: float


def grid_layout(
    size_px: int, max_radius: float, oversampling: float = OVERSAMPLING
) -> tuple[int, float, int]:
    """Return (padded FFT length, grid points per cycle, half width of the stored cube)."""
    padded = fast_even_length(oversampling * size_px)
    step = padded / size_px
    # A sample's nearest point and one beyond it must be stored; at the full radius that is the
    # plane padded / 2, which stands for both its sides.
    half = min(math.ceil(max_radius * step) + HALO, padded // 2)
    return padded, step, half


def make_slice_grid(
    volume: Float[Tensor, "z y x"], max_radius: float, *, oversampling: float = OVERSAMPLING
) -> SliceGrid:
    """Transform a volume for reading slices with radius up to ``max_radius`` cycles per box.

    The volume is divided by the kernel's apodisation and padded, so that interpolated slices
    equal those of the volume itself (1 % relative error; see ``benchmarks/RESULTS.md``). Linear
    in the volume. Memory: ``8 (2h+1)² (h+3)`` bytes with ``h = step · max_radius``.
    """
    n = volume.shape[-1]
    max_radius = min(max_radius, (n - 1) / 2)
    padded, step, half = grid_layout(n, max_radius, oversampling)
    scaled = volume.float() / apodisation(n, padded, volume.device)
    box = scaled.new_zeros((padded,) * 3)
    low = padded // 2 - n // 2
    box[low : low + n, low : low + n, low : low + n] = scaled
    del scaled
    transform = volume_to_half(box)
    del box
    core = transform[:, :, : half + 1]
    for axis in (0, 1):
        upper, lower = core.narrow(axis, 0, half + 1), core.narrow(axis, padded - half, half)
        core = torch.cat([lower, upper], axis)
    return SliceGrid(add_halo(core), half, step, n, max_radius)


def add_halo(half: Tensor) -> Tensor:
    """Return a half grid (x ≥ 0) with the points beyond x = 0 that samples near it need."""
    mates = half[:, :, 1 : HALO + 1].flip(0, 1, 2)
    return torch.cat([mates.conj(), half], -1).contiguous()


def make_accumulator(
    size_px: int,
    max_radius: float,
    *,
    oversampling: float = OVERSAMPLING,
    device: torch.device | str = "cpu",
) -> Accumulator:
    """Return empty sums for slices with radius up to ``max_radius`` of a box of ``size_px``."""
    max_radius = min(max_radius, (size_px - 1) / 2)
    _, step, half = grid_layout(size_px, max_radius, oversampling)
    shape = (2 * half + 1, 2 * half + 1, half + 1 + HALO)
    return Accumulator(
        torch.zeros(shape, dtype=torch.complex64, device=device),
        torch.zeros(shape, dtype=torch.float32, device=device),
        half,
        step,
        size_px,
        max_radius,
    )


def fold_accumulator(
    acc: Accumulator,
) -> tuple[Complex[Tensor, "z y x"], Float[Tensor, "z y x"]]:
    """Add the Friedel mates of all samples near the plane x = 0.

    Returns
    -------
    values, weights
        For x ≥ 0 only (no halo): every sample and its mate counted where they fall.
    """
    core, weight = (sums[:, :, HALO:].clone() for sums in (acc.values, acc.weights))
    near = slice(0, HALO + 1)
    core[:, :, near] += acc.values[..., near].flip(0, 1, 2).conj()
    weight[:, :, near] += acc.weights[..., near].flip(0, 1, 2)
    return core, weight
