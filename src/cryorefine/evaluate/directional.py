"""Resolution by direction: what half maps agree on within cones of Fourier space."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from cryorefine.evaluate.fsc import FscCurves, corrected_fsc, resolution, whiten
from cryorefine.fourier.fft import volume_to_half
from cryorefine.fourier.shell import hermitian_weight
from cryorefine.geometry.protocol import Symmetry
from cryorefine.geometry.sphere import asymmetric_unit, direction_grid

__all__ = ["DirectionalResolution", "directional_resolution"]

_CONE_RAD = math.radians(30.0)
"""Half angle of the cones: each holds an eighth of all directions, enough points in coarse shells
for a curve. Other angles were not measured."""

_STEP_RAD = math.radians(20.0)
"""Distance of neighbouring cones' axes: less than their half angle, so that no direction lies at
the rim of all."""


@dataclass(frozen=True)
class DirectionalResolution:
    """Where half maps agree least.

    Attributes
    ----------
    worst_A
        Resolution within the cone where it is coarsest; infinity if there is none.
    tilt_deg
        Angle between that cone's axis and the z axis, 0 to 90.
    """

    worst_A: float
    tilt_deg: float


def directional_resolution(
    half1: Float[Tensor, "z y x"],
    half2: Float[Tensor, "z y x"],
    mask: Float[Tensor, "z y x"],
    curves: FscCurves,
    group: Symmetry,
    *,
    voxel_A: float,
    threshold: float,
) -> DirectionalResolution:
    """Return the worst resolution of two half maps over the directions of Fourier space.

    The FSC averages over directions, and those without data have next to no weight in it. Here it
    is taken within double cones of 30° about axes 20° apart in the group's asymmetric unit.

    Parameters
    ----------
    curves
        Of the same maps and mask: each cone is corrected by their phase-randomised curve.
    """
    n = half1.shape[-1]
    first, second = (volume_to_half(whiten(half) * mask) for half in (half1, half2))
    k = torch.fft.fftfreq(n, 1 / n, device=first.device)
    x = torch.arange(n // 2 + 1, device=first.device).float()
    radius = (k[:, None, None].square() + k[:, None].square() + x.square()).sqrt()
    inside = (radius > 0) & (radius < n // 2 + 0.5)
    z, y, column = torch.nonzero(inside, as_tuple=True)
    directions = torch.stack([x[column], k[y], k[z]], -1) / radius[inside, None]
    shell = radius[inside].round().long()
    a, b = first[inside], second[inside]
    terms = torch.stack([(a * b.conj()).real, a.abs().square(), b.abs().square()])
    terms = terms * hermitian_weight(n).to(first.device)[column]
    start = round(n * voxel_A / curves.randomised_from_A)
    axes = direction_grid(_STEP_RAD)
    axes = axes[asymmetric_unit(axes, group, margin_rad=_STEP_RAD / 2)]
    if bool((group.point_group[:, 2, 2] > 1 - 1e-9).all()):
        axes = axes[axes[:, 2] >= 0]  # the mates of the others, which turns about z leave there
    worst = DirectionalResolution(0.0, 0.0)
    for axis in axes:
        is_near = (directions @ axis.to(directions)).abs() >= math.cos(_CONE_RAD)
        sums = torch.zeros(3, n // 2 + 1, dtype=torch.float64, device=first.device)
        sums.index_add_(1, shell[is_near], terms[:, is_near].double())
        cross, power1, power2 = sums.cpu()
        curve = cross / (power1 * power2).sqrt().clamp_min(1e-30)
        curve = corrected_fsc(curve, curves.randomised, start)
        found_A = resolution(curve, curves.frequency_per_A, threshold)
        if found_A > worst.worst_A:
            tilt_rad = math.acos(min(1.0, abs(float(axis[2]))))
            worst = DirectionalResolution(found_A, math.degrees(tilt_rad))
    return worst
