"""Work on particles, cut into pieces that do not depend on who does them."""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

__all__ = ["Block", "Rows", "plan_blocks", "rows_in_order"]

_MAX_PARTICLES = 2000
"""Particles of a block: what is lost with a worker takes seconds to do again, and what it takes
to hand over a block, some milliseconds, is nothing beside that."""

_MIN_BLOCKS = 16
"""So many blocks of each half, where there are particles enough, keep 16 workers busy to the
end."""


@dataclass(frozen=True, eq=False)
class Rows:
    """Particles that the same is done with.

    Attributes
    ----------
    half
        1 or 2.
    geometry
        Which of the sampling geometries their images have.
    action
        What is done with them.
    rows
        Their places in the table, ascending.
    """

    half: int
    geometry: int
    action: str
    rows: Int[np.ndarray, "n"]


@dataclass(frozen=True, eq=False)
class Block(Rows):
    """A piece of work: some of the particles that the same is done with."""


def plan_blocks(parts: Iterable[Rows], *, smallest: int = 64) -> list[Block]:
    """Cut parts into blocks of nearly equal size, no larger than the particles allow.

    A pure function of the particles: neither the number of workers nor their memory changes it,
    so that results do not depend on these to the bit. Nor do the blocks of a half depend on the
    other half. Parts of different halves take turns, which lets two workers begin with one half
    each. Parts without particles give no block.

    Parameters
    ----------
    smallest
        Particles of a block where there are enough. Smaller ones would leave the products of a
        search half empty; a GPU, which does one block after the other, needs larger ones.
    """
    parts = [part for part in parts if len(part.rows)]
    totals = Counter[int]()
    for part in parts:
        totals[part.half] += len(part.rows)
    cut = []
    for part in parts:
        share = math.ceil(totals[part.half] / _MIN_BLOCKS)
        size = min(_MAX_PARTICLES, max(smallest, share))
        pieces = np.array_split(part.rows, math.ceil(len(part.rows) / size))
        cut.append([Block(part.half, part.geometry, part.action, rows) for rows in pieces])
    # Sorted by their place within the part: the first ones of all parts come first.
    placed = [(place, block) for blocks in cut for place, block in enumerate(blocks)]
    return [block for _, block in sorted(placed, key=lambda item: item[0])]


def rows_in_order(blocks: Sequence[Block]) -> Int[np.ndarray, "n"]:
    """Return what puts results that follow each other as the blocks do into the table's order."""
    return np.argsort(np.concatenate([block.rows for block in blocks]))
