"""The helix of an iteration's half maps: found in them where asked for, and imposed on both."""

import math

from jaxtyping import Float
from torch import Tensor

from cryorefine.errors import InputError
from cryorefine.evaluate.fsc import half_map_fsc
from cryorefine.events import EventLog, WorkAdvanced
from cryorefine.filaments.momentum import carried_on
from cryorefine.helices.features import FEATURELESS, share_around_axis
from cryorefine.helices.filament import filament_mask, filament_radius_A
from cryorefine.helices.half_maps import Filament, HelixFound, find_helix, imposed_on
from cryorefine.helices.helical_search import Candidate
from cryorefine.settings import RefineSettings
from cryorefine.state.helix import HelixRecord, present_helix
from cryorefine.state.plan import IterationRecord
from cryorefine.state.state import Inputs

__all__ = [
    "check_room_for_helix",
    "filament_of",
    "helical_copies",
    "mask_of_filament",
    "with_helix",
    "with_helix_as_given",
]

Maps = tuple[Float[Tensor, "z y x"], Float[Tensor, "z y x"]]


def check_room_for_helix(settings: RefineSettings, box_A: float) -> None:
    """Refuse a helix that does not repeat within the box, or does not lie in it.

    Raises
    ------
    InputError
        If the rise, the highest rise of a search, or the radius is too large.
    """
    rise_A, radius_A = settings.helical_rise_angstrom, settings.helical_radius_angstrom
    if rise_A is None:
        return
    range_A, middle_A = settings.helical_rise_range_angstrom, settings.helical_fraction * box_A
    for option, value in (
        ("--helical-rise-angstrom", rise_A),
        ("--helical-rise-range-angstrom", max(range_A, default=0.0)),
    ):
        if 2 * value > middle_A:
            raise InputError(
                f"a rise of {value:g} Å does not repeat within the central {middle_A:.0f} Å of the "
                f"box of {box_A:.0f} Å",
                where=option,
                do="give a smaller one, or extract the segments in a larger box",
            )
    if radius_A is not None and radius_A > box_A / 2:
        raise InputError(
            f"a filament of {radius_A:g} Å radius does not lie in a box of {box_A:.0f} Å",
            where="--helical-radius-angstrom",
            do="give up to half the box, or extract the segments in a larger one",
        )


def with_helix(
    inputs: Inputs, history: list[IterationRecord], halves: Maps, events: EventLog
) -> tuple[Maps, HelixRecord | None]:
    """Return half maps with their helix imposed, and what it is; None of particles without one.

    Where a search is asked for, twist and rise are found in the half maps as they are given. What
    is refused (no helix, a best value at the border of its range, halves that differ) is told, and
    the helix of the iteration before imposed again.
    """
    settings = inputs.settings
    last = history[-1].helix if history else None
    helix = present_helix(settings, inputs.group.name, last)
    if helix is None:
        return halves, None
    filament = filament_of(inputs, halves)
    found, refused = None, ""
    if settings.searches_helix:
        found, refused = _searched(inputs, halves, filament, last, events)
        if found is not None:
            records = [record.helix for record in history]
            helix = carried_on(found, records, settings)
    mask = filament_mask(inputs.size_px, filament.radius_A / inputs.voxel_A).to(inputs.device)
    before_A = half_map_fsc(*halves, voxel_A=inputs.voxel_A, mask=mask).resolution_A(
        settings.fsc_criterion
    )
    record = HelixRecord(
        twist_deg=helix.twist_deg,
        rise_A=helix.rise_A,
        twist_uncertainty_deg=None if found is None else found.twist_uncertainty_deg,
        rise_uncertainty_A=None if found is None else found.rise_uncertainty_A,
        given=(settings.helical_twist_deg or 0.0, settings.helical_rise_angstrom or 0.0),
        halves=() if found is None else tuple((h.twist_deg, h.rise_A) for h in found.halves),
        radius_A=filament.radius_A,
        resolution_before_A=before_A if math.isfinite(before_A) else None,
        refused=refused,
    )
    first, second = (imposed_on(half, helix, filament) for half in halves)
    return (first, second), record


def _searched(
    inputs: Inputs,
    halves: Maps,
    filament: Filament,
    last: HelixRecord | None,
    events: EventLog,
) -> tuple[HelixFound | None, str]:
    """Return what both half maps show, or why it is not to be used."""
    settings = inputs.settings
    helix = present_helix(settings, inputs.group.name, last)
    if helix is None:
        raise AssertionError("a search has a helix to begin with")
    low, high = settings.helical_twist_range_deg
    least, most = settings.helical_rise_range_angstrom

    def advanced(done: int, total: int) -> None:
        events.emit(WorkAdvanced(stage="searching the helix", done=done, total=total))

    try:
        found = find_helix(
            halves, helix, filament, twist_deg=(low, high), rise_A=(least, most), progress=advanced
        )
    except InputError as error:
        events.warn(
            f"twist and rise stay {helix.twist_deg:.3f}° and {helix.rise_A:.3f} Å: {error.what}"
        )
        return None, error.what
    if found.rival is not None:
        events.warn(_of_rival(found, found.rival))
    return found, ""


def _of_rival(found: HelixFound, rival: Candidate) -> str:
    """Return what to say where half maps show another helix better than the one that was found."""
    helix, other = found.helix, rival.helix
    return (
        f"twist and rise of {helix.twist_deg:.3f}° and {helix.rise_A:.3f} Å may be wrong: the half "
        f"maps show {other.twist_deg:.3f}°, {other.rise_A:.3f} Å, C{other.fold} "
        f"({rival.relation}) better, by a score of {rival.score:.1f} to {found.score:.1f}; if that "
        "stays so, give other ranges, or an initial map with features"
    )


def with_helix_as_given(inputs: Inputs, maps: Maps, events: EventLog) -> Maps:
    """Return the first references with the helix of the settings imposed, where there is one.

    Warns if two-fold axes across are asked for of a map that cannot show where they lie.
    """
    helix = present_helix(inputs.settings, inputs.group.name, None)
    if helix is None:
        return maps
    if inputs.group.name.startswith("d") and share_around_axis(maps[0]) < FEATURELESS:
        events.warn(
            f"the initial map is a cylinder, on which the two-fold axes of {inputs.group.name} may "
            "lie anywhere: half maps can come to agree on a wrong map; give an initial map with "
            "features of the filament"
        )
    filament = filament_of(inputs, maps)
    return imposed_on(maps[0], helix, filament), imposed_on(maps[1], helix, filament)


def filament_of(inputs: Inputs, halves: Maps) -> Filament:
    """Return where in the maps of a run the filament lies; a radius not given is measured."""
    settings = inputs.settings
    radius_A = settings.helical_radius_angstrom
    if radius_A is None:
        average = (halves[0] + halves[1]).cpu() / 2
        radius_A = filament_radius_A(average, inputs.voxel_A)
    return Filament(
        inputs.voxel_A,
        radius_A,
        settings.helical_inner_radius_angstrom,
        settings.helical_fraction,
    )


def mask_of_filament(inputs: Inputs, average: Float[Tensor, "z y x"]) -> Float[Tensor, "z y x"]:
    """Return the soft mask within which the resolution of a helix is measured."""
    radius_A = filament_of(inputs, (average, average)).radius_A
    return filament_mask(inputs.size_px, radius_A / inputs.voxel_A).to(inputs.device)


def helical_copies(inputs: Inputs) -> float:
    """Return how many copies along z are averaged in a half map; 1 without a helix."""
    rise_A = inputs.settings.helical_rise_angstrom
    if rise_A is None:
        return 1.0
    return max(1.0, inputs.settings.helical_fraction * inputs.geometry.box_A / rise_A)
