"""Who takes part in a run: recognise particles by image or place, keep halves and poses of all."""

import os
from dataclasses import dataclass, field, replace

import numpy as np
import torch

from cryorefine.errors import InputError
from cryorefine.events import EventLog
from cryorefine.geometry.rotation import matrix_from_euler
from cryorefine.particles.half_sets import deal_halves, find_duplicates, halves_of_filaments
from cryorefine.particles.identity import (
    SAME_PLACE_PX,
    coordinates_px,
    file_names,
    nearest_places,
    stack_names,
)
from cryorefine.particles.table import ParticleTable
from cryorefine.state.earlier_values import earlier_values
from cryorefine.state.state import Poses, unknown_poses

__all__ = [
    "KnownPoses",
    "ParticleRegistry",
    "extend_halves",
    "first_registry",
    "known_poses",
    "next_registry",
]

_DEFOCUS = slice(5, 8)  # of a particle's own values
_SAME_DEFOCUS_A = 0.01
"""Difference of defoci that are one and the same: particle files have them to some decimals."""


@dataclass(frozen=True, eq=False)
class ParticleRegistry:
    """All particles that a run has known: those of its file, row by row, then those that left.

    Attributes
    ----------
    stacks
        Real paths; ``stack_index`` points into them.
    image_index
        Position in the stack, from 0.
    micrographs
        Names; ``micrograph_index`` points into them, -1 where there is none.
    half
        1 or 2; 0 for those that were never used.
    defocus
        (n, 3): U and V in Å, and the angle in radians, as the file had them.
    dropped
        Why a particle whose image can be used is not; empty for all others.
    aside, poses
        Rows that have a pose and are not in use, and their poses; None where there are none.
    stack_names
        Names of the stacks as the particle file wrote them; empty in runs of earlier versions.
    coordinates_px
        (n, 2): where particles were picked in their micrographs, NaN where that is unknown; empty
        in runs of earlier versions.
    """

    stacks: np.ndarray
    stack_index: np.ndarray
    image_index: np.ndarray
    micrographs: np.ndarray
    micrograph_index: np.ndarray
    half: np.ndarray
    defocus: np.ndarray
    dropped: np.ndarray
    aside: np.ndarray
    poses: Poses | None = None
    stack_names: np.ndarray = field(default_factory=lambda: np.zeros(0, "<U1"))
    coordinates_px: np.ndarray = field(default_factory=lambda: np.zeros((0, 2)))

    def __len__(self) -> int:
        return len(self.image_index)

    def match(self, table: ParticleTable) -> np.ndarray:
        """Return each particle's row in the registry, -1 for those it does not know.

        A particle is known if its image is: the same number in the same file, or in one of the
        same name unless micrograph, coordinates or defocus say that it is another. Otherwise it is
        known by its place: extracted anew, it has other images but the same coordinates in the
        same micrograph.
        """
        row = self._same_images(table)
        for find in (self._same_names, self._same_places, self._same_places_anywhere):
            left, free = np.flatnonzero(row < 0), np.setdiff1d(np.arange(len(self)), row)
            if len(left) and len(free):
                found = find(table.select(left), free)
                row[left] = np.where(found >= 0, free[found], -1)
        return row

    def _same_images(self, table: ParticleTable) -> np.ndarray:
        """Return the rows of the same images, -1 where there is none.

        Of rows that show one image the first is matched with the first, and so on.
        """
        mine, theirs = self._keys(table)
        both = np.stack(
            [
                np.concatenate([mine, theirs]),
                np.concatenate([_occurrence(mine), _occurrence(theirs)]),
            ],
            -1,
        )
        _, code = np.unique(both, axis=0, return_inverse=True)
        code = code.reshape(-1)
        row = np.full(int(code.max(initial=-1)) + 1, -1)
        row[code[: len(self)]] = np.arange(len(self))
        return row[code[len(self) :]]

    def _same_names(self, table: ParticleTable, free: np.ndarray) -> np.ndarray:
        """Return which of some rows have the same name and are not said to be others."""
        if not len(self.stack_names):
            return np.full(len(table), -1)
        mine, theirs = _numbered(self.stack_names, stack_names(table))
        key = np.concatenate([mine[self.stack_index[free]], theirs[table.stack_index]])
        image = np.concatenate([self.image_index[free], table.image_index])
        _, code = np.unique(np.stack([key, image], -1), axis=0, return_inverse=True)
        code = code.reshape(-1)
        row = np.full(int(code.max(initial=-1)) + 1, -1)
        row[code[: len(free)]] = np.arange(len(free))
        found = row[code[len(free) :]]
        return np.where((found >= 0) & self._can_be(table, free[found]), found, -1)

    def _can_be(self, table: ParticleTable, rows: np.ndarray) -> np.ndarray:
        """Tell whether particles can be those of some rows by all else that is known of both."""
        mine, theirs = self._micrograph_numbers(table, with_folders=False)
        mine = mine[rows]
        apart = (mine >= 0) & (theirs >= 0) & (mine != theirs)
        moved_px = np.full(len(table), np.nan)
        if len(self.coordinates_px):
            moved_px = np.abs(coordinates_px(table) - self.coordinates_px[rows]).max(-1)
        other = np.abs(_defocus(table) - self.defocus[rows]).max(-1) > _SAME_DEFOCUS_A
        return ~apart & np.where(np.isnan(moved_px), ~other, moved_px <= SAME_PLACE_PX)

    def _same_places(
        self, table: ParticleTable, free: np.ndarray, *, with_folders: bool = True
    ) -> np.ndarray:
        """Return which of some rows were picked at the same places."""
        if not len(self.coordinates_px):
            return np.full(len(table), -1)
        mine, theirs = self._micrograph_numbers(table, with_folders=with_folders)
        known = mine[free], self.coordinates_px[free]
        return nearest_places(theirs, coordinates_px(table), known)

    def _same_places_anywhere(self, table: ParticleTable, free: np.ndarray) -> np.ndarray:
        """Return the same of micrographs that may be in another folder by now."""
        return self._same_places(table, free, with_folders=False)

    def _micrograph_numbers(
        self, table: ParticleTable, *, with_folders: bool
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return numbers that are equal for equal micrographs, of all rows and of the table.

        Their folders count, too, where micrographs of one file name are in several.
        """
        mine, theirs = self.micrographs, np.array(table.micrographs, np.str_)
        if not with_folders and len(np.unique(file_names(theirs))) == len(theirs):
            mine, theirs = file_names(mine), file_names(theirs)
        numbers, others = _numbered(mine, theirs)
        index = table.micrograph_index if len(theirs) else np.full(len(table), -1)
        # The last is that of no micrograph.
        return np.append(numbers, -1)[self.micrograph_index], np.append(others, -1)[index]

    def halves_of_images(self, table: ParticleTable) -> np.ndarray:
        """Return the half in which each particle's image has been used, 0 if in none."""
        mine, theirs = self._keys(table)
        half = np.zeros(int(max(mine.max(initial=-1), theirs.max(initial=-1))) + 1, np.int8)
        half[mine[self.half > 0]] = self.half[self.half > 0]
        return half[theirs]

    def halves_of_micrographs(self, table: ParticleTable) -> np.ndarray:
        """Return the only half in which each particle's micrograph has been used, else 0."""
        n = len(self.micrographs)
        is_in = np.zeros((3, n + 1), bool)  # the last column is that of no micrograph
        is_in[self.half, self.micrograph_index] = True
        only = np.where(is_in[1] & ~is_in[2], 1, np.where(is_in[2] & ~is_in[1], 2, 0))
        only[n] = 0
        if not table.micrographs:
            return np.zeros(len(table), np.int8)
        place = {str(name): i for i, name in enumerate(self.micrographs)}
        of_name = np.array([only[place.get(name, n)] for name in table.micrographs], np.int8)
        return of_name[table.micrograph_index]

    def _keys(self, table: ParticleTable) -> tuple[np.ndarray, np.ndarray]:
        """Return numbers that are equal for equal images: of the registry and of the table."""
        place = {str(path): i for i, path in enumerate(self.stacks)}
        known = [place.setdefault(os.path.realpath(p), len(place)) for p in table.stacks]
        stack = np.concatenate([self.stack_index, np.array(known, np.int64)[table.stack_index]])
        image = np.concatenate([self.image_index, table.image_index])
        _, key = np.unique(np.stack([stack, image], -1), axis=0, return_inverse=True)
        key = key.reshape(-1)
        return key[: len(self)], key[len(self) :]


def _numbered(names: np.ndarray, others: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return numbers of two lists of names that are equal for equal names."""
    place: dict[str, int] = {}
    numbers = [place.setdefault(str(name), len(place)) for name in [*names, *others]]
    return np.array(numbers[: len(names)], np.int64), np.array(numbers[len(names) :], np.int64)


def _occurrence(key: np.ndarray) -> np.ndarray:
    """Return how many earlier elements are equal to each."""
    order = np.argsort(key, kind="stable")
    ordered = key[order]
    place = np.arange(len(key))
    is_first = np.ones(len(key), bool)
    is_first[1:] = ordered[1:] != ordered[:-1]
    out = np.empty(len(key), np.int64)
    out[order] = place - np.maximum.accumulate(np.where(is_first, place, 0))
    return out


def first_registry(table: ParticleTable, used: np.ndarray, half: np.ndarray) -> ParticleRegistry:
    """Return the registry at the start of a run.

    Parameters
    ----------
    table
        Of the particle file.
    used, half
        Its rows that are used, and their halves.
    """
    all_halves = np.zeros(len(table), np.int8)
    all_halves[used] = half
    no_micrograph = np.full(len(table), -1)
    return ParticleRegistry(
        stacks=np.array([os.path.realpath(p) for p in table.stacks]),
        stack_index=table.stack_index.astype(np.int64),
        image_index=table.image_index.astype(np.int64),
        micrographs=np.array(table.micrographs, np.str_),
        micrograph_index=table.micrograph_index if table.micrographs else no_micrograph,
        half=all_halves,
        defocus=_defocus(table),
        dropped=np.zeros(len(table), "<U1"),
        aside=np.zeros(0, np.int64),
        stack_names=stack_names(table),
        coordinates_px=coordinates_px(table),
    )


def _defocus(table: ParticleTable) -> np.ndarray:
    return np.stack([table.defocus_u_A, table.defocus_v_A, table.defocus_angle_rad], -1)


def next_registry(
    registry: ParticleRegistry,
    known: "KnownPoses",
    table: ParticleTable,
    match: np.ndarray,
    *,
    used: np.ndarray,
    half: np.ndarray,
    dropped: np.ndarray,
) -> ParticleRegistry:
    """Return the registry of a segment that works on ``table``.

    Parameters
    ----------
    known
        Poses of the old registry.
    match
        The old registry's row of every particle, -1 for new ones.
    used, half, dropped
        As for :func:`first_registry`, and why usable particles are not used.
    """
    left = np.setdiff1d(np.arange(len(registry)), match)
    now = first_registry(table, used, half)
    halves = _known_halves(table, registry, match)
    halves[used] = half
    stacks, stack_index = _merged(
        now.stacks, now.stack_index, registry.stacks, registry.stack_index[left]
    )
    names = dict(zip(map(str, registry.stacks), map(str, registry.stack_names), strict=False))
    names.update(zip(map(str, now.stacks), map(str, now.stack_names), strict=True))
    places_px = np.full((len(left), 2), np.nan)
    if len(registry.coordinates_px):
        places_px = registry.coordinates_px[left]
    micrographs, micrograph_index = _merged(
        now.micrographs, now.micrograph_index, registry.micrographs, registry.micrograph_index[left]
    )  # fmt: skip
    old_row = np.concatenate([match, left])
    is_aside = (old_row >= 0) & known.has_pose[old_row]
    is_aside[used] = False
    aside = np.flatnonzero(is_aside)
    return ParticleRegistry(
        stacks=stacks,
        stack_index=stack_index,
        image_index=np.concatenate([now.image_index, registry.image_index[left]]),
        micrographs=micrographs,
        micrograph_index=micrograph_index,
        half=np.concatenate([halves, registry.half[left]]),
        defocus=np.concatenate([now.defocus, registry.defocus[left]]),
        dropped=np.concatenate([dropped, registry.dropped[left]]),
        aside=aside,
        poses=known.poses.select(old_row[aside]) if known.poses and len(aside) else None,
        stack_names=np.array([names.get(str(stack), "") for stack in stacks], np.str_),
        coordinates_px=np.concatenate([now.coordinates_px, places_px]),
    )


def _known_halves(
    table: ParticleTable, registry: ParticleRegistry, match: np.ndarray
) -> np.ndarray:
    """Return the half that each particle has been in, or its image, 0 if in none."""
    of_particle = np.where(match >= 0, registry.half[match], 0).astype(np.int8)
    return np.where(of_particle > 0, of_particle, registry.halves_of_images(table))


def _merged(
    names: np.ndarray, index: np.ndarray, more: np.ndarray, more_index: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Join two lists of names and what points into them; -1 points nowhere and stays."""
    place = {str(name): i for i, name in enumerate(names)}
    moved = np.array([place.setdefault(str(name), len(place)) for name in more], np.int64)
    shifted = np.where(more_index >= 0, moved[more_index], -1) if len(moved) else more_index
    return np.array(list(place), np.str_), np.concatenate([index, shifted])


@dataclass(frozen=True, eq=False)
class KnownPoses:
    """Poses of a registry's rows.

    Attributes
    ----------
    poses
        Of every row; None if the run has none at all.
    has_pose
        Of which rows the run has one.
    """

    poses: Poses | None
    has_pose: np.ndarray

    def of_table(
        self,
        registry: ParticleRegistry,
        table: ParticleTable,
        match: np.ndarray,
        *,
        is_new_file: bool,
    ) -> Poses | None:
        """Return what the particles of a file begin with: poses of a new file, else the run's.

        None if nothing is known of any. New particles begin with the values of their own that an
        earlier run left in the file, known ones keep the run's. Parameters as for
        :func:`next_registry`.
        """
        if self.poses is None and not table.has_pose:
            return None
        given = unknown_poses(len(table))
        if table.has_pose:
            rotations = matrix_from_euler(torch.from_numpy(table.euler_rad))
            given = Poses(rotations, torch.from_numpy(table.shift_A), optics=earlier_values(table))
        if self.poses is None:
            return given
        rows = np.flatnonzero((match >= 0) & self.has_pose[match])
        known = self.poses.select(match[rows])
        if given.optics is not None and known.optics is None:
            known = replace(known, optics=torch.zeros_like(given.optics[: len(rows)]))
        out = given.updated(rows, known)
        if not is_new_file:
            return out
        if table.has_pose:
            rows = np.flatnonzero(~table.lacks_pose)
            index = torch.from_numpy(rows)
            out = replace(
                out,
                rotations=out.rotations.index_copy(0, index, given.rotations[index]),
                shift_A=out.shift_A.index_copy(0, index, given.shift_A[index]),
            )
        return _without_twice_the_defocus(out, registry, table, match)


def known_poses(registry: ParticleRegistry, used: np.ndarray, poses: Poses | None) -> KnownPoses:
    """Return all poses of a run: of those in use, and of those set aside."""
    has_pose = np.zeros(len(registry), bool)
    if poses is None:
        return KnownPoses(None, has_pose)
    everyone = unknown_poses(len(registry))
    if registry.poses is not None:
        everyone = everyone.updated(registry.aside, registry.poses)
    has_pose[registry.aside] = has_pose[used] = True
    return KnownPoses(everyone.updated(used, poses), has_pose)


def _without_twice_the_defocus(
    poses: Poses, registry: ParticleRegistry, table: ParticleTable, match: np.ndarray
) -> Poses:
    """Forget the changes of defocus where the new file has another defocus than the old one.

    A run's own particle table has them in the defocus already.
    """
    if poses.optics is None:
        return poses
    known = match >= 0
    apart = np.abs(_defocus(table) - registry.defocus[match]).max(1) > _SAME_DEFOCUS_A
    optics = poses.optics.clone()
    optics[torch.from_numpy(np.flatnonzero(known & apart)), _DEFOCUS] = 0
    return replace(poses, optics=optics)


def extend_halves(
    table: ParticleTable,
    registry: ParticleRegistry,
    match: np.ndarray,
    *,
    seed: tuple[int, ...],
    events: EventLog,
) -> np.ndarray:
    """Return the half of every particle: known ones keep theirs, new ones are dealt.

    A particle that has been in a half stays in it. Then the file's halves hold, if they agree with
    the run's; then a new particle goes where its filament is, or else where its micrograph is, if
    that is in one half only. The rest is dealt as at the start of a run: whole micrographs to the
    smaller half, or filaments or single images where that would make the halves uneven. ``match``
    is as for :func:`next_registry`.

    Raises
    ------
    InputError
        If a half stays empty.
    """
    half = _known_halves(table, registry, match)
    given, known = table.half_set, half > 0
    if (given > 0).any():
        if (given[known] == half[known]).all():
            half = np.where(known, half, given).astype(np.int8)
        else:
            events.warn(
                "the half sets of the particle file are not those of the run, and are not used: "
                "halves that were refined apart stay apart"
            )
    half = np.where(half > 0, half, halves_of_filaments(table, half))
    half = np.where(half > 0, half, registry.halves_of_micrographs(table)).astype(np.int8)
    rest = np.flatnonzero(half == 0)
    if len(rest):
        half[rest] = deal_halves(
            table.select(rest),
            np.bincount(half, minlength=3)[1:],
            seed=seed,
            events=events,
            few="too few new micrographs to fill both halves evenly",
        )
    # Even if two rows that show one image name different micrographs.
    half = half[find_duplicates(table)]
    for number in (1, 2):
        if not (half == number).any():
            raise InputError(
                f"no particle is left in half set {number}",
                where=str(table.source),
                do="keep more particles",
            )
    return half
