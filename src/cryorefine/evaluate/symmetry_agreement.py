"""How well a map agrees with the copies that a symmetry makes of it."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from scipy import ndimage
from torch import Tensor

from cryorefine.evaluate.radial_means import radial_means
from cryorefine.geometry.protocol import Symmetry
from cryorefine.geometry.rotation import rotvec_from_matrix

__all__ = [
    "SymmetryAgreement",
    "is_contradicted",
    "symmetry_agreement",
    "without_radial_mean",
]

_FEATURELESS = 0.05
"""Share of a map's contrast that must depend on the direction for it to show or lack a symmetry.
Phantoms low-passed to 30 Å have 0.3 to 0.6 of it; a sphere has rounding. Not measured further."""

_NEEDED_NATS = 3.0
"""Gain of the other half's images that is told, mean of both directions: if the symmetric map is
right the expected likelihood ratio is 1, so that by Markov's inequality a gain of log(20) comes up
in one of twenty runs at most; sets with the right symmetry had -5 to 1.2 (docs/symmetry.md)."""

_NEEDED_SHARE = 0.02
"""Share of the coarse map's power, without its radial mean, that must be asymmetric: where images
say much, small differences between subunits, and what a damped reference lacks, are significant,
and no wrong symmetry. Sets with the right symmetry had 0.002 to 0.024, the latter with a loss of
likelihood, and wrong ones that images tell 0.022 and more (same table)."""


@dataclass(frozen=True)
class SymmetryAgreement:
    """The copy that agrees least with a map.

    Attributes
    ----------
    correlation
        With that copy, of what is left of the map without its radial mean; 1 for a map without
        features, and for no symmetry.
    axis, angle_deg
        Of the rotation that makes the copy.
    """

    correlation: float
    axis: tuple[float, float, float]
    angle_deg: float


def symmetry_agreement(volume: Float[Tensor, "z y x"], group: Symmetry) -> SymmetryAgreement:
    """Compare a map on the CPU with all its symmetric copies.

    The radial mean is the same in all copies whatever the symmetry, and most of the contrast at
    low resolution: with it a D2 particle at 30 Å correlates to 0.95 with its C4 copy, without it to
    less than 0.1. Copies are made by cubic splines, for maps without detail near their sampling.
    Operators that move the object along an axis are left out.

    Returns
    -------
    Of all copies the one that agrees least.
    """
    features = without_radial_mean(volume)
    worst = SymmetryAgreement(1.0, (0.0, 0.0, 1.0), 0.0)
    norm = float(features.norm())
    if norm < _FEATURELESS * float((volume - volume.mean()).norm()) or norm == 0:
        return worst
    coefficients = ndimage.spline_filter(features.numpy(), order=3)
    origin = np.full(3, volume.shape[-1] // 2, dtype=np.float64)
    for matrix in group.point_group:
        turned = matrix.numpy()[::-1, ::-1]  # array axes are z, y, x
        offset: Any = origin - turned @ origin  # scipy's own annotation has numbers only
        copy = torch.from_numpy(
            ndimage.affine_transform(coefficients, turned, offset, order=3, prefilter=False)
        )
        correlation = float((features * copy).sum() / (norm * copy.norm()).clamp_min(1e-30))
        if correlation < worst.correlation:
            vector = rotvec_from_matrix(matrix)
            angle = float(vector.norm())
            x, y, z = (vector / max(angle, 1e-12)).tolist()
            worst = SymmetryAgreement(correlation, (x, y, z), float(np.degrees(angle)))
    return worst


def without_radial_mean(volume: Float[Tensor, "z y x"]) -> Float[Tensor, "z y x"]:
    """Return a map less its mean at each distance from the origin, and 0 outside the sphere."""
    n = volume.shape[-1]
    axis = torch.arange(n) - n // 2
    squares = axis * axis
    radius = (squares[:, None, None] + squares[:, None] + squares).double().sqrt()
    radial = radial_means(volume.reshape(1, -1), radius.flatten())
    features = volume - radial.view_as(volume).to(volume)
    return features * (radius <= n // 2 - 1)


def is_contradicted(gain_nats: float, asymmetric_share: float) -> bool:
    """Tell whether a run's images contradict its symmetry; NaN, not measured, does not.

    Parameters
    ----------
    gain_nats
        Log-likelihood that a half's images gain by a map without the symmetry, which the other
        half's images made; mean of both directions.
    asymmetric_share
        Share of the coarse map's power, without its radial mean, that is not symmetric.
    """
    return gain_nats > _NEEDED_NATS and asymmetric_share > _NEEDED_SHARE
