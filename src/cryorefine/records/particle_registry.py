"""Who takes part in a run: recognise particles by their image, keep the halves and poses of all."""

import os
from dataclasses import dataclass, replace

import numpy as np
import torch

from cryorefine.errors import InputError
from cryorefine.events import EventLog
from cryorefine.geometry.rotation import matrix_from_euler
from cryorefine.particles.half_sets import deal_halves, find_duplicates
from cryorefine.particles.table import ParticleTable
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

    def __len__(self) -> int:
        return len(self.image_index)

    def match(self, table: ParticleTable) -> np.ndarray:
        """Return each particle's row in the registry, -1 for those it does not know.

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
    halves = registry.halves_of_images(table)
    halves[used] = half
    stacks, stack_index = _merged(
        now.stacks, now.stack_index, registry.stacks, registry.stack_index[left]
    )
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
    )


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

        None if nothing is known of any. Parameters as for :func:`next_registry`.
        """
        if self.poses is None and not table.has_pose:
            return None
        given = unknown_poses(len(table))
        if table.has_pose:
            rotations = matrix_from_euler(torch.from_numpy(table.euler_rad))
            given = Poses(rotations, torch.from_numpy(table.shift_A))
        if self.poses is None:
            return given
        rows = np.flatnonzero((match >= 0) & self.has_pose[match])
        out = given.updated(rows, self.poses.select(match[rows]))
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
    table: ParticleTable, registry: ParticleRegistry, *, seed: tuple[int, ...], events: EventLog
) -> np.ndarray:
    """Return the half of every particle: known ones keep theirs, new ones are dealt.

    An image that has been in a half stays in it. Then the file's halves hold, if they agree with
    the run's; then a new particle goes where its micrograph is, if that is in one half only. The
    rest is dealt as at the start of a run: whole micrographs to the smaller half, or single
    images where that would make the halves uneven.

    Raises
    ------
    InputError
        If a half stays empty.
    """
    half = registry.halves_of_images(table)
    given, known = table.half_set, half > 0
    if (given > 0).any():
        if (given[known] == half[known]).all():
            half = np.where(known, half, given).astype(np.int8)
        else:
            events.warn(
                "the half sets of the particle file are not those of the run, and are not used: "
                "halves that were refined apart stay apart"
            )
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
