"""Begin another segment of a run: other settings, other particles, the state that they start from.

Nothing here writes a file.
"""

import os
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from cryorefine.engine.protocol import Engine
from cryorefine.errors import InputError
from cryorefine.events import EventLog, ParticlesMatched
from cryorefine.fourier.crop import resample_volume
from cryorefine.model.observe import make_group_band
from cryorefine.records.checkpoint_record import OpticsSampling, SegmentConstants
from cryorefine.records.dropped_reason import dropped_reason, limit_of_reason
from cryorefine.records.particle_registry import (
    ParticleRegistry,
    extend_halves,
    known_poses,
    next_registry,
)
from cryorefine.refine.counting import is_in_maps
from cryorefine.refine.image_statistics import Screening
from cryorefine.run.commands import check_commands
from cryorefine.run.engines import engine_of
from cryorefine.run.folder import input_paths
from cryorefine.run.inputs import (
    NO_POSE,
    Opened,
    first_state,
    open_inputs,
    screen,
    screened_inputs,
)
from cryorefine.run.segments import Segment, settings_within_run
from cryorefine.run.stopped_run import StoppedRun, changes_of_inputs
from cryorefine.settings import FILE_SETTINGS, Changes, RefineSettings, merge_settings
from cryorefine.state.state import Inputs, Poses, State
from cryorefine.storage.layout import RESULTS, committed_iterations, iteration_folder
from cryorefine.weigh.worst import worst_of_groups

__all__ = [
    "NextSegment",
    "begin_segment",
    "check_files_beside",
    "check_same_particles",
    "warn_of_changes",
    "warn_of_commands",
]

_SCHEDULE = {"iterations", "alignment", "automatic_schedule"}
_SAME_LENGTH = 1e-4  # relative
_N_LISTED = 5  # as many as of particles that are left out: a set may have thousands of stacks


@dataclass(frozen=True, eq=False)
class NextSegment:
    """All that a segment begins with.

    Attributes
    ----------
    settings
        Its own; those of ``inputs`` are what the whole run sees of them.
    engine
        Does its work, from screening the images to its last iteration.
    """

    segment: Segment
    settings: RefineSettings
    opened: Opened
    screening: Screening
    inputs: Inputs
    state: State
    registry: ParticleRegistry
    engine: Engine


def begin_segment(
    stopped: StoppedRun, changes: Changes, events: EventLog, *, started: str, engines: ExitStack
) -> NextSegment:
    """Make ready what another segment of a run begins with.

    Parameters
    ----------
    engines
        Ends the segment's engine, which is begun here.

    Raises
    ------
    InputError
        If the settings or the particles do not go with the run.
    """
    run, last = stopped.output, stopped.segments[-1]
    state, constants = stopped.checkpoint.state, stopped.checkpoint.constants
    before = stopped.values_before
    changes = replace(
        changes,
        settings=dict(_settled(run, changes.settings)),
        of_file=dict(_settled(run, changes.of_file)),
    )
    settings, suspended = merge_settings(before, changes, where=str(run))
    warn_of_commands(stopped, changes, settings, events)
    registry = _registry(run, constants)
    check_files_beside(stopped, changes)
    opened = open_inputs(settings, is_continued=True)
    check_same_particles(opened, constants, is_new_file="particles" in changes.changed)
    warn_of_changes(stopped, changes, opened, events)
    is_resampled = _is_resampled(opened, constants, changes)
    engine = engines.enter_context(engine_of(settings, opened.device))
    chosen = _choose(stopped, changes, opened, registry, events, engine)

    search = "all" if chosen.are_all_new else _search(before, settings, chosen.has_unsearched)
    goes_on = not (
        stopped.checkpoint.is_finished
        or is_resampled
        or changes.changed.keys() & _SCHEDULE
        or chosen.has_unsearched
        or search != "nobody"
    )
    first_iteration = state.iteration + 1
    segment = Segment(
        first_iteration=first_iteration,
        counts_from=last.counts_from if goes_on else first_iteration,
        settings=settings.model_dump(mode="json", include=set(changes.changed)),
        suspended=suspended,
        search=search,
        keep_above_percentile=changes.keep_above_percentile,
        started=started,
        n_particles=len(opened.table),
        n_used=int(chosen.screening.is_usable.sum()),
    )
    opened.settings = settings_within_run(settings, segment)
    inputs = screened_inputs(opened, chosen.screening, chosen.half, chosen.radius_px, EventLog())
    state = replace(state, poses=chosen.poses, previous=chosen.previous)
    if is_resampled or chosen.are_all_new:
        state = _of_other_images(inputs, state, constants.voxel_A, events, engine)
    else:
        noise, group_scale = _regrouped(state, constants.optics, inputs)
        sums = state.sums if _keeps_sums(before, settings) and not chosen.has_lost else None
        state = replace(state, noise=noise, group_scale=group_scale, sums=sums)
    return NextSegment(
        segment=segment,
        settings=settings,
        opened=opened,
        screening=chosen.screening,
        inputs=inputs,
        state=state,
        registry=chosen.registry,
        engine=engine,
    )


def _settled(run: Path, settings: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield settings with results of the run named where they stay.

    The files at the top are replaced by the next iteration's.
    """
    newest = iteration_folder(run, committed_iterations(run)[-1])
    for name, value in settings.items():
        is_result = isinstance(value, str | os.PathLike) and name in FILE_SETTINGS
        path = Path(value) if is_result else Path()
        if is_result and path.name in RESULTS and path.parent.resolve() == run.resolve():
            kept = newest / path.name
            yield name, kept if kept.exists() else value
        else:
            yield name, value


def warn_of_commands(
    stopped: StoppedRun, changes: Changes, settings: RefineSettings, events: EventLog
) -> None:
    """Show commands that are not given now but run, or refuse them.

    Raises
    ------
    InputError
        If there are some, and they are not allowed.
    """
    where = str(stopped.output / "settings.toml")
    allowed = changes.allows_commands
    for shown in check_commands(settings, changes.settings, is_allowed=allowed, where=where):
        events.warn(shown)


def check_files_beside(stopped: StoppedRun, changes: Changes) -> None:
    """Refuse to go on without files that lay beside the particles, or with others in their place.

    Before anything is read: what these files held is then missed, and what is missed is not why.

    Raises
    ------
    InputError
        If one is gone or has changed, the particles are those of the run, and it is not accepted.
    """
    if "particles" in changes.changed or changes.accepts_changed_inputs:
        return
    found = changes_of_inputs(stopped, (), ())
    if found:
        raise _changed(stopped, found)


def warn_of_changes(
    stopped: StoppedRun, changes: Changes, opened: Opened, events: EventLog
) -> None:
    """Show which inputs have changed since the run read them, or refuse them.

    Raises
    ------
    InputError
        If some have that are not given now, and are not accepted.
    """
    given = {str(value) for name, value in changes.changed.items() if name in FILE_SETTINGS}
    table, are_others = opened.table, "particles" in changes.changed
    files = table.stacks if are_others else table.files
    paths = [p for p in input_paths(opened.settings, files) if str(p) not in given]
    run = stopped.output
    found = changes_of_inputs(stopped, paths, None if are_others else table.companions)
    if found is None:
        events.warn(f"{run}: whether inputs have changed is unknown, its manifest is missing")
    elif found and not changes.accepts_changed_inputs:
        raise _changed(stopped, found)
    elif found:
        events.warn(f"{run}: goes on with inputs that have changed: {_listed(found)}")


def _changed(stopped: StoppedRun, found: list[str]) -> InputError:
    return InputError(
        f"inputs have changed since the run read them: {_listed(found)}",
        where=str(stopped.output),
        do="restore them, start a new run, or say --accept-changed-inputs if it is to go on "
        "with what they are now",
    )


def _listed(changes: list[str]) -> str:
    """Return the first changes of many as part of a sentence."""
    more = len(changes) - _N_LISTED
    return "; ".join(changes[:_N_LISTED]) + (f"; and {more} more" if more > 0 else "")


@dataclass(frozen=True, eq=False)
class _Chosen:
    """The particles that a segment uses, and what the run knows of them.

    Attributes
    ----------
    half, poses, previous
        Of those in use; poses are None where the run has none.
    are_all_new
        Whether the run knows none of them.
    has_unsearched
        Whether there are some without a pose that the schedule so far did not know of: they are
        searched for before it turns local.
    has_lost
        Whether images that are in the maps so far take no part any more.
    """

    screening: Screening
    radius_px: float
    half: np.ndarray
    poses: Poses | None
    previous: Poses | None
    has_unsearched: bool
    has_lost: bool
    are_all_new: bool
    registry: ParticleRegistry


def _choose(
    stopped: StoppedRun,
    changes: Changes,
    opened: Opened,
    registry: ParticleRegistry,
    events: EventLog,
    engine: Engine,
) -> _Chosen:
    """Find the file's particles in the run, and choose which of them take part and how."""
    settings, state = opened.settings, stopped.checkpoint.state
    constants = stopped.checkpoint.constants
    is_new_file = "particles" in changes.changed
    match = registry.match(opened.table) if is_new_file else np.arange(len(opened.table))
    if not (match >= 0).any():
        events.warn(
            f"{settings.particles}: the run knows none of its particles by image, or by micrograph "
            "and coordinates: all join as new ones, and if they show what the run has seen before, "
            "its halves are not independent any more"
        )
    was_used = np.flatnonzero(constants.screening.is_usable)
    known = known_poses(registry, was_used, state.poses)
    poses = known.of_table(registry, opened.table, match, is_new_file=is_new_file)
    previous = known_poses(registry, was_used, state.previous).of_table(
        registry, opened.table, match, is_new_file=False
    )
    dropped = _dropped(registry, match, poses, changes.keep_above_percentile, stopped.output)
    radius_px = constants.radius_px
    if abs(opened.voxel_A - constants.voxel_A) > _SAME_LENGTH * constants.voxel_A:
        radius_px = min(radius_px * constants.voxel_A / opened.voxel_A, opened.size_px / 2 - 1)
    if settings.particle_radius_px is not None:
        radius_px = opened.radius_px(None, events)
    elif "particle_radius_px" in changes.changed:  # taken back
        radius_px = opened.radius_px(torch.add(*state.references) / 2, events)
    aside = _without_pose_before(settings, opened, poses, constants.screening, match)
    screening, used = _screened(
        opened, radius_px, np.where(aside & (dropped == ""), NO_POSE, dropped), events, engine
    )
    table, seed = opened.table.select(used), (settings.seed, len(stopped.segments))
    half = extend_halves(table, registry, match[used], seed=seed, events=events)
    lacks_pose = _lack_pose(opened, poses, used)
    _check_poses(settings, lacks_pose)
    _emit_particles(events, registry, was_used, match[used])
    are_new = lacks_pose & ~np.isin(match[used], was_used)
    return _Chosen(
        screening=screening,
        radius_px=radius_px,
        half=half,
        poses=None if poses is None else poses.select(used),
        previous=None if state.previous is None or previous is None else previous.select(used),
        has_unsearched=state.poses is not None and bool(np.any(are_new)),
        has_lost=bool(np.setdiff1d(was_used[_in_maps(state)], match[used]).size),
        are_all_new=not (match[used] >= 0).any(),
        registry=next_registry(
            registry, known, opened.table, match, used=used, half=half, dropped=dropped
        ),
    )


def _registry(run: Path, constants: SegmentConstants) -> ParticleRegistry:
    if constants.registry is None:
        raise InputError(
            "the run was made by an earlier version and can go on with its own settings only",
            where=str(run),
            do="resume it without options, or start a new run",
        )
    return constants.registry


def check_same_particles(
    opened: Opened, constants: SegmentConstants, *, is_new_file: bool = False
) -> None:
    """Refuse a particle file that was changed behind the run's back.

    Raises
    ------
    InputError
        If it has other particles than the run, and is not given as a new one.
    """
    if is_new_file:
        return
    n, where = len(constants.screening.reasons), str(opened.settings.particles)
    do = "restore the file the run was started with, or give the changed one with --particles"
    if len(opened.table) != n:
        raise InputError(
            f"the particle file has {len(opened.table)} particles, the run started with {n}",
            where=where,
            do=do,
        )
    known = constants.registry
    if known is not None and not np.array_equal(known.image_index[:n], opened.table.image_index):
        raise InputError("the particle file has other images than the run", where=where, do=do)


def _is_resampled(opened: Opened, constants: SegmentConstants, changes: Changes) -> bool:
    """Tell whether a new file's particles make maps of another box or voxel than the run has.

    Raises
    ------
    InputError
        If those of an old one do, or a length in pixels is carried over to pixels of another size.
    """
    before, given = constants.optics, changes.changed
    is_same = abs(opened.voxel_A - constants.voxel_A) <= _SAME_LENGTH * constants.voxel_A
    if before:
        size_px = _map_size_px(before)
        is_same &= opened.size_px == size_px
        if not is_same and "particles" not in given:
            raise InputError(
                f"its particles have a box of {opened.size_px} pixels of {opened.voxel_A:.4g} Å, "
                f"the run's have {size_px} of {constants.voxel_A:.4g} Å",
                where=str(opened.settings.particles),
                do="restore the file, or give the new one with --particles",
            )
    is_carried = opened.settings.particle_radius_px is not None and (
        "particle_radius_px" not in given
    )
    if before and is_carried:
        pixel_A, was_A = opened.table.optics[0].pixel_A, before[0].pixel_A
        if abs(pixel_A - was_A) > _SAME_LENGTH * was_A:
            raise InputError(
                f"--particle-radius-px is in pixels of {was_A:.4g} Å, and the images of "
                f"{opened.settings.particles} have pixels of {pixel_A:.4g} Å",
                do="give --particle-radius-px anew, or take it back with --unset",
            )
    return not is_same


def _map_size_px(optics: tuple[OpticsSampling, ...]) -> int:
    """Return the side of the maps of images in these groups."""
    voxel_A = min(group.pixel_A for group in optics)
    return round(max(group.pixel_A * group.box_px for group in optics) / voxel_A)


def _of_other_images(
    inputs: Inputs, state: State, voxel_A: float, events: EventLog, engine: Engine
) -> State:
    """Return a state for images of another sampling, or of particles that are all new.

    Poses are in ångströms and stay. Maps are brought to the new box and voxel, and the first
    iteration finds the images' grey scale and noise, as that of a new run does.
    """

    def resampled(volume: torch.Tensor) -> torch.Tensor:
        return resample_volume(
            volume, voxel_A=voxel_A, new_voxel_A=inputs.voxel_A, new_size_px=inputs.size_px
        )

    first, second = (resampled(volume) for volume in state.references)
    fresh = first_state(inputs, (first, second), events, engine)
    halves = state.halves and (resampled(state.halves[0]), resampled(state.halves[1]))
    return replace(
        state,
        references=fresh.references,
        halves=halves,
        mask=None if state.mask is None else resampled(state.mask).clamp(0, 1),
        noise=fresh.noise,
        group_scale=fresh.group_scale,
        is_scaled=False,
        sums=None,
        own_share=None,
    )


def _dropped(
    registry: ParticleRegistry,
    match: np.ndarray,
    poses: Poses | None,
    limit: float | None,
    run: Path,
) -> np.ndarray:
    """Return why particles are left out for their quality; a limit replaces all before it."""
    if limit is None:
        return np.where(match >= 0, registry.dropped[match], "")
    if limit == 0:
        return np.zeros(len(match), "<U1")
    scores = None if poses is None else poses.scores
    if scores is None or scores.percentile is None or scores.defocus_group is None:
        raise InputError(
            "--keep-above-percentile: the run has no percentiles of its particles yet",
            where=str(run),
            do="let it make an iteration first",
        )
    # Ranks of those that left the run earlier are not among those of the others.
    limits = np.array(
        [limit_of_reason(r) for r in np.where(match >= 0, registry.dropped[match], "")]
    )
    percentile, has_left = scores.percentile, ~np.isnan(limits)
    ranked = percentile.masked_fill(torch.from_numpy(has_left), torch.nan)
    group = 2 * scores.defocus_group.nan_to_num(0.0).long()
    group += torch.from_numpy(registry.half[match]).long()
    is_worst = worst_of_groups(ranked, group, limit / 100).numpy()
    is_worst |= has_left & ((limits <= limit) | (100 * percentile.numpy() <= limit))
    return np.array(
        [
            dropped_reason(p, limit) if worst else ""
            for p, worst in zip(percentile.tolist(), is_worst, strict=True)
        ],
        np.str_,
    )


def _screened(
    opened: Opened, radius_px: float, dropped: np.ndarray, events: EventLog, engine: Engine
) -> tuple[Screening, np.ndarray]:
    """Look at all images, and return which rows are used as well."""
    screening = screen(opened, radius_px, events, engine)
    reasons = tuple(a or str(b) for a, b in zip(screening.reasons, dropped, strict=True))
    screening = replace(screening, reasons=reasons)
    used = np.flatnonzero(screening.is_usable)
    if len(used) == 0:
        raise InputError(
            f"none of the {len(reasons)} particles is left ({reasons[0]})",
            where=str(opened.settings.particles),
            do="keep more particles",
        )
    return screening, used


def _lack_pose(opened: Opened, poses: Poses | None, used: np.ndarray) -> np.ndarray:
    """Tell of which particles in use neither the run nor the file has a pose."""
    lacks = opened.table.lacks_pose[used]
    return lacks if poses is None else lacks & ~poses.is_assigned.numpy()[used]


def _without_pose_before(
    settings: RefineSettings,
    opened: Opened,
    poses: Poses | None,
    before: Screening,
    match: np.ndarray,
) -> np.ndarray:
    """Tell which particles stay aside, because they had no pose to be kept and have none now."""
    if settings.alignment not in ("local", "none"):
        return np.zeros(len(match), bool)
    had_no_pose = np.array(before.reasons) == NO_POSE
    known = (match >= 0) & (match < len(had_no_pose))
    was_aside = known & had_no_pose[np.where(known, match, 0)]
    return was_aside & _lack_pose(opened, poses, np.arange(len(match)))


def _check_poses(settings: RefineSettings, lacks_pose: np.ndarray) -> None:
    if lacks_pose.any() and settings.alignment in ("local", "none"):
        raise InputError(
            f"{int(lacks_pose.sum())} of {len(lacks_pose)} particles have no pose yet, which "
            f"alignment '{settings.alignment}' needs",
            where=str(settings.particles),
            do="make an iteration with --alignment global first, or give poses in the file",
        )


def _search(
    before: dict[str, Any], settings: RefineSettings, lacks_poses: bool
) -> Literal["nobody", "new", "all"]:
    """Return for whom an automatic alignment has to look everywhere when the segment begins."""
    if not settings.is_data_driven:
        return "nobody"
    turned_automatic = before.get("alignment", "automatic") != "automatic"
    other_symmetry = str(before.get("symmetry", "c1")).lower() != settings.symmetry.lower()
    if turned_automatic or other_symmetry:
        return "all"
    return "new" if lacks_poses else "nobody"


def _in_maps(state: State) -> np.ndarray:
    """Tell which of a run's particles have their images in its maps."""
    return np.zeros(0, int) if state.poses is None else is_in_maps(state.poses).numpy()


def _keeps_sums(before: dict[str, Any], settings: RefineSettings) -> bool:
    """Tell whether a stochastic reconstruction can go on from the sums so far."""
    tilts = ("reconstruct_min_tilt_deg", "reconstruct_max_tilt_deg")
    for name in ("alignment", "symmetry", "fourier_padding", *tilts):
        default = RefineSettings.model_fields[name].default
        if before.get(name, default) != getattr(settings, name):
            return False
    return settings.alignment == "stochastic"


def _emit_particles(
    events: EventLog, registry: ParticleRegistry, was_used: np.ndarray, old_rows: np.ndarray
) -> None:
    """Report what became of the particles, whoever is affected."""
    known = old_rows[old_rows >= 0]
    kept = np.intersect1d(known, was_used)
    returned = known[registry.half[known] > 0]
    events.emit(
        ParticlesMatched(
            n_kept=len(kept),
            n_returned=len(np.setdiff1d(returned, was_used)),
            n_new=len(old_rows) - len(np.union1d(kept, returned)),
            n_dropped=len(was_used) - len(kept),
        )
    )


def _regrouped(
    state: State, before: tuple[OpticsSampling, ...], inputs: Inputs
) -> tuple[tuple[tuple[torch.Tensor, ...], ...], tuple[tuple[float, ...], tuple[float, ...]]]:
    """Return noise spectra and amplitudes for the optics groups of the segment's particles.

    A group goes on by its name; a new one starts with the noise of one of the same sampling.
    """
    pixels_A = np.array([known.pixel_A for known in before])
    boxes_px = np.array([known.box_px for known in before])
    spectra: tuple[list[torch.Tensor], ...] = ([], [])
    scales: tuple[list[float], ...] = ([], [])
    for group in inputs.optics:
        alike = np.isclose(pixels_A, group.pixel_A, rtol=_SAME_LENGTH) & (boxes_px == group.box_px)
        named = [i for i in np.flatnonzero(alike) if before[i].name == group.name]
        source = int([*named, *np.flatnonzero(alike), 0][0])
        group_band = make_group_band(
            group,
            volume_size_px=inputs.size_px,
            voxel_A=inputs.voxel_A,
            resolution_A=2 * min(group.pixel_A, inputs.voxel_A),
        )
        for half in (0, 1):
            spectra[half].append(_of_length(state.noise[half][source], group_band.band.n_shells))
            scales[half].append(state.group_scale[half][source] if named else 1.0)
    return (tuple(spectra[0]), tuple(spectra[1])), (tuple(scales[0]), tuple(scales[1]))


def _of_length(spectrum: torch.Tensor, n: int) -> torch.Tensor:
    """Cut a spectrum, or let it go on with its last value: magnifications change its length."""
    if len(spectrum) >= n:
        return spectrum[:n].clone() if len(spectrum) > n else spectrum
    return torch.cat([spectrum, spectrum[-1:].expand(n - len(spectrum))])
