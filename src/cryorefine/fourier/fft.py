"""The one seam to the fast Fourier transform.

Images and volumes have their origin at pixel ``n // 2`` of each axis; their half transforms have
it at index 0, unnormalised forward: coefficient ``k`` is ``sum f(x) exp(-2 pi i k x / n)`` with
``x`` counted from that origin. torch does the work on every device: on two cores it was as fast
as scipy for volumes and twice as fast for stacks of images (``benchmarks/RESULTS.md``).
"""

import math

import torch
from jaxtyping import Complex, Float
from scipy.fft import next_fast_len
from torch import Tensor

__all__ = [
    "fast_even_length",
    "image_from_half",
    "image_to_half",
    "volume_from_grid",
    "volume_from_half",
    "volume_to_half",
]


def image_to_half(image: Float[Tensor, "*b y x"]) -> Complex[Tensor, "*b y xh"]:
    """Return half transforms (``xh = x // 2 + 1``) of images whose origin is at ``n // 2``."""
    if image.numel() == 0:
        return _empty_half(image)
    return torch.fft.rfft2(torch.fft.ifftshift(image, dim=(-2, -1)))


def image_from_half(half: Complex[Tensor, "*b y xh"], size_px: int) -> Float[Tensor, "*b y x"]:
    """Return real images of ``size_px`` columns; inverse of :func:`image_to_half`."""
    if half.numel() == 0:
        return half.real.new_empty((*half.shape[:-1], size_px))
    return torch.fft.fftshift(torch.fft.irfft2(half, s=(half.shape[-2], size_px)), dim=(-2, -1))


def volume_to_half(volume: Float[Tensor, "*b z y x"]) -> Complex[Tensor, "*b z y xh"]:
    """Return half transforms of volumes whose origin is at ``n // 2`` of each axis."""
    if volume.numel() == 0:
        return _empty_half(volume)
    dim = (-3, -2, -1)
    if _shifts_by_sign(volume.shape[-3:]):
        return _change_signs(torch.fft.rfftn(volume, dim=dim))
    return torch.fft.rfftn(torch.fft.ifftshift(volume, dim=dim), dim=dim)


def volume_from_half(half: Complex[Tensor, "*b z y xh"], size_px: int) -> Float[Tensor, "*b z y x"]:
    """Return real volumes of ``size_px`` columns; inverse of :func:`volume_to_half`."""
    if half.numel() == 0:
        return half.real.new_empty((*half.shape[:-1], size_px))
    dim, shape = (-3, -2, -1), (half.shape[-3], half.shape[-2], size_px)
    if _shifts_by_sign(shape):
        return torch.fft.irfftn(_change_signs(half.clone()), s=shape, dim=dim)
    return torch.fft.fftshift(torch.fft.irfftn(half, s=shape, dim=dim), dim=dim)


def volume_from_grid(
    core: Complex[Tensor, "z y x"], *, centre: int, size_px: int, padded_px: int
) -> Float[Tensor, "w u v"]:
    """Transform centred coefficients back as those of a padded box, and crop it.

    Axis by axis, each cropped as soon as it is done, so that lines which are zero before or cut off
    after are not transformed: two thirds of the time for a grid up to Nyquist, a quarter for one
    up to half of it.

    Parameters
    ----------
    core
        Coefficients with x ≥ 0; frequency zero is at index ``(centre, centre, 0)``.

    Returns
    -------
    The middle ``size_px`` of the box of ``padded_px``, the origin at ``n // 2``.
    """
    before, after = size_px // 2, size_px - size_px // 2
    for axis in (0, 1):
        lines = list(core.shape)
        lines[axis] = padded_px
        full = core.new_zeros(lines)
        full.narrow(axis, 0, centre + 1).copy_(core.narrow(axis, centre, centre + 1))
        # Added, not set: both sides of the plane padded / 2 fall on it.
        full.narrow(axis, padded_px - centre, centre).add_(core.narrow(axis, 0, centre))
        full = torch.fft.ifft(full, dim=axis)
        ends = full.narrow(axis, padded_px - before, before), full.narrow(axis, 0, after)
        core = torch.cat(ends, axis)
    if 2 * centre == padded_px:
        core[:, :, -1] *= 2  # the mates from the other side; the inverse counts this column once
    rows = torch.fft.irfft(core, n=padded_px, dim=2)
    return torch.cat([rows[:, :, padded_px - before :], rows[:, :, :after]], 2)


def _shifts_by_sign(shape: tuple[int, ...]) -> bool:
    """Tell whether half a box along each axis is a change of signs; it needs no second array."""
    return all(n % 2 == 0 for n in shape)


def _change_signs(half: Tensor) -> Tensor:
    """Shift the origin between index 0 and ``n // 2`` of even axes, in place."""
    half[..., 1::2].neg_()
    half[..., 1::2, :].neg_()
    half[..., 1::2, :, :].neg_()
    return half


def _empty_half(real: Tensor) -> Tensor:
    """Return the transforms of no images, which the library's plans refuse to make."""
    return real[..., : real.shape[-1] // 2 + 1] + 0j


def fast_even_length(at_least_px: float) -> int:
    """Return the smallest even length not below ``at_least_px`` that transforms fast."""
    n = math.ceil(at_least_px)
    while n % 2 or next_fast_len(n, real=True) != n:
        n += 1
    return n
