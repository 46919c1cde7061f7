"""Quasi-uniform directions on the sphere: any step, any tilt band, any asymmetric unit."""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from cryorefine.geometry.protocol import Symmetry

__all__ = ["asymmetric_unit", "direction_grid", "directions_from_poses"]

# A direction in general position: on no axis and equally near to no two copies of itself in any
# supported group, so that the points nearest to it form an asymmetric unit.
_SEED = (0.8432, 0.1234, 0.5232)


def asymmetric_unit(
    directions: Float[Tensor, "n 3"], group: Symmetry, *, margin_rad: float = 0.0
) -> Bool[Tensor, "n"]:
    """Tell which directions lie in the asymmetric unit of a symmetry's point group.

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
    seed = _seed(directions)
    inside = torch.ones(len(directions), dtype=torch.bool, device=directions.device)
    for matrix in group.point_group.to(directions)[1:]:
        inside &= ~_beyond_border(directions, seed, matrix @ seed, margin_rad)
    return inside


def _seed(like: Tensor) -> Tensor:
    seed = torch.tensor(_SEED, dtype=like.dtype, device=like.device)
    return seed / seed.norm()


def _beyond_border(directions: Tensor, seed: Tensor, copy: Tensor, margin_rad: float) -> Tensor:
    """Tell which directions are nearer a seed's copy than the seed, by more than the margin."""
    # The border is the great circle normal to (seed - copy): the signed distance to it is the
    # arc sine of the projection on that unit normal.
    normal = seed - copy
    return directions @ (normal / normal.norm()) < -math.sin(min(margin_rad, math.pi / 2))


def direction_grid(
    step_rad: float,
    *,
    group: Symmetry | None = None,
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
        Keep one asymmetric unit of its point group (with half a step of margin along its border).
    min_tilt_rad, max_tilt_rad
        Keep only this band; 0 is a top view, π/2 a side view. With a group, one of each set of
        equivalent directions in the band is kept: all of them where the group leaves the band.

    Returns
    -------
    Unit vectors (x, y, z), float64; (sin tilt cos rot, sin tilt sin rot, cos tilt).

    References
    ----------
    .. [1] Swinbank & Purser (2006) Q. J. R. Meteorol. Soc. 132, 1769.
    """
    n = max(2, math.ceil(4 * math.pi / step_rad**2))
    # Starting 0.3 from the pole, not half a point, closes the spiral's largest holes, beside the
    # poles: no direction is farther than 0.75 steps from the grid (0.77 otherwise).
    index = torch.arange(n, dtype=torch.float64) + 0.3
    z = 1 - 2 * index / (n - 0.4)
    azimuth = index * (math.pi * (3 - math.sqrt(5)))
    radius = (1 - z * z).sqrt()
    points = torch.stack([radius * azimuth.cos(), radius * azimuth.sin(), z], -1)
    slack = 0.5 * step_rad  # a grid point half a step outside the band may be the nearest one
    depth = _depth_in_band(points, min_tilt_rad, max_tilt_rad)
    points, depth = points[depth >= -slack], depth[depth >= -slack]
    if group is not None and len(group.point_group) > 1:
        seed = _seed(points)
        is_whole = min_tilt_rad <= 0 and max_tilt_rad >= math.pi
        margin = slack if is_whole else 1.5 * slack
        redundant = torch.zeros(len(points), dtype=torch.bool)
        for matrix in group.point_group[1:]:
            # A point may go if an equivalent one is nearer the seed and in the band for sure: deep
            # inside, or (as in cyclic groups) just as deep. Others the group takes out of it.
            nearer = _beyond_border(points, seed, matrix @ seed, margin)
            copy_depth = _depth_in_band(points @ matrix, min_tilt_rad, max_tilt_rad)
            alike = (copy_depth - depth).abs() < 1e-9
            redundant |= nearer & (alike | (copy_depth >= 1.5 * slack))
        points = points[~redundant]
    return _clamp_tilt(points, min_tilt_rad, max_tilt_rad)


def _depth_in_band(points: Tensor, min_tilt_rad: float, max_tilt_rad: float) -> Tensor:
    """Return how far inside the band of tilts points lie, negative outside; poles bound nothing."""
    tilt = torch.acos(points[:, 2].clamp(-1, 1))
    above = tilt - (min_tilt_rad if min_tilt_rad > 0 else -math.inf)
    below = (max_tilt_rad if max_tilt_rad < math.pi else math.inf) - tilt
    return torch.minimum(above, below)


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
