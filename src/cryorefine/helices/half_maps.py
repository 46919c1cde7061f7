"""The helix of two half maps: found in each by itself, and imposed on both alike."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from cryorefine.errors import InputError
from cryorefine.geometry.helix import Helix
from cryorefine.helices.filament import halves_fsc
from cryorefine.helices.helical_search import EVERY, Candidate, HelicalRanges, search_helix
from cryorefine.helices.helical_symmetry import impose_helix, soft_radius

__all__ = ["Filament", "HelixFound", "find_helix", "imposed_on"]

_FINEST_VOXELS = 2.2
"""No detail is used below so many voxels, where interpolation and the box's corners show."""

_EDGE_PX = 5.0
"""Width of the cylinders' cosine edges, as of all masks of references."""


@dataclass(frozen=True)
class Filament:
    """Where in a map the filament lies.

    Attributes
    ----------
    voxel_A
        Of the map.
    radius_A, inner_A
        Of the filament, and of the channel in it that is set to 0 (None: there is none).
    fraction
        Part of the box along z that is averaged, the middle.
    """

    voxel_A: float
    radius_A: float
    inner_A: float | None
    fraction: float


@dataclass(frozen=True)
class HelixFound:
    """What two half maps show.

    Attributes
    ----------
    helix
        The mean of both halves.
    twist_uncertainty_deg, rise_uncertainty_A
        Half widths of the range that holds the truth in 95 of 100 cases.
    halves
        What each showed by itself.
    score
        Of the average of both; see :class:`~cryorefine.helices.helical_search.Candidate`.
    rival
        Another helix, of those that are easily taken for this one, that scores higher, in the
        searched ranges or not; None where there is none. Every second and third subunit do not
        count, which are steps of the same helix.
    """

    helix: Helix
    twist_uncertainty_deg: float
    rise_uncertainty_A: float
    halves: tuple[Helix, Helix]
    score: float = 0.0
    rival: Candidate | None = None


def imposed_on(
    volume: Float[Tensor, "z y x"], helix: Helix, filament: Filament
) -> Float[Tensor, "z y x"]:
    """Return a map with its helix imposed, 0 outside the filament; on the device of ``volume``.

    Raises
    ------
    InputError
        If the rise does not repeat within the map.
    """
    n = volume.shape[-1]
    found = impose_helix(
        volume.cpu().float(),
        helix,
        voxel_A=filament.voxel_A,
        radius_px=filament.radius_A / filament.voxel_A,
        edge_px=_EDGE_PX,
        fraction=filament.fraction,
    )
    if filament.inner_A is not None:
        axis, inner_px = np.arange(n) - n // 2, filament.inner_A / filament.voxel_A
        edge_px = min(_EDGE_PX, inner_px / 2)
        channel = soft_radius(np.hypot(axis[:, None], axis), inner_px - edge_px, edge_px)
        found = found * (1 - torch.from_numpy(channel).float())
    return found.to(volume)


def find_helix(
    halves: tuple[Float[Tensor, "z y x"], Float[Tensor, "z y x"]],
    helix: Helix,
    filament: Filament,
    *,
    twist_deg: tuple[float, float],
    rise_A: tuple[float, float],
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> HelixFound:
    """Find twist and rise of two half maps that have had no helix imposed.

    Each half is searched by itself, with the detail that both share. The average of both is used
    for the test whether there is a helix at all and for the uncertainty alone, which is at least
    half of the difference between the halves.

    Parameters
    ----------
    helix
        Has the order of the axis along z.
    twist_deg, rise_A
        Lowest and highest.

    Raises
    ------
    InputError
        If the halves show no helix, or one at the border of a range, or not the same one.
    """
    first, second = (half.cpu().float() for half in halves)
    curve, shared_A = halves_fsc(first, second, filament.voxel_A, filament.radius_A)
    coarsest_A = first.shape[-1] * filament.voxel_A / 4
    resolution_A = max(shared_A, _FINEST_VOXELS * filament.voxel_A)
    if not resolution_A <= coarsest_A:
        raise InputError("the half maps share too little detail to tell twist and rise")
    ranges = HelicalRanges(
        twist_deg=twist_deg,
        rise_A=rise_A,
        fold=helix.fold,
        radius_A=filament.radius_A,
        resolution_A=resolution_A,
        fraction=filament.fraction,
    )
    found = search_helix(
        (first, second), ranges, voxel_A=filament.voxel_A, fsc=curve, progress=progress
    )
    one, other = (half.helix for half in found.halves)
    turn_deg = math.remainder(other.twist_deg - one.twist_deg, 360 / helix.fold)
    apart_A = math.hypot(math.radians(turn_deg) * filament.radius_A, other.rise_A - one.rise_A)
    # At the next copy: farther apart they are peaks of two different helices.
    if apart_A > resolution_A / 2:
        raise InputError(
            f"the half maps do not show the same helix: {one.twist_deg:.2f}°, {one.rise_A:.3f} Å "
            f"and {other.twist_deg:.2f}°, {other.rise_A:.3f} Å"
        )
    mean = replace(
        helix, twist_deg=one.twist_deg + turn_deg / 2, rise_A=(one.rise_A + other.rise_A) / 2
    )
    others = (c for c in found.alternatives if not c.relation.startswith(EVERY))
    rival = max(others, key=lambda c: c.score, default=None)
    if rival is not None and rival.score <= found.best.score:
        rival = None
    return HelixFound(
        helix=mean,
        twist_uncertainty_deg=found.twist_uncertainty_deg,
        rise_uncertainty_A=found.rise_uncertainty_A,
        halves=(one, other),
        score=found.best.score,
        rival=rival,
    )
