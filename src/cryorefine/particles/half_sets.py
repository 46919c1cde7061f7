"""Draw half sets that cannot know of each other."""

import numpy as np

from cryorefine.errors import InputError
from cryorefine.events import EventLog
from cryorefine.particles.table import ParticleTable

__all__ = ["assign_halves", "deal_halves", "find_duplicates"]

_MAX_UNEVEN = 0.6
"""Share of the particles that one half may have: at 0.6 the smaller half's noise is a quarter
stronger than that of even halves, and beyond it single images are dealt. Not measured."""


def find_duplicates(table: ParticleTable) -> np.ndarray:
    """Return for each particle the first row that shows the same image of the same stack."""
    key = np.stack([table.stack_index.astype(np.int64), table.image_index], -1)
    _, first, inverse = np.unique(key, axis=0, return_index=True, return_inverse=True)
    return first[inverse.reshape(-1)]


def assign_halves(table: ParticleTable, *, seed: int, events: EventLog) -> np.ndarray:
    """Return the half, 1 or 2, of every particle.

    Halves given in the file are kept. Otherwise whole micrographs are dealt, the largest first to
    the smaller half: neighbours that overlap share noise, and duplicates lie in one micrograph.
    Without micrograph names, or where a few large micrographs would make the halves uneven,
    single images are dealt; rows that show one image stay together.

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
        return _given(table, same)
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

    Otherwise single images are dealt, repeated ones together, and a warning begins with ``few``.
    """
    same = find_duplicates(table)
    rng = np.random.default_rng(seed)
    if table.micrographs:
        # Even if a repeat names another micrograph.
        half = _deal(table.micrograph_index, sizes, rng)[same]
        share = (sizes[0] + (half == 1).sum()) / (sizes.sum() + len(half))
        if 1 - _MAX_UNEVEN <= share <= _MAX_UNEVEN:
            return half
        events.warn(
            f"{few}: single images were dealt instead, and overlapping neighbours may raise the FSC"
        )
    return _deal(same, sizes, rng)


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
