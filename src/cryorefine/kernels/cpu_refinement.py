"""Refining poses on CPUs: the twin of ``reference.refine_poses``."""

import functools
import operator

import numpy as np
from numba import types

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
from cryorefine.kernels.poses import (
    DAMPING_FALLS,
    DAMPING_RISES,
    MAX_DAMPING,
    PROMISE,
    PROSPECT,
    RIDGE,
)
from cryorefine.kernels.scratch import on_stack
from cryorefine.kernels.taps import read_taps, read_taps_with_gradient
from cryorefine.unrolled import Complex, unrolled

__all__ = ["refine_poses"]

_THREE, _FIVE = range(3), range(5)

_taps = on_stack((10, BLOCK), types.float32)
_sums = on_stack((22,), types.float64)
_vector2 = on_stack((2,), types.float64)
_vector5 = on_stack((5,), types.float64)
_matrix3 = on_stack((3, 3), types.float64)
_matrix5 = on_stack((5, 5), types.float64)


@unrolled(fastmath=True)
def _shift_phases(code, angle_step, shift, ex, ey):
    """Write what a shift turns the phases by at each frequency along x, and along y."""
    for line, along in ((ex, shift[0]), (ey, shift[1])):
        reach = (line.shape[0] - 1) >> 1
        for j in code.over(line.shape[0]):
            angle = angle_step * code.float64(j - reach) * along
            line[j] = Complex(code.call("cos", angle), -code.call("sin", angle))


@unrolled(fastmath=True)
def _centre_images(code, start, count, k_px, x, ex, ey, taps):
    """Fill the last two of ``taps`` with the centred image: real and imaginary part."""
    k_px, reach = k_px.in_rows_of(2), (ex.shape[0] - 1) >> 1
    for q in code.over(count):
        along_x = ex[code.int64(k_px[start + q, 0]) + reach]
        along_y = ey[code.int64(k_px[start + q, 1]) + reach]
        re = along_x.real * along_y.real - along_x.imag * along_y.imag
        im = along_x.real * along_y.imag + along_x.imag * along_y.real
        value = x[start + q]
        taps[8, q] = value.real * re - value.imag * im
        taps[9, q] = value.real * im + value.imag * re


@unrolled(fastmath=True)
def _add_scores(code, start, count, c, sign, taps, total):
    """Add a block's products of image and slice, and of the slice with itself."""
    block = code.sums(2)
    for q in code.over(count):
        weight = c[start + q]
        w_re, w_im = weight * taps[0, q], weight * sign[q] * taps[1, q]
        block[0] += taps[8, q] * w_re + taps[9, q] * w_im
        block[1] += w_re * w_re + w_im * w_im
    for j in range(2):
        total[j] += block[j]


@unrolled(fastmath=True)
def _add_all(code, start, count, points, k_px, c, sign, taps, rows, total):
    """Add a block's sums for score, gradient and matrix, in this order.

    Single precision within a block, double between blocks; shifts in units of a turn per box.
    """
    (ax, ay, az), (bx, by, bz), (cx, cy, cz) = ([rows[a, j] for j in _THREE] for a in _THREE)
    points, k_px, block = points.in_rows_of(2), k_px.in_rows_of(2), code.sums(22)
    for q in code.over(count):
        kx, ky = points[start + q, 0], points[start + q, 1]
        tx, ty = (code.float32(k_px[start + q, a]) for a in range(2))
        weight = c[start + q]
        mirrored = weight * sign[q]
        w_re, w_im = weight * taps[0, q], mirrored * taps[1, q]
        dx_re, dy_re, dz_re = taps[2, q], taps[4, q], taps[6, q]
        dx_im, dy_im, dz_im = taps[3, q], taps[5, q], taps[7, q]
        u_re = mirrored * (cx * dx_re + cy * dy_re + cz * dz_re)
        u_im = weight * (cx * dx_im + cy * dy_im + cz * dz_im)
        ex, ey, ez = ky * ax - kx * bx, ky * ay - kx * by, ky * az - kx * bz
        v_re = mirrored * (ex * dx_re + ey * dy_re + ez * dz_re)
        v_im = weight * (ex * dx_im + ey * dy_im + ez * dz_im)
        x_re, x_im = taps[8, q], taps[9, q]
        r_re, r_im = x_re - w_re, x_im - w_im
        ww, uu = w_re * w_re + w_im * w_im, u_re * u_re + u_im * u_im
        uv, vv = u_re * v_re + u_im * v_im, v_re * v_re + v_im * v_im
        ur, vr = u_re * r_re + u_im * r_im, v_re * r_re + v_im * r_im
        wr, uw = w_re * r_im - w_im * r_re, u_re * w_im - u_im * w_re
        vw = v_re * w_im - v_im * w_re
        sums = (
            x_re * w_re + x_im * w_im, ww,
            -(ky * ur), kx * ur, vr, tx * wr, ty * wr,
            ky * ky * uu, -(kx * ky * uu), -(ky * uv), ky * tx * uw, ky * ty * uw,
            kx * kx * uu, kx * uv, -(kx * tx * uw), -(kx * ty * uw),
            vv, -(tx * vw), -(ty * vw),
            tx * tx * ww, tx * ty * ww, ty * ty * ww,
        )  # fmt: skip
        for j, one in enumerate(sums):
            block[j] += one
    for j in range(22):
        total[j] += block[j]


@unrolled(returns=types.float64, fastmath=True)
def _fill_equations(code, total, angle_step, shift, prior, precision, gradient, matrix):
    """Fill gradient and matrix from the sums; return the log-likelihood."""
    score, units = 2 * total[0] - total[1], (1.0, 1.0, 1.0, angle_step, angle_step)
    pairs = iter(range(7, 22))
    for a in _FIVE:
        gradient[a] = 2 * units[a] * total[2 + a]
        for b in range(a, 5):
            matrix[a, b] = matrix[b, a] = 2 * units[a] * units[b] * total[next(pairs)]
    for a in range(2):
        offset = shift[a] - prior[a]
        score -= 0.5 * precision * offset * offset
        gradient[3 + a] -= precision * offset
        matrix[3 + a, 3 + a] += precision
    return score


@compiled(fastmath=True, inner=True)
def _normal_equations(
    values, centre, step, points, reach_of_points, k_px, angle_step, x, c, rotation, shift, prior,
    precision, table, ex, ey, only_score, index, sign, taps, gradient, matrix,
):  # fmt: skip
    """Fill gradient (5) and matrix (5, 5) at one pose; return log-likelihood and model power.

    Where only the score is wanted, gradient and matrix are of no meaning.

    The algebra is that of ``reference._normal_equations``, with the sums over frequencies taken
    in one pass: u is the derivative of the slice out of its plane, v that in its plane, w the
    slice itself, each times the contrast transfer. ``taps`` (10, BLOCK) has the slice and its
    x, y, z derivatives, and the centred image, real before imaginary parts. At a mirrored point
    the slice is conjugate and the gradient minus conjugate, which ``sign`` tells.
    """
    length = values.shape[2]
    plane = length * values.shape[1]
    rows, origin, total = three_rows(), three_floats(), _sums()
    for a in range(3):
        origin[a] = 0
    for j in range(22):
        total[j] = 0
    _shift_phases(angle_step, shift, ex, ey)
    scaled_rows(rotation, step, rows)
    leaves = may_leave(rows, reach_of_points, centre)
    n_points = points.shape[0]
    for start in range(0, n_points, BLOCK):
        count = min(BLOCK, n_points - start)
        locate(points, start, count, rows[0], rows[1], origin, centre, values.shape[1], index, sign)
        if leaves:
            mark_outside(points, start, count, rows[0], rows[1], centre, values.shape[1], index)
        for q in range(count):
            at = np.int64(index[0, q]) * length + index[1, q]
            ix, iy, iz = index[2, q], index[3, q], index[4, q]
            if only_score:
                taps[0, q], taps[1, q] = read_taps(values, at, length, plane, table, ix, iy, iz)
            else:
                read = read_taps_with_gradient(values, at, length, plane, table, ix, iy, iz)
                for j in range(8):
                    taps[j, q] = read[j]
        _centre_images(start, count, k_px, x, ex, ey, taps)
        if only_score:
            _add_scores(start, count, c, sign, taps, total)
        else:
            _add_all(start, count, points, k_px, c, sign, taps, rows, total)
    score = _fill_equations(total, angle_step, shift, prior, precision, gradient, matrix)
    return score, total[1]


@unrolled(returns=types.float64)
def _own_noise(code, own, rotation, shift, gradient):
    """Take an image's own noise out of a pose's gradient; return what it adds to the score.

    ``own`` is a row of ``OwnNoiseInReference.packed``; the algebra is that of
    ``reference.own_noise_gain``.
    """
    turn = [[sum(rotation[a, j] * own[3 * b + j] for j in _THREE) for b in _THREE] for a in _THREE]
    trace = turn[0][0] + turn[1][1] + turn[2][2]
    is_near = trace > 1.0
    x = 0.5 * (turn[2][1] - turn[1][2])
    y = 0.5 * (turn[0][2] - turn[2][0])
    z = 0.5 * (turn[1][0] - turn[0][1])
    weighted = [own[13 + 3 * a] * x + own[14 + 3 * a] * y + own[15 + 3 * a] * z for a in _THREE]
    dx, dy = shift[0] - own[9], shift[1] - own[10]
    distance2 = weighted[0] * x + weighted[1] * y + weighted[2] * z + own[12] * (dx * dx + dy * dy)
    base = 1 + 0.5 * distance2
    gained = code.where(is_near, own[11] / (base * base), 0.0)
    slope = code.where(is_near, own[11] / (base * base) / base, 0.0)
    for a in _THREE:
        change = trace * weighted[a]
        for b in _THREE:
            change -= turn[b][a] * weighted[b]
        gradient[a] += slope * change
    gradient[3] += 2 * slope * own[12] * dx
    gradient[4] += 2 * slope * own[12] * dy
    return gained


@unrolled(returns=types.boolean)
def _solve(code, matrix, residual_curvature, gradient, damping, step):
    """Solve (matrix + damping diag + residual curvature) step = gradient by Cholesky.

    Returns whether it succeeded; if not, the step is of no meaning.
    """
    top = matrix[0, 0]
    for a in _FIVE[1:]:
        top = code.where(matrix[a, a] > top, matrix[a, a], top)
    root, is_positive = {}, []
    for a in _FIVE:
        for b in range(a + 1):
            total = matrix[a, b] + residual_curvature[a, b]
            if a == b:
                total += damping * matrix[a, a] + RIDGE * top
            for j in range(b):
                total -= root[a, j] * root[b, j]
            if a == b:
                is_positive.append(total > 0)
                root[a, a] = code.call("sqrt", total)
            else:
                root[a, b] = total / root[b, b]
    found = {}
    for a in _FIVE:
        total = gradient[a]
        for j in range(a):
            total -= root[a, j] * found[j]
        found[a] = total / root[a, a]
    for a in reversed(_FIVE):
        total = found[a]
        for j in range(a + 1, 5):
            total -= root[j, a] * found[j]
        found[a] = total / root[a, a]
        step[a] = found[a]
    return functools.reduce(operator.and_, is_positive)


@unrolled()
def _learn_curvature(
    code, step, gradient, new_gradient, is_better, matrix, new_matrix, residual_curvature
):
    """Add to the curvature beside the Gauss-Newton matrix what a step has shown of it.

    See ``reference.learned_curvature``; the matrix is that of the better pose.
    """
    known_matrix = {
        (a, b): code.where(is_better, new_matrix[a, b], matrix[a, b]) for a in _FIVE for b in _FIVE
    }
    moves = [step[a] for a in _FIVE]
    known = {(a, b): residual_curvature[a, b] for a in _FIVE for b in _FIVE}
    along = [sum(known_matrix[a, b] * moves[b] for b in _FIVE) for a in _FIVE]
    missing = [
        gradient[a] - new_gradient[a] - sum(known[a, b] * moves[b] for b in _FIVE) - along[a]
        for a in _FIVE
    ]
    length2 = sum(along[a] * moves[a] for a in _FIVE)
    shortfall = sum(missing[a] * moves[a] for a in _FIVE)
    is_step = length2 > 0
    along = [along[a] / length2 for a in _FIVE]
    for a in _FIVE:
        for b in _FIVE:
            learned = (
                missing[a] * along[b] + along[a] * missing[b] - shortfall * along[a] * along[b]
            )
            residual_curvature[a, b] = known[a, b] + code.where(is_step, learned, 0.0)


@unrolled()
def _turn(code, rotation, move, out):
    """Write exp([move]) @ rotation into ``out``; ``move`` begins with x, y, z."""
    x, y, z = (move[a] for a in _THREE)
    angle2 = x * x + y * y + z * z
    is_small = angle2 < 1e-16
    angle = code.call("sqrt", angle2)
    a = code.where(is_small, 1.0 - angle2 / 6, code.call("sin", angle) / angle)
    b = code.where(is_small, 0.5, (1 - code.call("cos", angle)) / angle2)
    turn = (
        (1 - b * (y * y + z * z), b * x * y - a * z, b * x * z + a * y),
        (b * x * y + a * z, 1 - b * (x * x + z * z), b * y * z - a * x),
        (b * x * z - a * y, b * y * z + a * x, 1 - b * (x * x + y * y)),
    )
    for j in _THREE:
        column = [rotation[i, j] for i in _THREE]
        for i in _THREE:
            out[i, j] = sum(turn[i][k] * column[k] for k in _THREE)


def _copying(side):
    """Return a function for vectors and square matrices.

    numba takes seconds for what an assignment of arrays might raise, and half a second for two
    arrays that change places.
    """

    @unrolled()
    def copy(code, values, out):
        is_vector = len(values.shape) == 1
        for a in range(side):
            for at in [a] if is_vector else [(a, b) for b in range(side)]:
                out[at] = values[at]

    return copy


_copy2, _copy3, _copy5 = _copying(2), _copying(3), _copying(5)


@unrolled()
def _clear(code, matrix):
    """Set a matrix (5, 5) to zero."""
    for a in _FIVE:
        for b in _FIVE:
            matrix[a, b] = 0.0


@unrolled()
def _limit(code, move, shift, max_turn, max_move, max_shift):
    """Shorten a step's turn, its moves, and what would take the shift beyond its limit."""
    turn = code.call("sqrt", move[0] * move[0] + move[1] * move[1] + move[2] * move[2])
    share = code.where(turn > max_turn, max_turn / turn, 1.0)
    for a in _THREE:
        move[a] *= share
    ends = []
    for a in range(2):
        moved = code.where(move[3 + a] > -max_move, move[3 + a], -max_move)
        ends.append(shift[a] + code.where(moved < max_move, moved, max_move))
    length = code.call("sqrt", ends[0] * ends[0] + ends[1] * ends[1])
    share = code.where(length > max_shift, max_shift / length, 1.0)
    for a in range(2):
        move[3 + a] = ends[a] * share - shift[a]


@unrolled(returns=types.float64)
def _promised(code, gradient, move):
    """Return what the score gains by a step if the equations are right."""
    return sum(0.5 * gradient[a] * move[a] for a in _FIVE)


@unrolled()
def _move_shift(code, shift, move, new_shift):
    """Write the shift after a step."""
    for a in range(2):
        new_shift[a] = shift[a] + move[3 + a]


@unrolled()
def _freeze(code, gradient, matrix, max_turn, max_move):
    """Take out of the equations what may not change: the turn, or the shift."""
    no_turn, no_move = max_turn == 0.0, max_move == 0.0
    for a in _THREE:
        gradient[a] = code.where(no_turn, 0.0, gradient[a])
        for b in range(3, 5):
            matrix[a, b] = matrix[b, a] = code.where(no_turn | no_move, 0.0, matrix[a, b])
    for b in range(3, 5):
        gradient[b] = code.where(no_move, 0.0, gradient[b])


@compiled
def refine_poses(
    begin, end, values, centre, step, points, reach_of_points, k_px, angle_step, x, c, image_of,
    rotations, shifts, priors, precision, own, floor, max_evaluations, max_shift, max_turn,
    max_move, tolerance, initial_damping, informs, table, scores, powers, information,
):  # fmt: skip
    """Refine each start, in place; see :func:`cryorefine.kernels.reference.refine_poses`."""
    reach = 0
    for p in range(k_px.shape[0]):
        reach = max(reach, abs(k_px[p, 0]), abs(k_px[p, 1]))
    ex, ey = np.empty(2 * reach + 1, np.complex64), np.empty(2 * reach + 1, np.complex64)
    index, sign, taps = block_of_indices(), block_of_floats(), _taps()
    gradient, new_gradient = _vector5(), _vector5()
    matrix, new_matrix = _matrix5(), _matrix5()
    move, residual_curvature = _vector5(), _matrix5()
    rotation, new_rotation = _matrix3(), _matrix3()
    shift, new_shift = _vector2(), _vector2()
    for m in range(begin, end):
        i = image_of[m]
        _copy3(rotations[m], new_rotation)
        _copy2(shifts[m], new_shift)
        score, power, damping = -np.inf, 0.0, initial_damping
        _clear(residual_curvature)
        for evaluation in range(max_evaluations + 1):
            new_score, new_power = _normal_equations(
                values, centre, step, points, reach_of_points, k_px, angle_step, x[i], c[i],
                new_rotation, new_shift, priors[m], precision, table, ex, ey,
                evaluation == max_evaluations and not informs, index, sign, taps, new_gradient,
                new_matrix,
            )  # fmt: skip
            if own.shape[0] > 0:
                new_score -= _own_noise(own[m], new_rotation, new_shift, new_gradient)
            _freeze(new_gradient, new_matrix, max_turn, max_move)
            gain = new_score - score
            if 0 < evaluation < max_evaluations:
                _learn_curvature(
                    move, gradient, new_gradient, gain > 0, matrix, new_matrix, residual_curvature
                )
            if gain > 0 or evaluation == 0:
                _copy3(new_rotation, rotation)
                _copy2(new_shift, shift)
                _copy5(new_gradient, gradient)
                _copy5(new_matrix, matrix)
                score, power = new_score, new_power
                if evaluation > 0:
                    damping *= DAMPING_FALLS
                if gain < tolerance:
                    break
            elif damping > MAX_DAMPING:
                break
            else:
                damping *= DAMPING_RISES
            if evaluation == max_evaluations:
                break
            if not _solve(matrix, residual_curvature, gradient, damping, move):
                _clear(residual_curvature)
                if not _solve(matrix, residual_curvature, gradient, damping, move):
                    break
            promised = _promised(gradient, move)
            if promised < PROMISE * tolerance or score + PROSPECT * promised < floor[m]:
                break
            _limit(move, shift, max_turn, max_move, max_shift)
            _turn(rotation, move, new_rotation)
            _move_shift(shift, move, new_shift)
        _copy3(rotation, rotations[m])
        if not informs:
            _clear(matrix)
        _copy5(matrix, information[m])
        _copy2(shift, shifts[m])
        scores[m], powers[m] = score, power
