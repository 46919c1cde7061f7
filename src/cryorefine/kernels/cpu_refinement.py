"""Refining poses on CPUs: the twin of ``reference.refine_poses``."""

import math

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

__all__ = ["refine_poses"]

_F = np.float32

_taps = on_stack((10, BLOCK), types.float32)
_sums = on_stack((22,), types.float64)
_vector2 = on_stack((2,), types.float64)
_vector3 = on_stack((3,), types.float64)
_vector5 = on_stack((5,), types.float64)
_matrix3 = on_stack((3, 3), types.float64)
_matrix5 = on_stack((5, 5), types.float64)


@compiled(fastmath=True, inner=True)
def _read_block(
    values, points, k_px, rows, origin, centre, leaves, table, x, ex, ey, only_score, index, sign,
    taps,
):  # fmt: skip
    """Fill ``taps`` (10, BLOCK): slice and its x, y, z derivatives, and the centred image.

    Real before imaginary parts; without the derivatives where only the score is wanted. At a
    mirrored point the value is conjugate and the gradient minus conjugate; the caller knows by
    ``sign``.
    """
    reach = (ex.shape[0] - 1) // 2
    length = values.shape[2]
    plane = length * values.shape[1]
    count = points.shape[0]
    locate(points, count, rows[0], rows[1], origin, centre, values.shape[1], index, sign)
    if leaves:
        mark_outside(points, count, rows[0], rows[1], centre, values.shape[1], index)
    for q in range(count):
        at = np.int64(index[0, q]) * length + index[1, q]
        ix, iy, iz = index[2, q], index[3, q], index[4, q]
        if only_score:
            taps[0, q], taps[1, q] = read_taps(values, at, length, plane, table, ix, iy, iz)
        else:
            read = read_taps_with_gradient(values, at, length, plane, table, ix, iy, iz)
            for j in range(8):
                taps[j, q] = read[j]
        # By parts: numba takes half a second to compile what a product of complex numbers is.
        along_x, along_y = ex[k_px[q, 0] + reach], ey[k_px[q, 1] + reach]
        re = along_x.real * along_y.real - along_x.imag * along_y.imag
        im = along_x.real * along_y.imag + along_x.imag * along_y.real
        taps[8, q] = x[q].real * re - x[q].imag * im
        taps[9, q] = x[q].real * im + x[q].imag * re


@compiled(fastmath=True, inner=True)
def _normal_equations(
    values, centre, step, points, reach_of_points, k_px, angle_step, x, c, rotation, shift, prior,
    precision, table, ex, ey, only_score, index, sign, taps, gradient, matrix,
):  # fmt: skip
    """Fill gradient (5) and matrix (5, 5) at one pose; return log-likelihood and model power.

    Where only the score is wanted, gradient and matrix are of no meaning.

    The algebra is that of ``reference._normal_equations``, with the sums over frequencies taken
    in one pass: u is the derivative of the slice out of its plane, v that in its plane, w the
    slice itself, each times the contrast transfer.
    """
    reach = (ex.shape[0] - 1) // 2
    for j in range(ex.shape[0]):
        k = j - reach
        ax, ay = angle_step * k * shift[0], angle_step * k * shift[1]
        ex[j] = complex(math.cos(ax), -math.sin(ax))
        ey[j] = complex(math.cos(ay), -math.sin(ay))
    rows, origin, total = three_rows(), three_floats(), _sums()
    for a in range(3):
        origin[a] = 0
    for j in range(22):
        total[j] = 0
    scaled_rows(rotation, step, rows)
    leaves = may_leave(rows, reach_of_points, centre)
    ax, ay, az = rows[0, 0], rows[0, 1], rows[0, 2]
    bx, by, bz = rows[1, 0], rows[1, 1], rows[1, 2]
    cx, cy, cz = rows[2, 0], rows[2, 1], rows[2, 2]
    n_points = points.shape[0]
    for start in range(0, n_points, BLOCK):
        count = min(BLOCK, n_points - start)
        stop = start + count
        _read_block(
            values, points[start:stop], k_px[start:stop], rows, origin, centre, leaves, table,
            x[start:stop], ex, ey, only_score, index, sign, taps,
        )  # fmt: skip
        # Single precision within a block, double between blocks; shifts in units of a turn per box.
        s_xw, s_ww = _F(0), _F(0)
        g_x, g_y, g_z, g_sx, g_sy = _F(0), _F(0), _F(0), _F(0), _F(0)
        h_xx, h_xy, h_yy, h_xz, h_yz, h_zz = _F(0), _F(0), _F(0), _F(0), _F(0), _F(0)
        h_xsx, h_xsy, h_ysx, h_ysy, h_zsx, h_zsy = _F(0), _F(0), _F(0), _F(0), _F(0), _F(0)
        h_sxx, h_sxy, h_syy = _F(0), _F(0), _F(0)
        if only_score:
            for q in range(count):
                w_re, w_im = c[start + q] * taps[0, q], c[start + q] * sign[q] * taps[1, q]
                s_xw += taps[8, q] * w_re + taps[9, q] * w_im
                s_ww += w_re * w_re + w_im * w_im
            total[0] += s_xw
            total[1] += s_ww
            continue
        for q in range(count):
            kx, ky = points[start + q, 0], points[start + q, 1]
            tx, ty = _F(k_px[start + q, 0]), _F(k_px[start + q, 1])
            weight = c[start + q]
            mirrored = weight * sign[q]
            w_re, w_im = weight * taps[0, q], mirrored * taps[1, q]
            dx_re, dy_re, dz_re = taps[2, q], taps[4, q], taps[6, q]
            dx_im, dy_im, dz_im = taps[3, q], taps[5, q], taps[7, q]
            u_re = mirrored * (cx * dx_re + cy * dy_re + cz * dz_re)
            u_im = weight * (cx * dx_im + cy * dy_im + cz * dz_im)
            ex_, ey_, ez_ = ky * ax - kx * bx, ky * ay - kx * by, ky * az - kx * bz
            v_re = mirrored * (ex_ * dx_re + ey_ * dy_re + ez_ * dz_re)
            v_im = weight * (ex_ * dx_im + ey_ * dy_im + ez_ * dz_im)
            x_re, x_im = taps[8, q], taps[9, q]
            r_re, r_im = x_re - w_re, x_im - w_im
            s_xw += x_re * w_re + x_im * w_im
            ww = w_re * w_re + w_im * w_im
            s_ww += ww
            ur = u_re * r_re + u_im * r_im
            g_x -= ky * ur
            g_y += kx * ur
            g_z += v_re * r_re + v_im * r_im
            wr = w_re * r_im - w_im * r_re
            g_sx += tx * wr
            g_sy += ty * wr
            uu = u_re * u_re + u_im * u_im
            h_xx += ky * ky * uu
            h_xy -= kx * ky * uu
            h_yy += kx * kx * uu
            uv = u_re * v_re + u_im * v_im
            h_xz -= ky * uv
            h_yz += kx * uv
            h_zz += v_re * v_re + v_im * v_im
            uw = u_re * w_im - u_im * w_re
            h_xsx += ky * tx * uw
            h_xsy += ky * ty * uw
            h_ysx -= kx * tx * uw
            h_ysy -= kx * ty * uw
            vw = v_re * w_im - v_im * w_re
            h_zsx -= tx * vw
            h_zsy -= ty * vw
            h_sxx += tx * tx * ww
            h_sxy += tx * ty * ww
            h_syy += ty * ty * ww
        sums = (
            s_xw, s_ww, g_x, g_y, g_z, g_sx, g_sy, h_xx, h_xy, h_xz, h_xsx, h_xsy,
            h_yy, h_yz, h_ysx, h_ysy, h_zz, h_zsx, h_zsy, h_sxx, h_sxy, h_syy,
        )  # fmt: skip
        for j in range(22):
            total[j] += sums[j]
    score, j = 2 * total[0] - total[1], 7
    for a in range(5):
        unit = angle_step if a > 2 else 1.0
        gradient[a] = 2 * unit * total[2 + a]
        for b in range(a, 5):
            value = 2 * unit * (angle_step if b > 2 else 1.0) * total[j]
            matrix[a, b], matrix[b, a] = value, value
            j += 1
    for a in range(2):
        offset = shift[a] - prior[a]
        score -= 0.5 * precision * offset * offset
        gradient[3 + a] -= precision * offset
        matrix[3 + a, 3 + a] += precision
    return score, total[1]


@compiled(inner=True)
def _own_noise(own, rotation, shift, gradient):
    """Take an image's own noise out of a pose's gradient; return what it adds to the score.

    ``own`` is a row of ``OwnNoiseInReference.packed``; the algebra is that of
    ``reference.own_noise_gain``.
    """
    turn = _matrix3()
    for a in range(3):
        for b in range(3):
            total = 0.0
            for j in range(3):
                total += rotation[a, j] * own[3 * b + j]
            turn[a, b] = total
    trace = turn[0, 0] + turn[1, 1] + turn[2, 2]
    if trace <= 1.0:
        return 0.0
    x = 0.5 * (turn[2, 1] - turn[1, 2])
    y = 0.5 * (turn[0, 2] - turn[2, 0])
    z = 0.5 * (turn[1, 0] - turn[0, 1])
    weighted = _vector3()
    for a in range(3):
        weighted[a] = own[13 + 3 * a] * x + own[14 + 3 * a] * y + own[15 + 3 * a] * z
    dx, dy = shift[0] - own[9], shift[1] - own[10]
    distance2 = weighted[0] * x + weighted[1] * y + weighted[2] * z + own[12] * (dx * dx + dy * dy)
    base = 1 + 0.5 * distance2
    gained = own[11] / (base * base)
    slope = gained / base
    for a in range(3):
        change = trace * weighted[a]
        for b in range(3):
            change -= turn[b, a] * weighted[b]
        gradient[a] += slope * change
    gradient[3] += 2 * slope * own[12] * dx
    gradient[4] += 2 * slope * own[12] * dy
    return gained


@compiled(inner=True)
def _solve(matrix, residual_curvature, gradient, damping, work, step):
    """Solve (matrix + damping diag + residual curvature) step = gradient by Cholesky.

    Returns whether it succeeded.
    """
    top = 0.0
    for a in range(5):
        top = max(top, matrix[a, a])
    for a in range(5):
        for b in range(a + 1):
            total = matrix[a, b] + residual_curvature[a, b]
            if a == b:
                total += damping * matrix[a, a] + RIDGE * top
            for j in range(b):
                total -= work[a, j] * work[b, j]
            if a == b:
                if not total > 0:
                    return False
                work[a, a] = math.sqrt(total)
            else:
                work[a, b] = total / work[b, b]
    for a in range(5):
        total = gradient[a]
        for j in range(a):
            total -= work[a, j] * step[j]
        step[a] = total / work[a, a]
    for a in range(4, -1, -1):
        total = step[a]
        for j in range(a + 1, 5):
            total -= work[j, a] * step[j]
        step[a] = total / work[a, a]
    return True


@compiled(inner=True)
def _learn_curvature(step, gradient, new_gradient, matrix, residual_curvature):
    """Add to the curvature beside the Gauss-Newton matrix what a step has shown of it.

    See ``reference.learned_curvature``.
    """
    along, missing = _vector5(), _vector5()
    length2, shortfall = 0.0, 0.0
    for a in range(5):
        along[a], missing[a] = 0.0, gradient[a] - new_gradient[a]
        for b in range(5):
            along[a] += matrix[a, b] * step[b]
            missing[a] -= residual_curvature[a, b] * step[b]
        missing[a] -= along[a]
        length2 += along[a] * step[a]
        shortfall += missing[a] * step[a]
    if not length2 > 0:
        return
    for a in range(5):
        along[a] /= length2
    for a in range(5):
        for b in range(5):
            residual_curvature[a, b] += (
                missing[a] * along[b] + along[a] * missing[b] - shortfall * along[a] * along[b]
            )


@compiled(inner=True)
def _clear(matrix):
    for a in range(matrix.shape[0]):
        for b in range(matrix.shape[1]):
            matrix[a, b] = 0.0


@compiled(inner=True)
def _turn(rotation, x, y, z, out):
    """Write exp([x, y, z]) @ rotation into ``out``."""
    angle2 = x * x + y * y + z * z
    if angle2 < 1e-16:
        a, b = 1.0 - angle2 / 6, 0.5
    else:
        angle = math.sqrt(angle2)
        a, b = math.sin(angle) / angle, (1 - math.cos(angle)) / angle2
    m00, m11, m22 = 1 - b * (y * y + z * z), 1 - b * (x * x + z * z), 1 - b * (x * x + y * y)
    m01, m10 = b * x * y - a * z, b * x * y + a * z
    m02, m20 = b * x * z + a * y, b * x * z - a * y
    m12, m21 = b * y * z - a * x, b * y * z + a * x
    for j in range(3):
        r0, r1, r2 = rotation[0, j], rotation[1, j], rotation[2, j]
        out[0, j] = m00 * r0 + m01 * r1 + m02 * r2
        out[1, j] = m10 * r0 + m11 * r1 + m12 * r2
        out[2, j] = m20 * r0 + m21 * r1 + m22 * r2


@compiled(inner=True)
def _copy(matrix, out):
    # A loop: numba takes seconds to compile what an assignment of arrays might raise.
    for a in range(matrix.shape[0]):
        for b in range(matrix.shape[1]):
            out[a, b] = matrix[a, b]


@compiled(inner=True)
def _limit(move, shift, max_turn, max_move, max_shift):
    """Shorten a step's turn, its moves, and what would take the shift beyond its limit."""
    turn = math.sqrt(move[0] * move[0] + move[1] * move[1] + move[2] * move[2])
    if turn > max_turn:
        for a in range(3):
            move[a] *= max_turn / turn
    for a in range(2):
        move[3 + a] = shift[a] + min(max(move[3 + a], -max_move), max_move)
    length = math.sqrt(move[3] * move[3] + move[4] * move[4])
    for a in range(2):
        if length > max_shift:
            move[3 + a] *= max_shift / length
        move[3 + a] -= shift[a]


@compiled(inner=True)
def _freeze(gradient, matrix, max_turn, max_move):
    """Take out of the equations what may not change: the turn, or the shift."""
    for a in range(3):
        if max_turn == 0.0:
            gradient[a] = 0.0
        for b in range(3, 5):
            if max_turn == 0.0 or max_move == 0.0:
                matrix[a, b] = matrix[b, a] = 0.0
            if max_move == 0.0:
                gradient[b] = 0.0


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
    work, move, residual_curvature = _matrix5(), _vector5(), _matrix5()
    rotation, new_rotation = _matrix3(), _matrix3()
    shift, new_shift = _vector2(), _vector2()
    for m in range(begin, end):
        i = image_of[m]
        _copy(rotations[m], new_rotation)
        for a in range(2):
            new_shift[a] = shifts[m, a]
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
                best_matrix = new_matrix if gain > 0 else matrix
                _learn_curvature(move, gradient, new_gradient, best_matrix, residual_curvature)
            if gain > 0 or evaluation == 0:
                rotation, new_rotation = new_rotation, rotation
                shift, new_shift = new_shift, shift
                gradient, new_gradient = new_gradient, gradient
                matrix, new_matrix = new_matrix, matrix
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
            if not _solve(matrix, residual_curvature, gradient, damping, work, move):
                _clear(residual_curvature)
                if not _solve(matrix, residual_curvature, gradient, damping, work, move):
                    break
            promised = 0.0
            for a in range(5):
                promised += 0.5 * gradient[a] * move[a]
            if promised < PROMISE * tolerance or score + PROSPECT * promised < floor[m]:
                break
            _limit(move, shift, max_turn, max_move, max_shift)
            _turn(rotation, move[0], move[1], move[2], new_rotation)
            for a in range(2):
                new_shift[a] = shift[a] + move[3 + a]
        _copy(rotation, rotations[m])
        if not informs:
            _clear(matrix)
        _copy(matrix, information[m])
        for a in range(2):
            shifts[m, a] = shift[a]
        scores[m], powers[m] = score, power
