"""FSC weighting and B-factor sharpening of the average of two half maps."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from torch import Tensor

from cryorefine.evaluate.fsc import FscCurves
from cryorefine.fourier.fft import volume_to_half
from cryorefine.fourier.filter import filter_volume, interpolate_shells
from cryorefine.fourier.shell import shell_power

__all__ = ["GuinierFit", "fsc_weight", "guinier_bfactor", "sharpen", "weight_map"]

_GUINIER_FROM_A = 10.0
"""Resolution from which amplitudes fall as a B-factor says: coarser ones show the particle's shape
(Rosenthal & Henderson 2003, J. Mol. Biol. 333, 721)."""

_TRUSTED_TO_A = 6.0
"""Resolution down to which a curve must reach for its slope to be taken whole: over shorter ranges
the amplitudes of protein secondary structure decide it. Not measured."""

_MIN_POINTS = 4
"""Shells that a line is fitted to at least: two would always fit."""


@dataclass(frozen=True)
class GuinierFit:
    """Fall-off of a map's amplitudes.

    Attributes
    ----------
    bfactor_A2
        B of ``|F| ~ exp(-B s² / 4)``, positive for a map that fades; 0 if there is too little
        range between 10 Å and the resolution to fit. Between 10 and 6 Å a protein's own
        amplitudes fall, too: a fit that ends before 6 Å is shrunk by the share of that range
        that it covers.
    n_shells
        Number of shells that the fit used.
    """

    bfactor_A2: float
    n_shells: int


def fsc_weight(curves: FscCurves) -> Float[Tensor, "s"]:
    """Return ``sqrt(2 FSC / (1 + FSC))`` per shell, 0 from where the corrected curve ends.

    References
    ----------
    .. [1] Rosenthal & Henderson (2003) J. Mol. Biol. 333, 721, eq. 13.
    """
    fsc = curves.corrected.clamp(0, 1)
    end = 1 / curves.resolution_A(0.143)
    weight = (2 * fsc / (1 + fsc)).sqrt()
    weight[0] = 1.0
    # Beyond the last shell that counts the weight falls over three shells, not at once.
    beyond = (curves.frequency_per_A - end) / curves.frequency_per_A[1]
    return weight * (1 - beyond.clamp(0, 3) / 3)


def weight_map(average: Float[Tensor, "z y x"], curves: FscCurves) -> Float[Tensor, "z y x"]:
    """Weight the average of the half maps by what the FSC says of each shell."""
    return filter_volume(average, lambda k: interpolate_shells(fsc_weight(curves), k).to(k))


def guinier_bfactor(
    average: Float[Tensor, "z y x"],
    mask: Float[Tensor, "z y x"],
    curves: FscCurves,
) -> GuinierFit:
    """Fit the B-factor of the masked, FSC-weighted map from 10 Å to the resolution.

    A straight line through ``ln |F|`` against s², weighted by the FSC.
    """
    n = average.shape[-1]
    amplitude = shell_power(volume_to_half(average * mask), n).sqrt() * fsc_weight(curves)
    s = curves.frequency_per_A
    end = 1 / curves.resolution_A(0.143)
    used = (s >= 1 / _GUINIER_FROM_A) & (s <= end) & (amplitude > 0)
    count = int(used.sum())
    if count < _MIN_POINTS:
        return GuinierFit(0.0, count)
    weight = curves.corrected[used].clamp(0.01, 1).numpy()
    slope = np.polyfit((s[used] ** 2).numpy(), amplitude[used].log().numpy(), 1, w=weight)[0]
    covered = (end**2 - _GUINIER_FROM_A**-2) / (_TRUSTED_TO_A**-2 - _GUINIER_FROM_A**-2)
    return GuinierFit(float(-4 * slope) * min(1.0, covered), count)


def sharpen(
    average: Float[Tensor, "z y x"],
    curves: FscCurves,
    *,
    voxel_A: float,
    bfactor_A2: float,
) -> Float[Tensor, "z y x"]:
    """Undo a B-factor and weight by the FSC.

    Parameters
    ----------
    bfactor_A2
        Of the map, positive: it is multiplied by ``exp(+B s² / 4)``.
    """
    box_A = average.shape[-1] * voxel_A
    weight = fsc_weight(curves)
    return filter_volume(
        average,
        lambda k: (interpolate_shells(weight, k) * (bfactor_A2 / 4 * (k / box_A) ** 2).exp()).to(k),
    )
