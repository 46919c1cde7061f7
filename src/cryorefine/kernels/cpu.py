"""The kernels for CPUs, in numba: the same results as ``reference``, many times faster.

Arrays, not tensors; each is given a range of images, or of threads. Samples are taken in blocks:
where they lie is worked out for a whole block at once, which the compiler does with vector
instructions; then each is read or written by one of the intrinsics of ``taps``.
"""

import numpy as np
from numba import types

from cryorefine.compiled import compiled
from cryorefine.kernels.grid import HALO, OUTSIDE, TABLE_SIZE, WIDTH
from cryorefine.kernels.scratch import on_stack
from cryorefine.kernels.taps import add_taps, read_taps
from cryorefine.unrolled import unrolled

__all__ = [
    "BLOCK",
    "extract_slices",
    "insert_slices",
    "locate",
    "mark_outside",
    "may_leave",
    "pick_separated",
    "scaled_rows",
]

BLOCK = 256
"""Samples that are worked on together."""

_HALF = WIDTH // 2
"""Samples of the kernel on each side of the nearest grid point."""

_LANES = 4
"""Points of a row that ``taps`` loads at once: those of the kernel and one more."""

block_of_indices = on_stack((5, BLOCK), types.int32)
block_of_floats = on_stack((BLOCK,), types.float32)
three_floats = on_stack((3,), types.float32)
three_rows = on_stack((3, 3), types.float32)
_matrix = on_stack((3, 3), types.float64)


@unrolled()
def scaled_rows(code, rotation, step, rows):
    """Write a rotation's rows times the grid step: where the image's axes point on the grid."""
    for a in range(3):
        for j in range(3):
            rows[a, j] = step * rotation[a, j]


@unrolled(fastmath=True)
def locate(code, points, start, count, along_x, along_y, origin, centre, n_rows, index, sign):
    """Find the first neighbour and the rows of the table for a block of samples.

    Parameters
    ----------
    points
        (p, 2); sample q lies at ``origin + points[start + q, 0] along_x + points[start + q, 1]
        along_y``.
    n_rows
        Rows of a plane of the grid.
    index
        (5, BLOCK) int32, filled: row of the first neighbour, its position in the row, and the
        rows of the table for x, y and z.
    sign
        (BLOCK,), filled: -1 where the sample was mirrored to x ≥ 0.

    Notes
    -----
    Samples must lie in the grid, unless :func:`mark_outside` is called next: what is written for
    others may be any number.
    """
    first, n_rows = code.int32(centre - _HALF), code.int32(n_rows)
    points = points.in_rows_of(2)
    a, b, o = ([line[j] for j in range(3)] for line in (along_x, along_y, origin))
    for q in code.over(count):
        kx, ky = points[start + q, 0], points[start + q, 1]
        x, y, z = (o[j] + kx * a[j] + ky * b[j] for j in range(3))
        s = code.where(x < 0.0, code.float32(-1.0), 1.0)
        x, y, z = (s * position + 0.5 for position in (x, y, z))
        fx, fy, fz = (code.call("floor", position) for position in (x, y, z))
        sign[q] = s
        index[0, q] = (code.int32(fz) + first) * n_rows + code.int32(fy) + first
        index[1, q] = code.int32(fx) + (HALO - _HALF)
        index[2, q] = code.int32((x - fx) * TABLE_SIZE)
        index[3, q] = code.int32((y - fy) * TABLE_SIZE)
        index[4, q] = code.int32((z - fz) * TABLE_SIZE)


@unrolled(returns=types.boolean)
def may_leave(code, rows, reach, centre):
    """Tell whether slices may have samples that are not in the grid, NaN among them.

    Parameters
    ----------
    rows
        As :func:`scaled_rows` makes them.
    reach
        Largest distance of a point from the origin.
    """
    a, d, b = (sum(rows[i, j] * rows[k, j] for j in range(3)) for i, k in ((0, 0), (1, 1), (0, 1)))
    # The larger eigenvalue of the rows' products: the square of what a point is stretched by.
    stretch2 = 0.5 * (a + d) + code.call("sqrt", 0.25 * (a - d) * (a - d) + b * b)
    limit = code.float64(centre) + (0.5 - _HALF)
    return ~(stretch2 * reach * reach < limit * limit)


@unrolled()
def mark_outside(code, points, start, count, along_x, along_y, centre, n_rows, index):
    """Send samples that are not in the grid to its first points, and to weights of NaN.

    For a block that :func:`locate` has filled ``index`` for, about the origin.
    """
    points = points.in_rows_of(2)
    length = centre + (1 + HALO)
    last = code.float64(centre) + (0.5 - _HALF)
    # Of an array the last that is read: three planes and rows on, and all lanes.
    last_at = ((n_rows - (WIDTH - 1)) * n_rows - (WIDTH - 1)) * length - _LANES
    for q in code.over(count):
        at = code.int64(index[0, q]) * length + index[1, q]
        is_in = (at >= 0) & (at <= last_at) & (index[1, q] >= 0)
        for j in range(3):
            position = points[start + q, 0] * along_x[j] + points[start + q, 1] * along_y[j]
            is_in = is_in & (position < last) & (position > -last)
            is_in = is_in & (index[2 + j, q] >= 0) & (index[2 + j, q] <= TABLE_SIZE)
        # NaN along one axis is enough; along all it would reach the fourth lane, too.
        for j, outside in enumerate((0, 0, OUTSIDE, 0, 0)):
            index[j, q] = code.where(is_in, index[j, q], outside)


@compiled(fastmath=True)
def extract_slices(begin, end, values, centre, step, rotations, points, reach, table, out):
    """Read slices into ``out`` (n, p); see :func:`cryorefine.kernels.reference.extract_slices`."""
    n_points = points.shape[0]
    length = values.shape[2]
    plane = length * values.shape[1]
    index, sign = block_of_indices(), block_of_floats()
    rows, origin = three_rows(), three_floats()
    for a in range(3):
        origin[a] = 0
    for i in range(begin, end):
        scaled_rows(rotations[i], step, rows)
        leaves = may_leave(rows, reach, centre)
        for start in range(0, n_points, BLOCK):
            count = min(BLOCK, n_points - start)
            locate(
                points, start, count, rows[0], rows[1], origin, centre, values.shape[1], index, sign
            )
            if leaves:
                mark_outside(points, start, count, rows[0], rows[1], centre, values.shape[1], index)
            for q in range(count):
                at = np.int64(index[0, q]) * length + index[1, q]
                re, im = read_taps(
                    values, at, length, plane, table, index[2, q], index[3, q], index[4, q]
                )
                out[i, start + q] = complex(re, sign[q] * im)


@compiled(fastmath=True)
def insert_slices(
    begin, end, grid, weight_grid, centre, step, rotations, points, reach, values, weights, table
):
    """Add slices to sums; see :func:`cryorefine.kernels.reference.insert_slices`.

    All slices are written to the same grid: only one thread may call this.
    """
    n_points = points.shape[0]
    length = grid.shape[2]
    plane = length * grid.shape[1]
    index, sign = block_of_indices(), block_of_floats()
    rows, origin = three_rows(), three_floats()
    for a in range(3):
        origin[a] = 0
    for i in range(begin, end):
        scaled_rows(rotations[i], step, rows)
        leaves = may_leave(rows, reach, centre)
        for start in range(0, n_points, BLOCK):
            count = min(BLOCK, n_points - start)
            locate(
                points, start, count, rows[0], rows[1], origin, centre, grid.shape[1], index, sign
            )
            if leaves:
                mark_outside(points, start, count, rows[0], rows[1], centre, grid.shape[1], index)
            for q in range(count):
                at = np.int64(index[0, q]) * length + index[1, q]
                value = values[i, start + q]
                add_taps(
                    grid, weight_grid, at, length, plane, table,
                    index[2, q], index[3, q], index[4, q],
                    value.real, sign[q] * value.imag, weights[i, start + q],
                )  # fmt: skip


@compiled
def pick_separated(
    begin, end, index, score, rotations, symmetry, cos_apart, window, chosen, chosen_score
):
    """Walk down each image's ranked candidates and keep those apart from all kept before.

    Parameters
    ----------
    index, score
        (b, n) candidate rotations, best first, and their log-likelihoods.
    symmetry
        (g, 3, 3) rotations of the object that leave images unchanged.
    cos_apart
        Cosine of the least angle between two kept rotations.
    chosen, chosen_score
        (b, keep), -1 and -inf; filled with what is kept.
    """
    n, keep = index.shape[1], chosen.shape[1]
    u = _matrix()
    for i in range(begin, end):
        count = 0
        for j in range(n):
            if count == keep or score[i, j] < score[i, 0] - window:
                break
            if index[i, j] < 0 or index[i, j] >= rotations.shape[0]:
                continue
            candidate = rotations[index[i, j]]
            is_apart = True
            for m in range(count):
                other = rotations[chosen[i, m]]
                # trace(candidate @ g @ other.T) is the sum of g * (candidate.T @ other).
                for a in range(3):
                    for d in range(3):
                        u[a, d] = 0.0
                        for e in range(3):
                            u[a, d] += candidate[e, a] * other[e, d]
                for g in range(symmetry.shape[0]):
                    trace = 0.0
                    for a in range(3):
                        for d in range(3):
                            trace += symmetry[g, a, d] * u[a, d]
                    if 0.5 * (trace - 1) > cos_apart:
                        is_apart = False
                        break
                if not is_apart:
                    break
            if is_apart:
                chosen[i, count] = index[i, j]
                chosen_score[i, count] = score[i, j]
                count += 1
