"""Find the point group of a map: candidates placed, scored and judged, none assumed.

For each candidate its axes are placed where the map agrees best with its copies about them. A map
without the symmetry has such a place, too; what tells is how well the axes of each kind agree, of
what a group of this map would show with its noise, and of what directions that are no axes show.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from cryorefine.errors import InputError
from cryorefine.geometry.rotation import geodesic_angle, matrix_from_rotvec
from cryorefine.geometry.symmetry import SymmetryGroup, parse_symmetry
from cryorefine.symmetry.group_axes import group_axes
from cryorefine.symmetry.judge import Candidate, judged, make_judge
from cryorefine.symmetry.prepared import locate, measure_spectra, prepared
from cryorefine.symmetry.search import Placement

__all__ = ["MAX_FOLD", "FoundSymmetry", "default_groups", "find_symmetry", "record_of"]

MAX_FOLD = 24
"""Largest fold that can be told: at the coarse map's detail a surface has 28 details around it."""

_COARSE_PER_RADIUS = 4.5
"""Details of the coarse map within the radius: about a thousand directions."""

_MIN_DETAILS = 2.5
"""Details within the radius that a map needs at least: with fewer there is no shape to compare."""

_DETAIL_A, _BEYOND_VOXELS = 8.0, 2.5
"""Finest detail that is used of a single map, in Å, and in voxels of any: axes are found to a
tenth of a degree with it, and side chains, which may differ, have no part in it."""

_SIGNAL, _SIGNAL_OF_HALVES = 0.3, 0.143
"""Share of a shell's power that is signal where the detail that is used ends; of half maps the
limit of their FSC that is usual."""

_DIP = 2
"""Shells to either side that a shell's share is averaged over: spectra of small particles have
dips a few shells wide."""


@dataclass(frozen=True, eq=False)
class FoundSymmetry:
    """The symmetry of a map.

    Attributes
    ----------
    name
        The largest group that the map shows; ``c1`` if it shows none.
    candidates
        All that were looked at, the best first.
    rotation
        Turns the map's content so that its axes lie as the name says; active, (3, 3).
    centre_A
        Where the axes meet, (x, y, z) from the box's origin. What a cyclic group leaves open along
        its axis is the centre of the density.
    radius_A
        Of the particle.
    resolution_A
        Finest detail that was used.
    """

    name: str
    candidates: list[Candidate]
    rotation: Float[Tensor, "3 3"]
    centre_A: tuple[float, float, float]
    radius_A: float
    resolution_A: float

    @property
    def shift_A(self) -> Float[Tensor, "3"]:
        """By which the turned content moves so that its axes meet at the origin."""
        return -(self.rotation @ torch.tensor(self.centre_A, dtype=self.rotation.dtype))


def default_groups(max_fold: int) -> list[str]:
    """Return the names of all groups up to a fold, in RELION's settings.

    Raises
    ------
    InputError
        If axes of that fold cannot be told.
    """
    if not 2 <= max_fold <= MAX_FOLD:
        raise InputError(
            f"no axes of {max_fold} fold are looked for",
            where="--max-fold",
            do=f"give 2 to {MAX_FOLD}",
        )
    folds = range(2, max_fold + 1)
    return [*(f"c{n}" for n in folds), *(f"d{n}" for n in folds), "t", "o", "i2"]


def find_symmetry(
    maps: Sequence[Float[Tensor, "z y x"]],
    groups: Sequence[str],
    *,
    voxel_A: float,
    resolution_A: float | None = None,
) -> FoundSymmetry:
    """Find which of some groups a map shows, and where its axes lie; nothing is assumed of them.

    Parameters
    ----------
    maps
        One map, or two half maps: their noise is then told apart by comparing them.
    groups
        Names; c1 need not be among them.
    resolution_A
        Finest detail to use; None takes what the FSC of half maps says, or of a single map the
        power of the particle above that of its surroundings, to 8 Å.

    Raises
    ------
    InputError
        If the map shows no particle, or no detail to judge by.
    """
    average = torch.stack(list(maps)).mean(0)
    where = locate(average, voxel_A)
    spectra = measure_spectra(maps, where, voxel_A)
    used_A = _usable_detail(spectra.share, len(maps), average.shape[-1] * voxel_A, resolution_A)
    if not _BEYOND_VOXELS * voxel_A * 0.999 <= used_A <= where.radius_A / _MIN_DETAILS:
        raise InputError(
            f"detail of {used_A:.3g} Å says nothing of a particle of {where.radius_A:.0f} Å radius "
            f"in voxels of {voxel_A:.3g} Å",
            where="--resolution-angstrom",
            do=f"give {_BEYOND_VOXELS * voxel_A:.3g} to {where.radius_A / _MIN_DETAILS:.3g} Å",
        )
    coarse_A = max(used_A, where.radius_A / _COARSE_PER_RADIUS)
    coarse, fine = (
        prepared(maps, spectra, where, voxel_A=voxel_A, resolution_A=r) for r in (coarse_A, used_A)
    )
    wanted = [g for g in map(parse_symmetry, dict.fromkeys(groups)) if g.order > 1]
    folds = sorted({axis.fold for group in wanted for axis in group_axes(group)})
    judge = make_judge(coarse, fine, folds)
    candidates: list[Candidate] = []
    best: tuple[SymmetryGroup, Placement] | None = None
    for group in sorted(wanted, key=lambda g: -g.order):
        candidate = judged(judge, group, best)
        candidates.append(candidate)
        if best is None and candidate.is_supported and candidate.placement is not None:
            best = group, candidate.placement
    candidates = [_in_box(c, where.centre_A, fine.voxel_A) for c in candidates]
    candidates.sort(key=lambda c: (not c.is_supported, 0 if c.is_supported else -c.agreement))
    if best is None:
        eye = torch.eye(3, dtype=torch.float64)
        return FoundSymmetry("c1", candidates, eye, where.centre_A, where.radius_A, used_A)
    group, placed = best[0], candidates[0].placement
    if placed is None:
        raise ValueError("the best candidate was placed")
    x, y, z = placed.shift.tolist()
    turn = _least_turn(group, placed.rotation)
    return FoundSymmetry(group.name, candidates, turn, (x, y, z), where.radius_A, used_A)


def _usable_detail(share: Tensor, n_maps: int, box_A: float, resolution_A: float | None) -> float:
    """Return the finest detail to use: where signal ends, of dips in its spectrum none."""
    if resolution_A is not None:
        return resolution_A
    finest_A = _BEYOND_VOXELS * box_A / (2 * (len(share) - 1))
    padded = torch.nn.functional.pad(share[None, None], (_DIP, _DIP), mode="replicate")
    mean = torch.nn.functional.avg_pool1d(padded, 2 * _DIP + 1, 1)[0, 0]
    lacks = torch.nonzero(mean[1:] < (_SIGNAL if n_maps == 1 else _SIGNAL_OF_HALVES))
    # Beyond the first gap there may be more: artefacts of filters and masks, that is.
    measured_A = box_A / max(float(lacks.min()) if len(lacks) else len(share) - 1.0, 1.0)
    return max(measured_A, finest_A, _DETAIL_A if n_maps == 1 else 0.0)


def _least_turn(group: SymmetryGroup, rotation: Tensor) -> Tensor:
    """Return the smallest of the rotations that bring a map's axes to where convention has them."""
    back = rotation.T
    if len(group_axes(group)) == 1:
        # Any rotation about z may follow: the axis takes the shortest way to z.
        axis = rotation[:, 2] * (1.0 if float(rotation[2, 2]) >= 0 else -1.0)
        cross = torch.linalg.cross(axis, torch.tensor([0.0, 0.0, 1.0]).to(axis))
        angle = torch.atan2(cross.norm(), axis[2])
        return matrix_from_rotvec(cross / cross.norm().clamp_min(1e-12) * angle)
    turns = group.matrices @ back
    nothing = torch.eye(3).to(turns).expand_as(turns)
    return turns[int(geodesic_angle(turns, nothing).argmin())]


def _in_box(
    candidate: Candidate, centre_A: tuple[float, float, float], voxel_A: float
) -> Candidate:
    """Return a candidate whose axes meet at a place given in ångströms from the box's origin."""
    placed = candidate.placement
    if placed is None:
        return candidate
    shift = torch.tensor(centre_A, dtype=torch.float64) + placed.shift * voxel_A
    return replace(candidate, placement=replace(placed, shift=shift))


def record_of(found: FoundSymmetry) -> dict[str, Any]:
    """Return what was found as a record of plain values, for a file."""
    return {
        "symmetry": found.name,
        "rotation": found.rotation.tolist(),
        "centre_A": list(found.centre_A),
        "radius_A": found.radius_A,
        "resolution_A": found.resolution_A,
        "candidates": [
            {
                "name": candidate.name,
                "agreement": candidate.agreement,
                "is_supported": candidate.is_supported,
                "reason": candidate.reason,
            }
            for candidate in found.candidates
        ],
    }
