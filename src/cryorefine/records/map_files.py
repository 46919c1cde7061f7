"""The maps of an iteration beside its half maps, and a table that says which belong together."""

from pathlib import Path

import numpy as np
from jaxtyping import Float
from torch import Tensor

from cryorefine.io.mrc import write_volume
from cryorefine.io.star import write_star

__all__ = ["write_map", "write_map_table"]

HALF_MAPS = ("half1.mrc", "half2.mrc")
MAPS = {
    "map.mrc": "average_weighted_by_FSC",
    "map_sharpened.mrc": "average_weighted_and_sharpened",
    "map_average.mrc": "plain_average",
    "map_processed.mrc": "changed_by_mask_or_command",
}
"""Names of maps, and what each is of the half maps."""

_WORST_A = 1e6
"""Stands for no resolution in a table of plain numbers, as in ``fsc.star``."""


def write_map(path: Path, volume: Float[Tensor, "z y x"], voxel_A: float) -> None:
    """Write one of :data:`MAPS`, with the names of its half maps in a label of its header."""
    what = MAPS[path.name].replace("_", " ")
    labels = (f"cryorefine: {what}", f"half maps: {' '.join(HALF_MAPS)}")
    write_volume(path, volume.cpu(), voxel_A, labels=labels)


def write_map_table(folder: Path, voxel_A: float, resolution_A: float) -> None:
    """Write ``map.star``: each map that is in a folder, with its half maps and mask."""
    there = [name for name in MAPS if (folder / name).exists()]
    n = len(there)
    columns = {
        "cryorefineMapName": np.array(there),
        "cryorefineMapKind": np.array([MAPS[name] for name in there]),
        "rlnUnfilteredMapHalf1": np.full(n, HALF_MAPS[0]),
        "rlnUnfilteredMapHalf2": np.full(n, HALF_MAPS[1]),
        "rlnMaskName": np.full(n, "mask.mrc"),
        "rlnPixelSize": np.full(n, voxel_A),
        "rlnFinalResolution": np.full(n, min(resolution_A, _WORST_A)),
    }
    write_star(folder / "map.star", {"maps": columns})
