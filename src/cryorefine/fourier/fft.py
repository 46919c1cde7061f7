"""The one seam to the fast Fourier transform.

Images and volumes have their origin at pixel ``n // 2`` of each axis; their half transforms have
it at index 0, unnormalised forward: coefficient ``k`` is ``sum f(x) exp(-2 pi i k x / n)`` with
``x`` counted from that origin. torch does the work on every device: on two cores it was as fast
as scipy for volumes and twice as fast for stacks of images (``benchmarks/RESULTS.md``).

torch itself works in one thread. Volumes on the CPU are transformed slab by slab, in the threads
that the caller has for kernels. Slabs are the same whatever the number of threads, and so are the
bits of the result.
"""

import math
from collections.abc import Callable
from functools import partial

import torch
from jaxtyping import Complex, Float
from scipy.fft import next_fast_len
from torch import Tensor

from cryorefine.compiled import in_threads

__all__ = [
    "fast_even_length",
    "image_from_half",
    "image_to_half",
    "volume_from_grid",
    "volume_from_half",
    "volume_to_half",
]

_SLAB_PX = 16
"""Planes of a slab: a dozen slabs for as many threads at 192 px, and 4 MB, which a core's cache
holds, at 256 px. In one thread slabs take as long as the volume at once from 96 to 256 px, and
half as long for a grid transformed axis by axis."""


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
    if _shifts_by_sign(volume.shape[-3:]):
        return _change_signs(_forward(volume))
    return _forward(torch.fft.ifftshift(volume, dim=(-3, -2, -1)))


def volume_from_half(
    half: Complex[Tensor, "*b z y xh"], size_px: int, *, overwrite: bool = False
) -> Float[Tensor, "*b z y x"]:
    """Return real volumes of ``size_px`` columns; inverse of :func:`volume_to_half`.

    Parameters
    ----------
    overwrite
        Whether ``half`` may hold anything afterwards: a large one is not copied then.
    """
    if half.numel() == 0:
        return half.real.new_empty((*half.shape[:-1], size_px))
    if _shifts_by_sign((half.shape[-3], half.shape[-2], size_px)):
        own = half if overwrite else half.clone()
        return _backward(_change_signs(own), size_px, overwrite=True)
    found = _backward(half, size_px, overwrite=overwrite)
    return torch.fft.fftshift(found, dim=(-3, -2, -1))


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
        full = _in_slabs(partial(torch.fft.ifft, dim=axis), full, 1 - axis, out=full)
        ends = full.narrow(axis, padded_px - before, before), full.narrow(axis, 0, after)
        core = torch.cat(ends, axis)
    if 2 * centre == padded_px:
        core[:, :, -1] *= 2  # the mates from the other side; the inverse counts this column once

    def rows(slab: Tensor) -> Tensor:
        full = torch.fft.irfft(slab, n=padded_px, dim=2)
        return torch.cat([full[:, :, padded_px - before :], full[:, :, :after]], 2)

    return _in_slabs(rows, core, 0)


def _forward(volume: Float[Tensor, "*b z y x"]) -> Complex[Tensor, "*b z y xh"]:
    """Return the transforms of real volumes."""
    if volume.ndim > 3 or volume.device.type != "cpu":
        return torch.fft.rfftn(volume, dim=(-3, -2, -1))
    sections = _in_slabs(torch.fft.rfft2, volume, 0)
    return _in_slabs(partial(torch.fft.fft, dim=0), sections, 1, out=sections)


def _backward(
    half: Complex[Tensor, "*b z y xh"], size_px: int, *, overwrite: bool
) -> Float[Tensor, "*b z y x"]:
    """Return real volumes; inverse of :func:`_forward`."""
    shape = (half.shape[-3], half.shape[-2], size_px)
    if half.ndim > 3 or half.device.type != "cpu":
        return torch.fft.irfftn(half, s=shape, dim=(-3, -2, -1))
    own = half if overwrite else None
    sections = _in_slabs(partial(torch.fft.ifft, dim=0), half, 1, out=own)
    return _in_slabs(partial(torch.fft.irfft2, s=shape[1:]), sections, 0)


def _in_slabs(
    function: Callable[[Tensor], Tensor], values: Tensor, axis: int, out: Tensor | None = None
) -> Tensor:
    """Return what a function makes of slabs across an axis, one after the other along it.

    ``out`` may be ``values`` where the function keeps the shape.
    """
    n = values.shape[axis]
    if values.device.type != "cpu":
        return function(values)
    first = function(values.narrow(axis, 0, min(_SLAB_PX, n)))
    if out is None:
        shape = list(first.shape)
        shape[axis] = n
        out = first.new_empty(shape)
    out.narrow(axis, 0, first.shape[axis]).copy_(first)

    def work(begin: int, end: int) -> None:
        for start in range((begin + 1) * _SLAB_PX, min((end + 1) * _SLAB_PX, n), _SLAB_PX):
            length = min(_SLAB_PX, n - start)
            out.narrow(axis, start, length).copy_(function(values.narrow(axis, start, length)))

    in_threads(work, math.ceil(n / _SLAB_PX) - 1)
    return out


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
