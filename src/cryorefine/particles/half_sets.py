"""Draw half sets that cannot know of each other."""

import numpy as np

from cryorefine.errors import InputError
from cryorefine.events import EventLog
from cryorefine.particles.table import ParticleTable

__all__ = ["assign_halves", "deal_halves", "filaments", "find_duplicates", "halves_of_filaments"]

_TUBE = "rlnHelicalTubeID"

_MAX_UNEVEN = 0.6
"""Share of the particles that one half may have: at 0.6 the smaller half's noise is a quarter
stronger than that of even halves, and beyond it single images are dealt. Not measured."""


def find_duplicates(table: ParticleTable) -> np.ndarray:
    """Return for each particle the first row that shows the same image of the same stack."""
    key = np.stack([table.stack_index.astype(np.int64), table.image_index], -1)
    _, first, inverse = np.unique(key, axis=0, return_index=True, return_inverse=True)
    return first[inverse.reshape(-1)]


def filaments(table: ParticleTable) -> np.ndarray | None:
    """Return the filament of each particle as a number, or None if the file names none.

    ``rlnHelicalTubeID`` numbers filaments within a micrograph.
    """
    tubes = table.extra.get(_TUBE)
    if tubes is None:
        return None
    _, tube = np.unique(tubes, return_inverse=True)
    key = np.stack([table.micrograph_index, tube.reshape(-1)], -1)
    if not table.micrographs:
        key[:, 0] = 0  # without names every particle counts as alone in its micrograph
    return np.unique(key, axis=0, return_inverse=True)[1].reshape(-1)


def halves_of_filaments(table: ParticleTable, half: np.ndarray) -> np.ndarray:
    """Return the only half, 1 or 2, in which segments of each particle's filament are, else 0.

    ``half`` is that of every particle, 0 where it has none yet.
    """
    tubes = filaments(table)
    if tubes is None:
        return np.zeros(len(table), np.int8)
    n = int(tubes.max(initial=-1)) + 1
    first, second = (np.bincount(tubes[half == number], minlength=n) > 0 for number in (1, 2))
    return np.where(first & ~second, 1, np.where(second & ~first, 2, 0)).astype(np.int8)[tubes]


def assign_halves(table: ParticleTable, *, seed: int, events: EventLog) -> np.ndarray:
    """Return the half, 1 or 2, of every particle.

    Halves given in the file are kept. Otherwise whole micrographs are dealt, the largest first to
    the smaller half: neighbours that overlap share noise, and duplicates lie in one micrograph.
    Without micrograph names, or where a few large micrographs would make the halves uneven,
    whole filaments are dealt (``rlnHelicalTubeID``), or single images where the file names none;
    rows that show one image stay together. Halves of the file that divide a filament are kept with
    a warning.

    Raises
    ------
    InputError
        If the file puts one image in both halves, assigns only some particles, or leaves a half
        empty; or if there is only one image.
    """
    same = find_duplicates(table)
    repeated = int((same != np.arange(len(table))).sum())
    if repeated:
        row = int(np.argmax(same != np.arange(len(table))))
        events.warn(
            f"{repeated} particles repeat an image of an earlier row (first: {table.names[row]}); "
            "they are kept in the same half"
        )
    if (table.half_set > 0).any():
        half = _given(table, same)
        _warn_of_divided(filaments(table), half, events)
        return half
    if len(np.unique(same)) < 2:
        raise InputError(
            f"{len(table)} particle image cannot make two half sets",
            where=str(table.source),
            do="give more particles",
        )
    if not table.micrographs:
        events.warn(
            f"{table.source}: no column _rlnMicrographName: half sets are dealt image by image, "
            "and neighbours that overlap in a micrograph may raise the FSC"
        )
    few = "too few micrographs to split into even halves"
    return deal_halves(table, np.zeros(2, np.int64), seed=seed, events=events, few=few)


def deal_halves(
    table: ParticleTable,
    sizes: np.ndarray,
    *,
    seed: int | tuple[int, ...],
    events: EventLog,
    few: str,
) -> np.ndarray:
    """Deal particles to halves that have ``sizes`` already, by micrographs if that comes out even.

    Otherwise whole filaments are dealt where the file names them: segments of one overlap, and are
    never apart. Else single images are dealt, repeated ones together, and a warning begins with
    ``few``.

    Raises
    ------
    InputError
        If the file names filaments, and there are too few to fill both halves.
    """
    same = find_duplicates(table)
    rng = np.random.default_rng(seed)
    tubes = filaments(table)
    if table.micrographs:
        # Even if a repeat names another micrograph.
        half = _deal(table.micrograph_index, sizes, rng)[same]
        share = (sizes[0] + (half == 1).sum()) / (sizes.sum() + len(half))
        if 1 - _MAX_UNEVEN <= share <= _MAX_UNEVEN:
            return half
        if tubes is None:
            events.warn(
                f"{few}: single images were dealt instead, and overlapping neighbours may raise "
                "the FSC"
            )
    if tubes is None:
        return _deal(same, sizes, rng)
    half = _deal(tubes, sizes, rng)[same]
    if ((sizes + np.bincount(half, minlength=3)[1:]) == 0).any():
        raise InputError(
            "all segments are of one filament, and would show the same subunits in both halves",
            where=str(table.source),
            do=f"give segments of more filaments, or remove the column _{_TUBE}",
        )
    return half


def _deal(unit: np.ndarray, sizes: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Deal units (equal values stay together), the largest first, each to the smaller half."""
    values, inverse, counts = np.unique(unit, return_inverse=True, return_counts=True)
    order = rng.permutation(len(values))
    order = order[np.argsort(-counts[order], kind="stable")]
    of_unit = np.empty(len(values), np.int8)
    total = sizes.astype(np.int64)
    for position, index in enumerate(order):
        # Ties alternate, so that equal units are dealt evenly.
        pick = int(total[1] < total[0]) if total[0] != total[1] else position % 2
        of_unit[index] = pick + 1
        total[pick] += counts[index]
    return of_unit[inverse.reshape(-1)]


def _given(table: ParticleTable, same: np.ndarray) -> np.ndarray:
    half = table.half_set
    where = f"{table.source}, column _rlnRandomSubset"
    if (half == 0).any():
        row = int(np.argmax(half == 0))
        raise InputError(
            f"some particles have no half set (first: {table.names[row]})",
            where=where,
            do="assign all, or remove the column to have halves drawn anew",
        )
    for number in (1, 2):
        if not (half == number).any():
            raise InputError(
                f"no particle is in half set {number}",
                where=where,
                do="remove the column to have halves drawn anew",
            )
    crossing = half != half[same]
    if crossing.any():
        row = int(np.argmax(crossing))
        raise InputError(
            f"{int(crossing.sum())} images stand in both half sets (first: {table.names[row]})",
            where=where,
            do="remove the repeated rows, or the column to have halves drawn anew",
        )
    return half


def _warn_of_divided(tubes: np.ndarray | None, half: np.ndarray, events: EventLog) -> None:
    """Warn where segments of one filament stand in both halves."""
    if tubes is None:
        return
    n = int(tubes.max()) + 1
    divided = int(
        ((np.bincount(tubes[half == 1], minlength=n) > 0)
         & (np.bincount(tubes[half == 2], minlength=n) > 0)).sum()
    )  # fmt: skip
    if divided:
        events.warn(
            f"segments of {divided} filaments stand in both half sets of the file: where they "
            "overlap, the FSC is too good. Remove the column _rlnRandomSubset to have whole "
            "filaments dealt"
        )
