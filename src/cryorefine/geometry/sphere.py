"""Quasi-uniform directions on the sphere: any step, any tilt band, any asymmetric unit."""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from cryorefine.geometry.symmetry import SymmetryGroup

__all__ = ["asymmetric_unit", "direction_grid", "directions_from_poses"]

# A direction in general position: on no axis and equally near to no two copies of itself in any
# supported group, so that the points nearest to it form an asymmetric unit.
_SEED = (0.8432, 0.1234, 0.5232)


def asymmetric_unit(
    directions: Float[Tensor, "n 3"], group: SymmetryGroup, *, margin_rad: float = 0.0
) -> Bool[Tensor, "n"]:
    """Tell which directions lie in the group's asymmetric unit.

    The unit is the set of points nearer to one seed than to any symmetric copy of it (the seed's
    Voronoi cell), which is right for every group and needs no table of triangles.

    Parameters
    ----------
    directions
        Unit vectors in object coordinates.
    margin_rad
        Also keep points up to this far beyond the border, so that a discrete grid leaves no gap
        along it.
    """
    seed = torch.tensor(_SEED, dtype=directions.dtype, device=directions.device)
    seed = seed / seed.norm()
    copies = group.matrices.to(directions) @ seed
    own = directions @ seed
    # The border with copy c is the great circle normal to (seed - c): the signed distance to it
    # is the arc sine of the projection on that unit normal.
    inside = torch.ones_like(own, dtype=torch.bool)
    for copy in copies[1:]:
        normal = seed - copy
        inside &= directions @ (normal / normal.norm()) >= -math.sin(min(margin_rad, math.pi / 2))
    return inside


def direction_grid(
    step_rad: float,
    *,
    group: SymmetryGroup | None = None,
    min_tilt_rad: float = 0.0,
    max_tilt_rad: float = math.pi,
) -> Float[Tensor, "n 3"]:
    """Return nearly evenly spread viewing directions about ``step_rad`` apart.

    A golden-angle spiral: equal area per point at any number of points, so any step is possible,
    not only powers of two.

    Parameters
    ----------
    step_rad
        Distance between neighbours: a point owns the area of a square of this side.
    group
        Keep one asymmetric unit of this group (with half a step of margin along its border).
    min_tilt_rad, max_tilt_rad
        Keep only this band; 0 is a top view, π/2 a side view.

    Returns
    -------
    Unit vectors (x, y, z), float64; (sin tilt cos rot, sin tilt sin rot, cos tilt).

    References
    ----------
    .. [1] Swinbank & Purser (2006) Q. J. R. Meteorol. Soc. 132, 1769.
    """
    n = max(2, math.ceil(4 * math.pi / step_rad**2))
    index = torch.arange(n, dtype=torch.float64) + 0.5
    z = 1 - 2 * index / n
    azimuth = index * (math.pi * (3 - math.sqrt(5)))
    radius = (1 - z * z).sqrt()
    points = torch.stack([radius * azimuth.cos(), radius * azimuth.sin(), z], -1)
    slack = 0.5 * step_rad  # a grid point half a step outside the band may be the nearest one
    keep = (z <= math.cos(max(0.0, min_tilt_rad - slack))) & (
        z >= math.cos(min(math.pi, max_tilt_rad + slack))
    )
    if group is not None and group.order > 1:
        keep &= asymmetric_unit(points, group, margin_rad=slack)
    points = points[keep]
    return _clamp_tilt(points, min_tilt_rad, max_tilt_rad)


def _clamp_tilt(points: Tensor, min_tilt_rad: float, max_tilt_rad: float) -> Tensor:
    """Move the points of the slack onto the edge of the band, so that none lies outside it."""
    if min_tilt_rad <= 0 and max_tilt_rad >= math.pi:
        return points
    azimuth = torch.atan2(points[:, 1], points[:, 0])
    tilt = torch.acos(points[:, 2].clamp(-1, 1)).clamp(min_tilt_rad, max_tilt_rad)
    return torch.stack([tilt.sin() * azimuth.cos(), tilt.sin() * azimuth.sin(), tilt.cos()], -1)


def directions_from_poses(poses: Float[Tensor, "*b 3 3"]) -> Float[Tensor, "*b 3"]:
    """Return the viewing directions (third rows) of object-to-image matrices."""
    return poses[..., 2, :]
