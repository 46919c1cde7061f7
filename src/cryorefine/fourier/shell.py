"""Frequencies and spherical (circular) shells of half transforms."""

from functools import lru_cache

import torch
from jaxtyping import Complex, Float, Int
from torch import Tensor

from cryorefine.fourier.radial import shell_products

__all__ = [
    "frequency_radius",
    "hermitian_weight",
    "shell_correlation",
    "shell_index",
    "shell_mean",
    "shell_power",
]


def frequency_radius(size_px: int, ndim: int) -> Float[Tensor, "*h"]:
    """Return |k| in cycles per box for every coefficient of a half transform of 2 or 3 axes."""
    full = torch.fft.fftfreq(size_px, 1 / size_px, dtype=torch.float32)
    half = torch.arange(size_px // 2 + 1, dtype=torch.float32)
    axes = torch.meshgrid(*[full] * (ndim - 1), half, indexing="ij")
    return sum(a * a for a in axes).sqrt()  # type: ignore[union-attr]


def shell_index(size_px: int, ndim: int) -> Int[Tensor, "*h"]:
    """Return the shell, round(|k|), of every coefficient of a half transform."""
    return frequency_radius(size_px, ndim).round().long()


def hermitian_weight(size_px: int) -> Float[Tensor, "xh"]:
    """Return how many coefficients of the full transform each column of the half one stands for."""
    weight = torch.full((size_px // 2 + 1,), 2.0)
    weight[0] = 1.0
    if size_px % 2 == 0:
        weight[-1] = 1.0
    return weight


def _shell_sum(values: Tensor, size_px: int, n_shells: int, ndim: int) -> Tensor:
    values = values.cpu()
    index = shell_index(size_px, ndim).flatten()
    weight = hermitian_weight(size_px).double().expand(values.shape).flatten()
    inside = index < n_shells
    out = torch.zeros(n_shells, dtype=torch.float64)
    return out.index_add_(0, index[inside], (values.flatten().double() * weight)[inside])


def shell_mean(
    values: Float[Tensor, "*h"], size_px: int, *, n_shells: int | None = None
) -> Float[Tensor, "s"]:
    """Return the mean of real values over each shell of a half transform (2 or 3 axes).

    Every coefficient of the full transform counts once. Default: shells up to Nyquist,
    ``size_px // 2 + 1`` of them. float64.
    """
    n = size_px // 2 + 1 if n_shells is None else n_shells
    ndim = values.ndim
    total = _shell_sum(values, size_px, n, ndim)
    count = _shell_sum(torch.ones_like(values), size_px, n, ndim)
    return total / count.clamp_min(1)


def shell_power(half: Complex[Tensor, "*h"], size_px: int) -> Float[Tensor, "s"]:
    """Return the mean squared modulus over each shell up to Nyquist, float64."""
    if _is_fast(half):
        return shell_products(half, half, size_px)[1] / _coefficients(size_px)
    return shell_mean(half.real.square() + half.imag.square(), size_px)


def shell_correlation(
    a: Complex[Tensor, "*h"], b: Complex[Tensor, "*h"], size_px: int
) -> Float[Tensor, "s"]:
    """Return the normalised correlation of two half transforms over each shell (the FSC or FRC).

    Sums run over every coefficient of the full transform; shells without energy give 0. float64.
    """
    n, ndim = size_px // 2 + 1, a.ndim
    if _is_fast(a) and _is_fast(b):
        cross, power_a, power_b = shell_products(a, b, size_px)
        return _quotient(cross, power_a, power_b)
    cross = _shell_sum(a.real * b.real + a.imag * b.imag, size_px, n, ndim)
    power_a = _shell_sum(a.real.square() + a.imag.square(), size_px, n, ndim)
    power_b = _shell_sum(b.real.square() + b.imag.square(), size_px, n, ndim)
    return _quotient(cross, power_a, power_b)


@lru_cache(maxsize=8)
def _coefficients(size_px: int) -> Float[Tensor, "s"]:
    """Return the number of coefficients of a volume's full transform in each shell."""
    ones = torch.ones((size_px, size_px, size_px // 2 + 1), dtype=torch.complex64)
    return shell_products(ones, ones, size_px)[1]


def _is_fast(half: Tensor) -> bool:
    return half.ndim == 3 and half.dtype == torch.complex64


def _quotient(cross: Tensor, power_a: Tensor, power_b: Tensor) -> Tensor:
    norm = (power_a * power_b).sqrt()
    return torch.where(norm > 0, cross / norm.clamp_min(1e-300), torch.zeros_like(cross))
