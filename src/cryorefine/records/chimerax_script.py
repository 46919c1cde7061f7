"""A script for ChimeraX that opens the maps of an iteration at levels that show the particle.

It names only files that lie beside it, whose names are this program's: no name that a user chose
is in it, and so none can be taken for a command. ChimeraX looks for them where the script is.
"""

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from cryorefine.io.atomic import write_text
from cryorefine.masks.soft import otsu_threshold

__all__ = ["CHIMERAX_SCRIPT", "enclosing_level", "surface_level", "write_chimerax_script"]

CHIMERAX_SCRIPT = "open_in_chimerax.cxc"

_INSIDE = 0.5
"""Mask value of its surface, half way along its soft edge."""

_SCRIPT = """\
# cryorefine: the map, its half maps (hidden) and the mask they were compared in.
# Open this file in ChimeraX while nothing else is open: models are called by number.
open map.mrc
open half1.mrc
open half2.mrc
open mask.mrc
# The level divides the voxels in the mask into two classes of least spread.
volume #1 style surface step 1 level {map:.6g} color lightsteelblue
# Half maps are raw: their levels enclose the volume that the map's does.
volume #2 style surface step 1 level {half1:.6g} color goldenrod
volume #3 style surface step 1 level {half2:.6g} color mediumseagreen
# Half way along the soft edge.
volume #4 style surface step 1 level {mask:.6g} color gray transparency 75
hide #2-3 models
view
"""


def write_chimerax_script(
    folder: Path,
    weighted: Float[Tensor, "z y x"],
    halves: tuple[Float[Tensor, "z y x"], Float[Tensor, "z y x"]],
    mask: Float[Tensor, "z y x"],
) -> None:
    """Write :data:`CHIMERAX_SCRIPT` for the maps of a folder.

    Parameters
    ----------
    weighted
        The map that is in ``map.mrc``.
    halves
        In ``half1.mrc`` and ``half2.mrc``.
    mask
        In ``mask.mrc``.
    """
    inside = _inside(mask)
    values = weighted.flatten()[inside]
    level = otsu_threshold(values)
    share = float((values >= level).float().mean())
    half_levels = [_level_above(half.flatten()[inside], share) for half in halves]
    text = _SCRIPT.format(map=level, half1=half_levels[0], half2=half_levels[1], mask=_INSIDE)
    write_text(folder / CHIMERAX_SCRIPT, text)


def surface_level(volume: Float[Tensor, "z y x"], mask: Float[Tensor, "z y x"]) -> float:
    """Return the level that parts the particle from the solvent about it within its mask.

    It is the threshold that divides the voxels there into two classes of least spread (Otsu),
    which needs neither the molecule's mass nor a noise that sets the scale, and does not depend on
    how generous the mask is. Of five proteins of 64 to 650 kDa it encloses 0.88 to 1.16 times the
    volume of their mass (1.21 Å³ a dalton) at 6 to 12 Å, and 0.7 times at 4 Å, where side chains
    show (``benchmarks/surface_level.py``).
    """
    return otsu_threshold(volume.flatten()[_inside(mask)])


def enclosing_level(
    volume: Float[Tensor, "z y x"], mask: Float[Tensor, "z y x"], share: float
) -> float:
    """Return the level at or above which a share of the voxels within the mask lies."""
    return _level_above(volume.flatten()[_inside(mask)], share)


def _level_above(values: Float[Tensor, "m"], share: float) -> float:
    n_below = min(max(round((1 - share) * len(values)), 0), len(values) - 1)
    return float(np.partition(values.numpy(), n_below)[n_below])


def _inside(mask: Float[Tensor, "z y x"]) -> Int[Tensor, "m"]:
    """Return which voxels the mask's surface encloses; all where it encloses nothing."""
    inside = (mask.flatten() > _INSIDE).nonzero().flatten()
    return inside if len(inside) else torch.arange(mask.numel())
