"""How crowded slices are in each direction of Fourier space, and how to level it."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import grid_sample

from cryorefine.geometry.protocol import Symmetry
from cryorefine.geometry.sphere import direction_grid, directions_from_poses

__all__ = ["Crowding", "evenness", "slice_density", "view_crowding"]

_BAND, _PROBE_BAND = 0.04, 0.08
"""Distances from a slice within which a direction counts as its own (Gaussian, as a sine): 2.3°
where the crowd is levelled, for it may end sharply, 4.6° where only its evenness is asked for."""

_SPACING = 0.07
"""Between the points of the table, for directions as unit vectors."""

_LEAST = 0.1
"""Directions are levelled down to this density, relative to the mean."""

_EMPTY = 1e-3
"""Density below which half maps are empty: the least regularisation of
:func:`~cryorefine.reconstruct.solve.solve`."""

_EVEN = 0.9
"""Evenness from which on nothing is levelled: 250 random views have 0.98, 50 have 0.87."""

_PROBES_RAD = math.radians(6.0)
"""Distance of the directions that the evenness is measured at: about the width of ``_PROBE_BAND``
(4.6°). Not measured."""

_MAX_VIEWS = 4000
"""Views that a table of densities is made of, symmetric copies included. Half as many as before
gave the D7 set with preferred views 0.35 instead of 0.36° (``benchmarks/RESULTS.md``, "Preferred
views")."""

_ANGLES = 128
"""Directions of an image for which densities are read: 1.4° apart, less than the band of 2.3°."""

_BLOCK = 64
"""Directions that are compared with all views together: 1 MB of temporaries, which stay in the
cache."""

_FAR = -40.0
"""Exponent below which a view counts no more: 4e-18, and still a normal number in single
precision."""


@dataclass(frozen=True, eq=False)
class Crowding:
    """What slices are multiplied with so that no direction is more crowded than another.

    Attributes
    ----------
    log_levels
        Logarithm of the factors on a cubic lattice about the origin, axes z, y, x; right at the
        points beside the unit sphere.
    evenness
        Mean noise power of a half map if all directions were alike, over what it is.
    """

    log_levels: Float[Tensor, "m m m"]
    evenness: float

    def _at(self, directions: Float[Tensor, "a b 3"]) -> Float[Tensor, "a b"]:
        reach = (self.log_levels.shape[0] - 1) / 2 * _SPACING
        table = self.log_levels[None, None]
        where = (directions.float() / reach)[None, None]
        return grid_sample(table, where, align_corners=True)[0, 0, 0].exp()

    def of_slices(
        self, rotations: Float[Tensor, "b 3 3"], points: Float[Tensor, "p 2"]
    ) -> Float[Tensor, "b p"]:
        """Return the factor of every sample of some slices.

        It is looked up for 128 directions of each slice; those between take the nearest, 0.7° away
        at most.
        """
        angle = torch.arange(_ANGLES, device=points.device, dtype=torch.float64)
        angle = angle * (math.pi / _ANGLES)
        line = torch.stack([angle.cos(), angle.sin()], -1)
        # Points k of an image lie at Aᵀ k of the volume. Magnified rows are no unit vectors.
        directions = torch.nn.functional.normalize(line @ rotations[:, :2], dim=-1)
        turn = torch.atan2(points[:, 1], points[:, 0]) * (_ANGLES / math.pi)
        return self._at(directions)[:, turn.round().long() % _ANGLES]

    def restore(self, values: Tensor, weights: Tensor, centre: int) -> None:
        """Divide folded sums by the factors, in place: quotients stay, weights are data again.

        Parameters
        ----------
        values, weights
            Half grids (z, y, x ≥ 0) with frequency zero at ``(centre, centre, 0)``.
        """
        axis = torch.arange(-centre, centre + 1, device=weights.device, dtype=torch.float32)
        y, x = torch.meshgrid(axis, axis[centre:], indexing="ij")
        for section, z in enumerate(axis):
            point = torch.stack([x, y, z.expand_as(x)], -1)
            factor = self._at(torch.nn.functional.normalize(point, dim=-1))
            values[section] /= factor
            weights[section] /= factor


def slice_density(
    directions: Float[Tensor, "m 3"],
    rotations: Float[Tensor, "n 3 3"],
    weights: Float[Tensor, "n"],
    group: Symmetry,
    *,
    band: float,
) -> Float[Tensor, "m"]:
    """Return how densely slices lie about some directions, over the mean of the sphere.

    Parameters
    ----------
    directions
        Unit vectors in the frame of the volume.
    rotations, weights
        Of the particles; all symmetric copies count. Of large sets a sample is taken.
    band
        Standard deviation of the Gaussian about each slice, as the sine of the angle to it.
    """
    every = math.ceil(max(1, len(rotations)) * group.order / _MAX_VIEWS)
    chosen = group.equivalents(rotations[::every].double())
    views = directions_from_poses(chosen).flatten(0, 1).float()
    share = weights[::every].float().to(views.device).repeat_interleave(group.order)
    share = share / (share.sum().clamp_min(1e-30) * (band * math.sqrt(math.pi / 2)))
    near = directions.float().to(views.device)
    parts = [
        # Numbers too small to be normal ones would make this ten times as slow.
        (block @ views.T).square_().mul_(-0.5 / band**2).clamp_(min=_FAR).exp_() @ share
        for block in near.split(_BLOCK)
    ]
    return torch.cat(parts)


def evenness(density: Float[Tensor, "m"]) -> float:
    """Return a half map's mean noise power if all directions had the same data, over what it is.

    Noise goes with one over the data, and what is next to empty holds neither noise nor signal.

    Parameters
    ----------
    density
        Of slices about directions that are spread evenly over the sphere.
    """
    density = density.double() / density.double().mean().clamp_min(1e-30)
    kept = (density + _EMPTY).square().reciprocal()
    return float((density.square() * kept).sum() / (density * kept).sum().clamp_min(1e-30))


def view_crowding(
    rotations: Float[Tensor, "n 3 3"],
    weights: Float[Tensor, "n"],
    group: Symmetry,
    device: torch.device | str = "cpu",
) -> Crowding | None:
    """Measure how uneven the slices of some particles lie; None where they are even enough.

    Parameters
    ----------
    rotations, weights
        Object-to-image matrices of the particles that are reconstructed, and their weights; on the
        CPU.
    device
        Where samples will be looked up.
    """
    if not bool((weights > 0).any()):
        return None
    probes = direction_grid(_PROBES_RAD)
    probes = probes[probes[:, 2] >= 0]
    even = evenness(slice_density(probes, rotations, weights, group, band=_PROBE_BAND))
    if even > _EVEN:
        return None
    # The lattice reaches one point beyond the sphere.
    half = math.ceil(1 / _SPACING) + 1
    axis = torch.arange(-half, half + 1, dtype=torch.float64) * _SPACING
    z, y, x = torch.meshgrid(axis, axis, axis, indexing="ij")
    point = torch.stack([x, y, z], -1).flatten(0, 2)
    length = point.norm(dim=1)
    # Mates are alike: the first half of the lattice is that of the second, read backwards.
    is_near = (length - 1).abs() <= math.sqrt(3) * _SPACING
    is_near &= torch.arange(len(point)) >= len(point) // 2
    nodes = point[is_near] / length[is_near, None]
    density = slice_density(nodes, rotations, weights, group, band=_BAND)
    log_levels = torch.zeros(len(point))
    log_levels[is_near] = -density.clamp_min(_LEAST).log()
    is_mate = torch.arange(len(point)) < len(point) // 2
    log_levels = torch.where(is_mate, log_levels.flip(0), log_levels)
    return Crowding(log_levels.view(x.shape).to(device), even)
