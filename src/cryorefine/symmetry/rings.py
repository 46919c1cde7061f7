"""How a map repeats about an axis: its angular harmonics on rings around it.

A map with an n-fold axis has harmonics of multiples of n alone. The harmonic 0, which any rotation
about the axis leaves as it is, is left out: a smooth barrel is no evidence of its symmetry.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["Rings", "agreement", "frames", "harmonics", "make_rings", "mean_agreement", "sampled"]

_LEAST_SIGNAL = 0.2
"""Signal that depends on the angle, of the noise that does, below which no agreement is counted as
full: the noise itself is known to a few percent."""


@dataclass(frozen=True, eq=False)
class Rings:
    """Places on rings about z, within a sphere.

    Attributes
    ----------
    points_px
        (ring, angle, xyz) in voxels from the origin.
    weights
        Volume that a ring stands for.
    """

    points_px: Float[Tensor, "r m 3"]
    weights: Float[Tensor, "r"]


def make_rings(radius_px: float, detail_px: float) -> Rings:
    """Return rings half a detail apart along the radius and the tilt, twice as fine around."""
    n_radii = max(4, math.ceil(2 * radius_px / detail_px))
    n_tilts = max(6, math.ceil(math.pi * radius_px / detail_px))
    n_angles = 2 * math.ceil(2 * math.pi * radius_px / detail_px)
    radius = (torch.arange(n_radii) + 0.5) * (radius_px / n_radii)
    cosine = 1 - (torch.arange(n_tilts) + 0.5) * (2 / n_tilts)
    angle = torch.arange(n_angles) * (2 * math.pi / n_angles)
    r, c = (a.flatten() for a in torch.meshgrid(radius, cosine, indexing="ij"))
    across = r * (1 - c * c).sqrt()
    points = torch.stack(
        [across[:, None] * angle.cos(), across[:, None] * angle.sin(),
         (r * c)[:, None].expand(-1, n_angles)],
        -1,
    )  # fmt: skip
    return Rings(points, r * r)


def frames(directions: Float[Tensor, "n 3"]) -> Float[Tensor, "n 3 3"]:
    """Return rotations that take z to each direction."""
    least = directions.abs().argmin(1)
    helper = torch.eye(3).to(directions)[least]
    x = torch.nn.functional.normalize(torch.linalg.cross(helper, directions), dim=1)
    y = torch.linalg.cross(directions, x)
    return torch.stack([x, y, directions], -1)


def sampled(
    volume: Float[Tensor, "z y x"], places_px: Float[Tensor, "*b 3"]
) -> Float[Tensor, "*b"]:
    """Return a map's values at places (x, y, z) in voxels from its origin, by linear interpolation.

    They can be differentiated with respect to the places; outside the map they are 0.
    """
    n = volume.shape[-1]
    at = (places_px + n // 2) * (2 / (n - 1)) - 1
    grid = at.reshape(1, 1, 1, -1, 3)
    found = torch.nn.functional.grid_sample(volume[None, None], grid, align_corners=True)
    return found.view(places_px.shape[:-1])


def harmonics(
    maps: tuple[Float[Tensor, "z y x"], ...],
    rings: Rings,
    turns: Float[Tensor, "a 3 3"],
    shift_px: Float[Tensor, "3"] | None = None,
) -> Float[Tensor, "a h"]:
    """Return the power in each angular harmonic about axes, from 0 on.

    Parameters
    ----------
    maps
        One map, or two half maps, of which the cross power is returned: noise has none.
    turns
        Rotations that take z to each axis.
    shift_px
        Where the axes meet.
    """
    out = []
    for turn in turns.to(rings.points_px):
        places = rings.points_px @ turn.T
        if shift_px is not None:
            places = places + shift_px.to(places)
        spectra = [torch.fft.rfft(sampled(volume, places), dim=-1) for volume in maps]
        power = (spectra[0] * spectra[-1].conj()).real
        out.append(rings.weights @ power)
    return torch.stack(out)


def agreement(
    power: Float[Tensor, "*b h"], fold: int, noise: Float[Tensor, "h"] | None = None
) -> Float[Tensor, "*b"]:
    """Return the correlation of a map with its copy that agrees least, about an n-fold axis.

    Of what depends on the angle, less what noise has of it: 1 where the axis is one, whatever the
    noise; about 0 where it is none, and where there is little but noise.
    """
    return _of_copies(power, fold, noise).amin(-1)


def mean_agreement(
    power: Float[Tensor, "*b h"], fold: int, noise: Float[Tensor, "h"] | None = None
) -> Float[Tensor, "*b"]:
    """Return the mean of the correlations with all copies, which an inexact axis lowers less."""
    return _of_copies(power, fold, noise).mean(-1)


def _of_copies(power: Tensor, fold: int, noise: Tensor | None) -> Tensor:
    m = torch.arange(1, power.shape[-1], dtype=power.dtype)
    steps = torch.arange(1, fold // 2 + 1, dtype=power.dtype)  # those beyond are their inverses
    waves = (m[:, None] * steps * (2 * math.pi / fold)).cos()
    uneven, least = power[..., 1:], 1e-30
    if noise is not None:
        uneven = uneven - noise[1:]
        least = max(_LEAST_SIGNAL * float(noise[1:].sum()), least)
    return (uneven @ waves) / uneven.sum(-1, keepdim=True).clamp_min(least)
