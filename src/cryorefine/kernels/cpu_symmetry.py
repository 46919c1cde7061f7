"""Sums of a grid over rotations on CPUs, in numba: one point of each orbit, spread to the others.

The rotations that permute grid points make orbits of up to 24 points and their Friedel mates. All
points of an orbit get the same sum: it is taken at the one that leads (the largest y, then z, then
x) and written to all. No two orbits share a point, so that threads write without regard to each
other.
"""

import math

import numpy as np
from numba import types

from cryorefine.compiled import compiled
from cryorefine.kernels.cpu import BLOCK, block_of_floats, block_of_indices, locate, three_floats
from cryorefine.kernels.grid import HALO, WIDTH
from cryorefine.kernels.scratch import on_stack
from cryorefine.kernels.taps import read_plane_taps_and_weights, read_taps_and_weights
from cryorefine.unrolled import Complex, unrolled

__all__ = ["add_halo", "mirror_halo", "permute_grid", "rotate_grid"]

_HALF = WIDTH // 2
"""Samples of the kernel on each side of the nearest grid point."""

_steps = on_stack((BLOCK, 2), types.float32)
_line = on_stack((BLOCK,), types.complex64)


@unrolled(returns=types.int64, fastmath=True)
def _keep_leaders(code, y, z, n_x, turn, side, keep):
    """Clear ``keep`` where a rotation takes a row's point to a higher rank; return how many stay.

    Points are ordered by one number, exact in double precision and linear in x, so that the loop
    over a row has no branches.
    """
    y, z, side = code.float64(y), code.float64(z), code.float64(side)
    row_rank = (y * side + z) * side
    t = [[code.float64(turn[i, j]) for j in range(3)] for i in range(3)]
    slope = (t[1][0] * side + t[2][0]) * side + t[0][0]
    u_start = t[0][1] * y + t[0][2] * z
    start = (t[1][1] * y + t[1][2] * z) * side
    start = (start + t[2][1] * y + t[2][2] * z) * side + u_start
    count = code.sums(1)
    for x in code.over(n_x):
        at = code.float64(x)
        u, rank = t[0][0] * at + u_start, slope * at + start
        # Of two mates with x = 0 the larger one stands for both.
        is_mirrored = (u < 0.0) | ((u == 0.0) & (rank < 0.0))
        rank = code.where(is_mirrored, -rank, rank)
        keep[x] = code.where(rank <= row_rank + at, keep[x], 0.0)
        count[0] += code.float32(keep[x])
    return count[0]


@compiled(inner=True)
def _leaders(y, z, n_x, exact, side, keep, found):
    """Write which points of a row lead their orbits; return how many."""
    for x in range(n_x):
        keep[x] = 1
    if y * side + z < 0:
        keep[0] = 0
    for e in range(exact.shape[0]):
        if _keep_leaders(y, z, n_x, exact[e], side, keep) == 0:
            return 0
    count = 0
    for x in range(n_x):
        if keep[x] > 0:
            found[count] = x
            count += 1
    return count


@unrolled(returns=types.UniTuple(types.int64, 4))
def _image_of_row(code, y, z, turn, centre):
    """Return where a rotation takes a row: u and the place in the grid, each start and slope."""
    side, length = 2 * centre + 1, centre + 1
    u, v, w = (turn[i, 1] * y + turn[i, 2] * z for i in range(3))
    place = ((centre + w) * side + centre + v) * length + u
    return u, turn[0, 0], place, (turn[2, 0] * side + turn[1, 0]) * length + turn[0, 0]


@unrolled()
def _write_image(
    code, u0, u_slope, place0, place_slope, opposite, found, line, weight_line, values, weights
):
    """Write a row's leaders to one image of each, or to its mate where that is in the half."""
    for q in code.over(found.shape[0]):
        u, place = u0 + u_slope * found[q], place0 + place_slope * found[q]
        value, weight = line[q], weight_line[q]
        with code.when(u >= 0):
            values[place], weights[place] = value, weight
        with code.when(u <= 0):
            mate = opposite - place
            values[mate], weights[mate] = Complex(value.real, -value.imag), weight


@compiled(inner=True)
def _spread(y, z, found, exact, centre, line, weight_line, out_values, out_weights):
    """Write the sums at a row's leaders to all points of their orbits."""
    opposite = _opposite(centre)
    for e in range(exact.shape[0]):
        u0, u_slope, place0, place_slope = _image_of_row(y, z, exact[e], centre)
        _write_image(
            u0, u_slope, place0, place_slope, opposite, found, line, weight_line, out_values,
            out_weights,
        )  # fmt: skip


@unrolled(returns=types.int64)
def _opposite(code, centre):
    """Return the sum of the places of any point and of its Friedel mate."""
    return 2 * centre * (2 * centre + 2) * (centre + 1)


@unrolled(fastmath=True)
def _add_scaled(code, count, factor, line, weight_line, to, to_weight):
    """Add a multiple of a row to one with a halo."""
    for x in code.over(count):
        value, old = line[x], to[HALO + x]
        to[HALO + x] = Complex(old.real + factor * value.real, old.imag + factor * value.imag)
        to_weight[HALO + x] += factor * weight_line[x]


@compiled(fastmath=True)
def add_halo(begin, end, values, weights, centre, taps, out_values, out_weights):
    """Lay out half grids for reading, convolved along z with three ``taps``.

    Only what samples within the grid's sphere read is written; the rest stays as it is: zero.
    """
    side = 2 * centre + 1
    limit = (centre + 1) * (centre + 1)
    for row in range(begin, end):
        iz, iy = row // side, row % side
        z, y = iz - centre, iy - centre
        left = limit - z * z - y * y
        if left < 0:
            continue
        n_x = min(int(math.sqrt(left)) + 1, values.shape[2])
        to, to_weight = out_values[iz, iy], out_weights[iz, iy]
        for tap in range(3):
            plane = iz + tap - 1
            if taps[tap] != 0 and plane >= 0 and plane < side:
                line, weight_line = values[plane, iy], weights[plane, iy]
                _add_scaled(n_x, taps[tap], line, weight_line, to, to_weight)


@compiled
def mirror_halo(begin, end, centre, out_values, out_weights):
    """Fill the halo at x < 0 from the Friedel mates."""
    side = 2 * centre + 1
    for row in range(begin, end):
        iz, iy = row // side, row % side
        for x in range(1, HALO + 1):
            mate = out_values[side - 1 - iz, side - 1 - iy, HALO + x]
            out_values[iz, iy, HALO - x] = mate.conjugate()
            out_weights[iz, iy, HALO - x] = out_weights[side - 1 - iz, side - 1 - iy, HALO + x]


@compiled(fastmath=True)
def rotate_grid(
    begin, end, values, weights, centre, rotations, exact, is_in_plane, table, out_values,
    out_weights,
):  # fmt: skip
    """Sum a grid over rotations; see :func:`cryorefine.kernels.reference.rotate_grid`.

    Parameters
    ----------
    values, weights
        Grids with halo, the same after each of the rotations ``exact`` (e, 3, 3), integers.
    is_in_plane
        All rotations keep points in planes of z, and the grids have been convolved along z.
    """
    side = 2 * centre + 1
    limit = (centre - _HALF) * (centre - _HALF)
    length = values.shape[2]
    plane = length * values.shape[1]
    keep, found = np.empty(centre + 1), np.empty(centre + 1, np.int64)
    index, sign = block_of_indices(), block_of_floats()
    along, origin = three_floats(), three_floats()
    steps, line, weight_line = _steps(), _line(), block_of_floats()
    for row in range(begin, end):
        iz, iy = row // side - centre, row % side - centre
        left = limit - iy * iy - iz * iz
        if left < 0:
            continue
        count = _leaders(iy, iz, int(math.sqrt(left)) + 1, exact, side, keep, found)
        for start in range(0, count, BLOCK):
            here = min(BLOCK, count - start)
            for q in range(here):
                steps[q, 0], steps[q, 1] = found[start + q], 0
                line[q] = 0
                weight_line[q] = 0
            for g in range(rotations.shape[0]):
                for a in range(3):
                    along[a] = rotations[g, a, 0]
                    origin[a] = rotations[g, a, 1] * iy + rotations[g, a, 2] * iz
                locate(steps, 0, here, along, along, origin, centre, values.shape[1], index, sign)
                for q in range(here):
                    at = np.int64(index[0, q]) * length + index[1, q]
                    if is_in_plane:
                        re, im, weight = read_plane_taps_and_weights(
                            values, weights, at + plane, length, table, index[2, q], index[3, q]
                        )
                    else:
                        re, im, weight = read_taps_and_weights(
                            values, weights, at, length, plane, table,
                            index[2, q], index[3, q], index[4, q],
                        )  # fmt: skip
                    line[q] += complex(re, sign[q] * im)
                    weight_line[q] += weight
            leaders = found[start : start + here]
            _spread(iy, iz, leaders, exact, centre, line, weight_line, out_values, out_weights)


@compiled(fastmath=True)
def permute_grid(begin, end, values, weights, centre, exact, out_values, out_weights):
    """Sum a half grid over a group of rotations that permute its points.

    See :func:`cryorefine.kernels.reference.permute_grid`; ``exact`` is (e, 3, 3), integers.
    """
    side = 2 * centre + 1
    opposite = _opposite(centre)
    keep, found = np.empty(centre + 1), np.empty(centre + 1, np.int64)
    line, weight_line = np.empty(centre + 1, np.complex64), np.empty(centre + 1, np.float32)
    for row in range(begin, end):
        iz, iy = row // side - centre, row % side - centre
        left = centre * centre - iy * iy - iz * iz
        if left < 0:
            continue
        count = _leaders(iy, iz, int(math.sqrt(left)) + 1, exact, side, keep, found)
        for q in range(count):
            line[q] = 0
            weight_line[q] = 0
        for e in range(exact.shape[0]):
            u0, u_slope, place0, place_slope = _image_of_row(iy, iz, exact[e], centre)
            for q in range(count):
                place = place0 + place_slope * found[q]
                if u0 + u_slope * found[q] < 0:
                    line[q] += values[opposite - place].conjugate()
                    weight_line[q] += weights[opposite - place]
                else:
                    line[q] += values[place]
                    weight_line[q] += weights[place]
        _spread(iy, iz, found[:count], exact, centre, line, weight_line, out_values, out_weights)
