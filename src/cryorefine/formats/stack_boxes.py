"""Sides of images that a particle file does not say, from the headers of their stacks."""

from dataclasses import replace

import numpy as np

from cryorefine.errors import InputError
from cryorefine.io.mrc import read_stack_header
from cryorefine.particles.table import ParticleTable

__all__ = ["with_boxes"]


def with_boxes(table: ParticleTable) -> ParticleTable:
    """Return the table with the box of every optics group, for formats that need it.

    Raises
    ------
    InputError
        If the box is not known and the stack, which tells it, cannot be read.
    """
    groups = list(table.optics)
    for g, group in enumerate(groups):
        members = np.flatnonzero(table.optics_index == g)
        if group.box_px or len(members) == 0:
            continue
        stack = table.stacks[table.stack_index[members[0]]]
        try:
            groups[g] = replace(group, box_px=read_stack_header(stack).size_yx_px[1])
        except InputError as error:
            raise InputError(
                f"{error.what}, and the box of its images, which the format needs, is in no column",
                where=f"{error.where} (named in {table.where(int(members[0]))})",
                do="say with --image-root where the stacks are",
            ) from None
    return replace(table, optics=tuple(groups))
