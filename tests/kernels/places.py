"""Where the CPU kernels read and write samples, as they find it."""

import numpy as np
from torch import Tensor

from cryorefine.compiled import compiled
from cryorefine.kernels.cpu import (
    BLOCK,
    block_of_floats,
    block_of_indices,
    locate,
    mark_outside,
    may_leave,
    scaled_rows,
    three_floats,
    three_rows,
)
from cryorefine.kernels.grid import SliceGrid

__all__ = ["places"]


@compiled(fastmath=True)
def _places(points, reach, rotation, step, centre, n_rows, out):
    rows, origin = three_rows(), three_floats()
    index, sign = block_of_indices(), block_of_floats()
    for a in range(3):
        origin[a] = 0
    scaled_rows(rotation, step, rows)
    for start in range(0, points.shape[0], BLOCK):
        count = min(BLOCK, points.shape[0] - start)
        locate(points, start, count, rows[0], rows[1], origin, centre, n_rows, index, sign)
        if may_leave(rows, reach, centre):
            mark_outside(points, start, count, rows[0], rows[1], centre, n_rows, index)
        for q in range(count):
            for j in range(5):
                out[j, start + q] = index[j, q]


def places(grid: SliceGrid, rotation: Tensor, points: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Return the first elements (p,) that samples read, and their rows (3, p) of the table."""
    out = np.zeros((5, len(points)), np.int32)
    reach = float(points.square().sum(1).max().sqrt())
    _places(
        points.float().numpy(), reach, rotation.float().numpy(), float(grid.step), grid.centre,
        grid.values.shape[1], out,
    )  # fmt: skip
    return out[0].astype(np.int64) * grid.values.shape[2] + out[1], out[2:]
