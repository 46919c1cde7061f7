"""Fourier shell correlation of half maps and the resolution it supports."""

import math
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from jaxtyping import Complex, Float
from torch import Tensor

from cryorefine.engine.threads import MAX_AT_ONCE, side_by_side
from cryorefine.fourier.fft import volume_from_half, volume_to_half
from cryorefine.fourier.filter import interpolate_shells
from cryorefine.fourier.radial import (
    multiply_radially,
    radii,
    random_phases,
    wrapped_axis,
)
from cryorefine.fourier.shell import shell_correlation, shell_power

__all__ = [
    "Curves",
    "FscCurves",
    "corrected_fsc",
    "fsc",
    "fsc_within",
    "half_map_fsc",
    "resolution",
    "whiten",
]

_RANDOMISE_BELOW = 0.8
"""FSC without a mask below which phases are randomised: where halves still agree well, a correction
would take signal for leakage. It is the value that RELION uses."""

_PERSIST_SHELLS = 3
"""Shells whose mean must lie below the threshold, too, where a curve crosses it: noise takes single
shells below. Of 4,000 simulated curves that fall slowly (over 5 shells about the 16th, a tenth of
the coefficients independent) the crossing is found 4.5, 0.5 and 1.3 % too low on average with 1, 3
and 6 shells, with standard deviations of 17, 4 and 4 %; about the 8th shell (over 3 shells, a
twentieth independent) 19, 2 and 4 % too low. Where curves fall fast it makes no difference."""

_EMPTY = 1e-10
"""Share of the loudest shell's power below which a shell is empty: rounding is not made loud."""

Curve = TypeVar("Curve")
"""One number a shell, from shell 0 to Nyquist: a tensor here, an array where programs call."""


@dataclass(frozen=True, eq=False)
class Curves(Generic[Curve]):
    """Correlation of two half maps per shell, from shell 0 to Nyquist.

    Attributes
    ----------
    frequency_per_A
        Of each shell.
    unmasked, masked, randomised, corrected
        Without mask; with the mask; with the mask and phases randomised beyond
        ``randomised_from_A``; and corrected for what the mask alone contributes. Without a mask
        all but ``randomised`` (zeros) equal ``unmasked``.
    outside
        With one minus the mask: signal that the mask leaves out. Zeros without a mask.
    randomised_from_A
        Resolution beyond which phases were randomised; infinite without a mask.
    """

    frequency_per_A: Curve
    unmasked: Curve
    masked: Curve
    randomised: Curve
    corrected: Curve
    outside: Curve
    randomised_from_A: float


class FscCurves(Curves[Float[Tensor, "s"]]):
    """The curves as the program has them."""

    def resolution_A(self, threshold: float = 0.143, *, curve: str = "corrected") -> float:
        """Return the resolution of one of the curves; see :func:`resolution`."""
        return resolution(getattr(self, curve), self.frequency_per_A, threshold)


def fsc(a: Float[Tensor, "z y x"], b: Float[Tensor, "z y x"]) -> Float[Tensor, "s"]:
    """Return the Fourier shell correlation of two maps of one box, over all coefficients."""
    return shell_correlation(volume_to_half(a), volume_to_half(b), a.shape[-1])


def resolution(
    curve: Float[Tensor, "s"], frequency_per_A: Float[Tensor, "s"], threshold: float = 0.143
) -> float:
    """Return where a curve falls below a threshold for good, in ångströms.

    The first shell below the threshold counts if the mean of it and the next two is below, too: a
    single unlucky shell at low resolution does not end the curve, and a single lucky one beyond
    the end does not extend it. The crossing is interpolated linearly between shells.

    Returns
    -------
    Ångströms; twice the sampling if the curve never falls, infinity if it does at the first shell.
    """
    values = curve.tolist()
    n = len(values)
    for s in range(1, n):
        window = values[s : s + _PERSIST_SHELLS]
        if values[s] < threshold and sum(window) / len(window) < threshold:
            if s == 1:
                return math.inf
            before, after = values[s - 1], values[s]
            t = (before - threshold) / (before - after) if before > threshold else 0.0
            f0, f1 = float(frequency_per_A[s - 1]), float(frequency_per_A[s])
            return 1.0 / (f0 + t * (f1 - f0))
    return 1.0 / float(frequency_per_A[-1])


def corrected_fsc(
    masked: Float[Tensor, "s"], randomised: Float[Tensor, "s"], from_shell: int
) -> Float[Tensor, "s"]:
    """Return the masked curve without the mask's own contribution.

    ``(FSC_m - FSC_r) / (1 - FSC_r)`` from two shells beyond the one where randomisation starts,
    FSC_m before: there the two are not independent (Chen et al. 2013, Ultramicroscopy 135, 24).
    """
    r = randomised.clamp(max=0.999)
    out = (masked - r) / (1 - r)
    out[: from_shell + 2] = masked[: from_shell + 2]
    return out


def _whitening_gain(power: Float[Tensor, "s"], size_px: int) -> Float[Tensor, "m"]:
    """Return the radial gain, per |k|² of the half grid, that gives all shells the same power.

    A mask spreads some of each shell over its neighbours: of the loud ones at low resolution, and
    of what is noise divided by an envelope that has left no signal, far more than the quiet ones
    hold. A radial gain changes no shell's correlation, but what masks spread.
    """
    gain = power.clamp_min(_EMPTY * float(power.max())).rsqrt()
    radius = radii(wrapped_axis(size_px))
    return interpolate_shells(gain / gain.max(), radius.clamp(max=len(gain) - 1))


def whiten(volume: Float[Tensor, "z y x"]) -> Float[Tensor, "z y x"]:
    """Return a map whose shells all have the same power: a mask drowns none in the others."""
    n = volume.shape[-1]
    half = volume_to_half(volume)
    gain = _whitening_gain(shell_power(half, n), n)
    return volume_from_half(_with_gain(half, gain, n), n)


def _with_gain(
    half: Complex[Tensor, "z y xh"], gain: Float[Tensor, "m"], size_px: int
) -> Complex[Tensor, "z y xh"]:
    return multiply_radially(half, wrapped_axis(size_px), gain)


def _at_once(half: Tensor) -> bool:
    """Return whether two halves are worked on at once; a device takes them in order anyway."""
    return half.device.type == "cpu" and half.numel() <= MAX_AT_ONCE


def fsc_within(
    found: Float[Tensor, "z y x"],
    truth: Float[Tensor, "z y x"],
    mask: Float[Tensor, "z y x"],
) -> Float[Tensor, "s"]:
    """Return the FSC within a mask of a map and one that is known, such as an atomic model's.

    Both get the gain that whitens the first: the known map's own would make loud what it has next
    to nothing of, and half maps' FSC would no longer predict what this one is. Their
    means, which are arbitrary, are left out.
    """
    n = found.shape[-1]
    at_once = _at_once(found)
    halves = side_by_side(volume_to_half, (found, truth), at_once=at_once)
    gain = _whitening_gain(shell_power(halves[0], n), n)
    gain[0] = 0

    def within(half: Complex[Tensor, "z y xh"]) -> Complex[Tensor, "z y xh"]:
        return volume_to_half(volume_from_half(_with_gain(half, gain, n), n) * mask)

    first, second = side_by_side(within, halves, at_once=at_once)
    return shell_correlation(first, second, n)


def half_map_fsc(
    half1: Float[Tensor, "z y x"],
    half2: Float[Tensor, "z y x"],
    *,
    voxel_A: float,
    mask: Float[Tensor, "z y x"] | None = None,
    seed: int = 0,
) -> FscCurves:
    """Return all FSC curves of two half maps.

    Parameters
    ----------
    mask
        Soft mask, 0 to 1; it is applied to maps of white spectrum. Phases are randomised from the
        first shell where the unmasked curve falls below 0.8.
    """
    n = half1.shape[-1]
    at_once = _at_once(half1)
    white = side_by_side(volume_to_half, (half1, half2), at_once=at_once)
    unmasked = shell_correlation(white[0], white[1], n)
    frequency = torch.arange(len(unmasked), dtype=torch.float64) / (n * voxel_A)
    if mask is None:
        zero = torch.zeros_like(unmasked)
        return FscCurves(frequency, unmasked, unmasked, zero, unmasked, zero, math.inf)
    gain = _whitening_gain(shell_power(white[0], n) + shell_power(white[1], n), n)
    white = [multiply_radially(half, wrapped_axis(n), gain, overwrite=True) for half in white]
    below = torch.nonzero(unmasked[1:] < _RANDOMISE_BELOW)
    start = int(below[0]) + 1 if len(below) else n // 2

    def within(half: Complex[Tensor, "z y xh"]) -> Complex[Tensor, "z y xh"]:
        return volume_to_half(volume_from_half(half, n).mul_(mask))

    def randomised_within(i: int) -> Complex[Tensor, "z y xh"]:
        half = random_phases(white[i], n, from_shell=start, seed=2 * seed + i)
        volume = volume_from_half(half, n, overwrite=True).mul_(mask)
        del half  # of large maps each array counts
        return volume_to_half(volume)

    first, second = side_by_side(within, white, at_once=at_once)
    masked = shell_correlation(first, second, n)
    outside = shell_correlation(
        torch.sub(white[0], first, out=first), torch.sub(white[1], second, out=second), n
    )
    del first, second
    first, second = side_by_side(randomised_within, (0, 1), at_once=at_once)
    randomised = shell_correlation(first, second, n)
    corrected = corrected_fsc(masked, randomised, start)
    from_A = n * voxel_A / start
    return FscCurves(frequency, unmasked, masked, randomised, corrected, outside, from_A)
