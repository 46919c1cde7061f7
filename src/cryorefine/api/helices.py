"""The helix of a map: found, and imposed."""

import math
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from cryorefine.api.boundary import library_call, threads_restored
from cryorefine.api.volume import Volume, as_tensor, as_volume, require_same_grid
from cryorefine.engine.threads import use_threads
from cryorefine.errors import InputError
from cryorefine.events import Listener, WorkAdvanced
from cryorefine.geometry.helix import Helix
from cryorefine.geometry.symmetry import parse_symmetry
from cryorefine.helices.filament import FilamentAxis, filament_radius_A, halves_fsc
from cryorefine.helices.helical_search import (
    HelicalRanges,
    HelicalSearch,
    average_of,
    prepared_map,
    search_helix,
)
from cryorefine.helices.helical_symmetry import impose_helix as impose
from cryorefine.helices.two_fold import NEEDED, find_two_fold
from cryorefine.symmetry.helical_axis import (
    density_axis,
    find_axis,
    onto_z,
    radius_about,
    require_along_z,
)
from cryorefine.symmetry.turn import turned_map

__all__ = ["helical_search", "impose_helix", "searched", "symmetrised"]

_DETAIL_A = 6.0
"""Resolution that a single map is taken to have at best, in Å: most maps of helices that are worth
a search do, and coarser detail is used with it. With two half maps their FSC says."""

_BEYOND_VOXELS = 2.2
"""No detail is used below so many voxels, where interpolation and the box's corners show."""


@library_call
def helical_search(
    map1: Any,
    map2: Any = None,
    *,
    twist_range_deg: tuple[float, float] = (-180.0, 180.0),
    rise_range_angstrom: tuple[float, float] = (1.0, 40.0),
    symmetry: str = "c1",
    radius_angstrom: float | None = None,
    resolution_angstrom: float | None = None,
) -> HelicalSearch:
    """Find twist and rise of a map of a filament about along z.

    An axis that is not z through the origin is found (``axis``), and the map moved onto it.

    Parameters
    ----------
    map1, map2
        A map, or two half maps, each a Volume or a path. Halves are searched alone, too; twist and
        rise are those of their average.
    twist_range_deg, rise_range_angstrom
        Lowest and highest; a positive twist is right-handed. A best value at the border of its
        range is refused.
    symmetry
        ``cN``, with a rotation axis along z, or ``dN``, with two-fold axes across, too: a map that
        does not show those is then refused. They are looked for in any case, and ``two_fold`` says
        what was found.
    radius_angstrom
        Of the filament in Å; None finds it.
    resolution_angstrom
        Detail to use; None takes that of the half maps' FSC, or 6 Å of a single map.

    Returns
    -------
    A record: ``best.helix.twist_deg``, ``best.helix.rise_A``, ``twist_uncertainty_deg``,
    ``rise_uncertainty_A`` (95 %), ``halves``, ``runners_up``, ``alternatives``, ``landscape``;
    ``two_fold`` with ``is_supported``, ``agreement``, ``angle_deg`` and ``height_A``.

    Raises
    ------
    InputError
        If the map is no helix, a best value lies at the border of its range, or twist and rise
        cannot be told; if it is to be dihedral and is not; or if the maps differ in box or
        sampling.

    Examples
    --------
    >>> import cryorefine as cr
    >>> try:
    ...     cr.helical_search("truth_map.mrc", resolution_angstrom=15)
    ... except cr.InputError as error:
    ...     print(error.what.partition(":")[0])
    the map is no helix of these ranges
    """
    first = as_volume(map1, "map1")
    maps = [first]
    if map2 is not None:
        second = as_volume(map2, "map2")
        require_same_grid(second, "map2", first, "map1")
        maps.append(second)
    with threads_restored():
        use_threads(None)
        return searched(
            maps,
            twist_deg=twist_range_deg,
            rise_A=rise_range_angstrom,
            symmetry=symmetry,
            radius_A=radius_angstrom,
            resolution_A=resolution_angstrom,
        )


def searched(
    maps: list[Volume],
    *,
    radius_A: float | None,
    resolution_A: float | None,
    symmetry: str = "c1",
    listener: Listener | None = None,
    **ranges: Any,
) -> HelicalSearch:
    """Search a map or two halves; what is None is measured. A listener is told how far it is.

    A map whose axis is not z through the origin is moved so that it is, and ``axis`` of the result
    says from where.
    """
    name = parse_symmetry(symmetry).name
    if name[0] not in "cd" or not name[1:].isdigit():
        raise InputError(
            f"a helix cannot have the symmetry {symmetry}",
            where="--symmetry",
            do="give cN, or dN with two-fold axes across",
        )
    tensors, voxel_A = [as_tensor(m) for m in maps], maps[0].voxel_A
    given = {"radius_A": radius_A, "resolution_A": resolution_A}
    average = average_of(tensors)
    require_along_z(average, voxel_A)
    measured, fsc = _measured(tensors, voxel_A, **given)
    ranges = {"fold": int(name[1:]), **ranges}
    by_density = density_axis(average, voxel_A)
    about_A = radius_A or min(radius_about(average, by_density, voxel_A), measured["radius_A"])
    wanted = HelicalRanges(**{**measured, "radius_A": about_A}, **ranges)
    axis = find_axis(average, wanted, voxel_A=voxel_A, fsc=fsc)
    del average  # of large maps each array counts
    if axis != FilamentAxis():
        tensors = [onto_z(t, axis, voxel_A) for t in tensors]
        measured, fsc = _measured(tensors, voxel_A, **given)

    def advanced(done: int, total: int) -> None:
        if listener is not None:
            listener(WorkAdvanced(stage="searching", done=done, total=total))

    chosen = HelicalRanges(**measured, **ranges)
    found = search_helix(tensors, chosen, voxel_A=voxel_A, fsc=fsc, progress=advanced)
    found = replace(found, axis=axis)
    return _with_two_fold(found, average_of(tensors), voxel_A, fsc, name[0] == "d")


def _measured(
    tensors: list[Float[Tensor, "z y x"]],
    voxel_A: float,
    *,
    radius_A: float | None,
    resolution_A: float | None,
) -> tuple[dict[str, float], Float[Tensor, "s"] | None]:
    """Return radius and resolution, measured where they are not given, and the FSC of halves."""
    half_box_A = tensors[0].shape[-1] * voxel_A / 2
    if radius_A is None:
        radius_A = filament_radius_A(average_of(tensors), voxel_A)
    if not 2 * voxel_A < radius_A <= half_box_A:
        raise InputError(
            f"a filament of {radius_A:g} Å radius does not lie in a box of {2 * half_box_A:.0f} Å",
            where="--radius-angstrom",
            do="give a radius of more than two voxels, and up to half the box",
        )
    finest_A = _BEYOND_VOXELS * voxel_A
    fsc = None
    if len(tensors) == 2:
        fsc, measured_A = halves_fsc(tensors[0], tensors[1], voxel_A, radius_A)
        resolution_A = resolution_A or max(measured_A, finest_A)
    resolution_A = resolution_A or max(_DETAIL_A, finest_A)
    if not finest_A <= resolution_A <= half_box_A / 2:
        raise InputError(
            f"detail of {resolution_A:.3g} Å cannot be used of voxels of {voxel_A:.3g} Å in a box "
            f"of {2 * half_box_A:.0f} Å",
            where="--resolution-angstrom",
            do=f"give {finest_A:.3g} Å to a quarter of the box",
        )
    return {"radius_A": radius_A, "resolution_A": resolution_A}, fsc


def _with_two_fold(
    found: HelicalSearch,
    average: Float[Tensor, "z y x"],
    voxel_A: float,
    fsc: Float[Tensor, "s"] | None,
    is_dihedral: bool,
) -> HelicalSearch:
    """Return what was found with the axis across, and as a dihedral helix where it is to be one."""
    ranges, helix = found.ranges, found.best.helix
    small, step_A = prepared_map(
        average, voxel_A=voxel_A, resolution_A=ranges.resolution_A, fsc=fsc
    )
    across = find_two_fold(
        small, helix, voxel_A=step_A, radius_A=ranges.radius_A,
        resolution_A=ranges.resolution_A, fraction=ranges.fraction,
    )  # fmt: skip
    if is_dihedral and not across.is_supported:
        raise InputError(
            f"the map has no two-fold axes across the helix of {helix.twist_deg:.3f}°, "
            f"{helix.rise_A:.3f} Å: the best agrees to {across.agreement:.2f}, "
            f"{NEEDED:g} is needed",
            where="--symmetry",
            do=f"give c{helix.fold}, or a map of finer detail",
        )
    best = replace(found.best, helix=replace(helix, is_dihedral=is_dihedral))
    return replace(found, best=best, two_fold=across)


def symmetrised(maps: list[Volume], found: HelicalSearch) -> Volume:
    """Return a map, or the average of two halves, with the helix imposed that was found.

    It lies along z through the origin, wherever the map's axis was. A dihedral one is first turned
    about z and moved along it so that its two-fold axis is x, as in all maps of this program.
    """
    average, voxel_A = average_of([as_tensor(m) for m in maps]), maps[0].voxel_A
    if found.axis != FilamentAxis():
        average = onto_z(average, found.axis, voxel_A)
    helix, across = found.best.helix, found.two_fold
    if helix.is_dihedral and across is not None:
        c, s = math.cos(math.radians(across.angle_deg)), math.sin(math.radians(across.angle_deg))
        back = torch.tensor([[c, s, 0], [-s, c, 0], [0, 0, 1]], dtype=torch.float64)
        move = torch.tensor([0, 0, -across.height_A / voxel_A], dtype=torch.float64)
        average = turned_map(average, back, move)
    imposed = impose(average, helix, voxel_A=voxel_A, radius_px=found.ranges.radius_A / voxel_A)
    return Volume(imposed.numpy(), voxel_A)


@library_call
def impose_helix(
    map: Any,
    twist_deg: float,
    rise_angstrom: float,
    *,
    fold: int = 1,
    is_dihedral: bool = False,
    radius_angstrom: float | None = None,
    fraction: float = 0.9,
) -> Volume:
    """Return the mean of a map's helical copies, within a soft cylinder.

    Parameters
    ----------
    map
        A Volume or a path; its axis is z through the origin.
    twist_deg, rise_angstrom
        Of a step; a positive twist is right-handed.
    fold, is_dihedral
        Order of the rotation axis along z; whether there is a two-fold axis along x.
    radius_angstrom
        Outside of it the result falls to zero; None: as wide as the box.
    fraction
        Part of the map along z that is averaged, the middle. The result fills the box.

    Raises
    ------
    InputError
        If the rise is not positive, or does not repeat within the map.

    Examples
    --------
    >>> import cryorefine as cr
    >>> cr.impose_helix("truth_map.mrc", twist_deg=30, rise_angstrom=20)
    <Volume: 32³ voxels of 5 Å>
    """
    volume = as_volume(map, "map")
    helix = Helix(twist_deg, rise_angstrom, fold, is_dihedral)
    with threads_restored():
        use_threads(None)
        found = impose(
            as_tensor(volume),
            helix,
            voxel_A=volume.voxel_A,
            radius_px=None if radius_angstrom is None else radius_angstrom / volume.voxel_A,
            fraction=fraction,
        )
    return Volume(found.numpy(), volume.voxel_A)
