"""The kernels for CPUs, in numba: the same results as ``reference``, many times faster.

Arrays, not tensors; every image is one task of a parallel loop, and nothing is allocated inside
it. Compiled once and cached on disk.
"""

import math

import numpy as np
from numba import njit, prange

from cryorefine.kernels.grid import HALO, TABLE_SIZE, WIDTH
from cryorefine.kernels.poses import PROMISE

__all__ = [
    "extract_slices",
    "insert_slices",
    "pick_separated",
    "refine_poses",
    "rotate_grid",
]

_HALF = WIDTH // 2
_F = np.float32


@njit(parallel=True, fastmath=True, cache=True, error_model="numpy")
def extract_slices(values, centre, step, rotations, points, table, out):
    """Read slices into ``out`` (n, p); see :func:`cryorefine.kernels.reference.extract_slices`."""
    n_points = points.shape[0]
    for i in prange(rotations.shape[0]):
        r = rotations[i]
        ax, ay, az = _F(step * r[0, 0]), _F(step * r[0, 1]), _F(step * r[0, 2])
        bx, by, bz = _F(step * r[1, 0]), _F(step * r[1, 1]), _F(step * r[1, 2])
        for p in range(n_points):
            kx, ky = points[p, 0], points[p, 1]
            x, y, z = kx * ax + ky * bx, kx * ay + ky * by, kx * az + ky * bz
            sign = _F(1.0)
            if x < 0:
                x, y, z, sign = -x, -y, -z, _F(-1.0)
            x += _F(0.5)
            y += _F(0.5)
            z += _F(0.5)
            x0, y0, z0 = int(math.floor(x)), int(math.floor(y)), int(math.floor(z))
            wx = table[int((x - x0) * TABLE_SIZE)]
            wy = table[int((y - y0) * TABLE_SIZE)]
            wz = table[int((z - z0) * TABLE_SIZE)]
            x0 += HALO - _HALF
            y0 += centre - _HALF
            z0 += centre - _HALF
            re, im = _F(0.0), _F(0.0)
            for dz in range(WIDTH):
                for dy in range(WIDTH):
                    w = wz[dz] * wy[dy]
                    row = values[z0 + dz, y0 + dy]
                    row_re, row_im = _F(0.0), _F(0.0)
                    for dx in range(WIDTH):
                        v = row[x0 + dx]
                        row_re += wx[dx] * v.real
                        row_im += wx[dx] * v.imag
                    re += w * row_re
                    im += w * row_im
            out[i, p] = complex(re, sign * im)


@njit(parallel=True, fastmath=True, cache=True, error_model="numpy")
def insert_slices(grids, weight_grids, centre, step, rotations, points, values, weights, table):
    """Add slices to the private sums of each thread.

    ``grids`` and ``weight_grids`` hold one grid per thread; their sum over the first axis is what
    :func:`cryorefine.kernels.reference.insert_slices` gives. Images are dealt to threads in a
    fixed way, so that the result is the same at each run with the same number of threads.
    """
    n_points = points.shape[0]
    n_images = rotations.shape[0]
    n_threads = grids.shape[0]
    for t in prange(n_threads):
        grid = grids[t]
        weight_grid = weight_grids[t]
        for i in range(t, n_images, n_threads):
            r = rotations[i]
            ax, ay, az = _F(step * r[0, 0]), _F(step * r[0, 1]), _F(step * r[0, 2])
            bx, by, bz = _F(step * r[1, 0]), _F(step * r[1, 1]), _F(step * r[1, 2])
            for p in range(n_points):
                kx, ky = points[p, 0], points[p, 1]
                x, y, z = kx * ax + ky * bx, kx * ay + ky * by, kx * az + ky * bz
                value = values[i, p]
                re, im = value.real, value.imag
                weight = weights[i, p]
                if x < 0:
                    x, y, z, im = -x, -y, -z, -im
                x += _F(0.5)
                y += _F(0.5)
                z += _F(0.5)
                x0, y0, z0 = int(math.floor(x)), int(math.floor(y)), int(math.floor(z))
                wx = table[int((x - x0) * TABLE_SIZE)]
                wy = table[int((y - y0) * TABLE_SIZE)]
                wz = table[int((z - z0) * TABLE_SIZE)]
                x0 += HALO - _HALF
                y0 += centre - _HALF
                z0 += centre - _HALF
                for dz in range(WIDTH):
                    for dy in range(WIDTH):
                        w = wz[dz] * wy[dy]
                        row = grid[z0 + dz, y0 + dy]
                        weight_row = weight_grid[z0 + dz, y0 + dy]
                        for dx in range(WIDTH):
                            k = w * wx[dx]
                            row[x0 + dx] += complex(k * re, k * im)
                            weight_row[x0 + dx] += k * weight


@njit(parallel=True, fastmath=True, cache=True, error_model="numpy")
def rotate_grid(values, weights, centre, rotations, table, out_values, out_weights):
    """Sum a grid over rotations; see :func:`cryorefine.kernels.reference.rotate_grid`."""
    side = 2 * centre + 1
    limit = (centre - _HALF) ** 2
    for row in prange(side * side):
        iz, iy = row // side - centre, row % side - centre
        for ix in range(centre + 1):
            if ix * ix + iy * iy + iz * iz > limit:
                continue
            total_re, total_im, total_w = _F(0.0), _F(0.0), _F(0.0)
            for g in range(rotations.shape[0]):
                r = rotations[g]
                x = r[0, 0] * ix + r[0, 1] * iy + r[0, 2] * iz
                y = r[1, 0] * ix + r[1, 1] * iy + r[1, 2] * iz
                z = r[2, 0] * ix + r[2, 1] * iy + r[2, 2] * iz
                sign = _F(1.0)
                if x < 0:
                    x, y, z, sign = -x, -y, -z, _F(-1.0)
                x += 0.5
                y += 0.5
                z += 0.5
                x0, y0, z0 = int(math.floor(x)), int(math.floor(y)), int(math.floor(z))
                wx = table[int((x - x0) * TABLE_SIZE)]
                wy = table[int((y - y0) * TABLE_SIZE)]
                wz = table[int((z - z0) * TABLE_SIZE)]
                x0 += HALO - _HALF
                y0 += centre - _HALF
                z0 += centre - _HALF
                for dz in range(WIDTH):
                    for dy in range(WIDTH):
                        w = wz[dz] * wy[dy]
                        line = values[z0 + dz, y0 + dy]
                        weight_line = weights[z0 + dz, y0 + dy]
                        for dx in range(WIDTH):
                            k = w * wx[dx]
                            v = line[x0 + dx]
                            total_re += k * v.real
                            total_im += sign * k * v.imag
                            total_w += k * weight_line[x0 + dx]
            out_values[iz + centre, iy + centre, ix] = complex(total_re, total_im)
            out_weights[iz + centre, iy + centre, ix] = total_w


@njit(fastmath=True, cache=True, error_model="numpy")
def _normal_equations(
    values,
    centre,
    step,
    points,
    k_px,
    angle_step,
    x,
    c,
    rotation,
    shift,
    prior,
    precision,
    table,
    slopes,
    ex,
    ey,
    gradient,
    matrix,
):
    """Fill gradient (5) and matrix (5, 5) at one pose; return the log-likelihood.

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
    r = rotation
    ax, ay, az = _F(step * r[0, 0]), _F(step * r[0, 1]), _F(step * r[0, 2])
    bx, by, bz = _F(step * r[1, 0]), _F(step * r[1, 1]), _F(step * r[1, 2])
    cx, cy, cz = _F(step * r[2, 0]), _F(step * r[2, 1]), _F(step * r[2, 2])
    total = np.zeros(22, np.float64)
    n_points = points.shape[0]
    start = 0
    while start < n_points:
        stop = min(start + 256, n_points)
        # Single precision within a block, double between blocks.
        s_xw, s_ww = _F(0), _F(0)
        g_x, g_y, g_z, g_sx, g_sy = _F(0), _F(0), _F(0), _F(0), _F(0)
        h_xx, h_xy, h_yy, h_xz, h_yz, h_zz = _F(0), _F(0), _F(0), _F(0), _F(0), _F(0)
        h_xsx, h_xsy, h_ysx, h_ysy, h_zsx, h_zsy = _F(0), _F(0), _F(0), _F(0), _F(0), _F(0)
        h_sxx, h_sxy, h_syy = _F(0), _F(0), _F(0)
        for p in range(start, stop):
            kx, ky = points[p, 0], points[p, 1]
            gx, gy, gz = kx * ax + ky * bx, kx * ay + ky * by, kx * az + ky * bz
            sign = _F(1.0)
            if gx < 0:
                gx, gy, gz, sign = -gx, -gy, -gz, _F(-1.0)
            gx += _F(0.5)
            gy += _F(0.5)
            gz += _F(0.5)
            x0, y0, z0 = int(math.floor(gx)), int(math.floor(gy)), int(math.floor(gz))
            ix = int((gx - x0) * TABLE_SIZE)
            iy = int((gy - y0) * TABLE_SIZE)
            iz = int((gz - z0) * TABLE_SIZE)
            wx, wy, wz = table[ix], table[iy], table[iz]
            dwx, dwy, dwz = slopes[ix], slopes[iy], slopes[iz]
            x0 += HALO - _HALF
            y0 += centre - _HALF
            z0 += centre - _HALF
            f_re, f_im = _F(0), _F(0)
            dx_re, dx_im, dy_re, dy_im = _F(0), _F(0), _F(0), _F(0)
            dz_re, dz_im = _F(0), _F(0)
            for dz in range(WIDTH):
                plane_re, plane_im = _F(0), _F(0)
                for dy in range(WIDTH):
                    row = values[z0 + dz, y0 + dy]
                    row_re, row_im, slope_re, slope_im = _F(0), _F(0), _F(0), _F(0)
                    for dx in range(WIDTH):
                        value = row[x0 + dx]
                        row_re += wx[dx] * value.real
                        row_im += wx[dx] * value.imag
                        slope_re += dwx[dx] * value.real
                        slope_im += dwx[dx] * value.imag
                    plane_re += wy[dy] * row_re
                    plane_im += wy[dy] * row_im
                    dy_re += wz[dz] * dwy[dy] * row_re
                    dy_im += wz[dz] * dwy[dy] * row_im
                    dx_re += wz[dz] * wy[dy] * slope_re
                    dx_im += wz[dz] * wy[dy] * slope_im
                f_re += wz[dz] * plane_re
                f_im += wz[dz] * plane_im
                dz_re += dwz[dz] * plane_re
                dz_im += dwz[dz] * plane_im
            # At the mirrored point the value is conjugate and the gradient minus conjugate.
            f_im *= sign
            dx_re, dy_re, dz_re = sign * dx_re, sign * dy_re, sign * dz_re
            weight = c[p]
            w_re, w_im = weight * f_re, weight * f_im
            u_re = weight * (cx * dx_re + cy * dy_re + cz * dz_re)
            u_im = weight * (cx * dx_im + cy * dy_im + cz * dz_im)
            v_re = weight * (
                (ky * ax - kx * bx) * dx_re
                + (ky * ay - kx * by) * dy_re
                + (ky * az - kx * bz) * dz_re
            )
            v_im = weight * (
                (ky * ax - kx * bx) * dx_im
                + (ky * ay - kx * by) * dy_im
                + (ky * az - kx * bz) * dz_im
            )
            nx, ny = k_px[p, 0], k_px[p, 1]
            phase = ex[nx + reach] * ey[ny + reach]
            centred = x[p] * phase
            x_re, x_im = _F(centred.real), _F(centred.imag)
            r_re, r_im = x_re - w_re, x_im - w_im
            tx, ty = _F(angle_step * nx), _F(angle_step * ny)
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
        total[0] += s_xw
        total[1] += s_ww
        total[2] += g_x
        total[3] += g_y
        total[4] += g_z
        total[5] += g_sx
        total[6] += g_sy
        total[7] += h_xx
        total[8] += h_xy
        total[9] += h_yy
        total[10] += h_xz
        total[11] += h_yz
        total[12] += h_zz
        total[13] += h_xsx
        total[14] += h_xsy
        total[15] += h_ysx
        total[16] += h_ysy
        total[17] += h_zsx
        total[18] += h_zsy
        total[19] += h_sxx
        total[20] += h_sxy
        total[21] += h_syy
        start = stop
    for a in range(5):
        gradient[a] = 2 * total[2 + a]
    matrix[0, 0], matrix[0, 1], matrix[1, 1] = total[7], total[8], total[9]
    matrix[0, 2], matrix[1, 2], matrix[2, 2] = total[10], total[11], total[12]
    matrix[0, 3], matrix[0, 4], matrix[1, 3], matrix[1, 4] = (
        total[13],
        total[14],
        total[15],
        total[16],
    )
    matrix[2, 3], matrix[2, 4] = total[17], total[18]
    matrix[3, 3], matrix[3, 4], matrix[4, 4] = total[19], total[20], total[21]
    for a in range(5):
        for b in range(a, 5):
            matrix[a, b] *= 2
            matrix[b, a] = matrix[a, b]
    score = 2 * total[0] - total[1]
    for a in range(2):
        offset = shift[a] - prior[a]
        score -= 0.5 * precision * offset * offset
        gradient[3 + a] -= precision * offset
        matrix[3 + a, 3 + a] += precision
    return score


@njit(cache=True, error_model="numpy")
def _solve(matrix, gradient, damping, work, step):
    """Solve (matrix + damping diag) step = gradient by Cholesky; return whether it succeeded."""
    top = 0.0
    for a in range(5):
        top = max(top, matrix[a, a])
    for a in range(5):
        for b in range(a + 1):
            total = matrix[a, b]
            if a == b:
                total += damping * matrix[a, a] + 1e-9 * top
            for j in range(b):
                total -= work[a, j] * work[b, j]
            if a == b:
                if total <= 0:
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


@njit(cache=True, error_model="numpy")
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


@njit(parallel=True, cache=True, error_model="numpy")
def refine_poses(
    values,
    centre,
    step,
    points,
    k_px,
    angle_step,
    x,
    c,
    image_of,
    rotations,
    shifts,
    priors,
    precision,
    max_evaluations,
    max_shift,
    max_turn,
    max_move,
    tolerance,
    initial_damping,
    table,
    slopes,
    scores,
    information,
):
    """Climb from each start, in place; see :func:`cryorefine.kernels.reference.refine_poses`."""
    reach = 0
    for p in range(k_px.shape[0]):
        reach = max(reach, abs(k_px[p, 0]), abs(k_px[p, 1]))
    for m in prange(rotations.shape[0]):
        i = image_of[m]
        ex, ey = np.empty(2 * reach + 1, np.complex64), np.empty(2 * reach + 1, np.complex64)
        gradient, new_gradient = np.empty(5), np.empty(5)
        matrix, new_matrix = np.empty((5, 5)), np.empty((5, 5))
        work, move = np.empty((5, 5)), np.empty(5)
        rotation, new_rotation = rotations[m].copy(), np.empty((3, 3))
        shift, new_shift = shifts[m].copy(), np.empty(2)
        score = _normal_equations(
            values,
            centre,
            step,
            points,
            k_px,
            angle_step,
            x[i],
            c[i],
            rotation,
            shift,
            priors[m],
            precision,
            table,
            slopes,
            ex,
            ey,
            gradient,
            matrix,
        )
        damping = initial_damping
        for _ in range(max_evaluations):
            if not _solve(matrix, gradient, damping, work, move):
                break
            promised = 0.0
            for a in range(5):
                promised += 0.5 * gradient[a] * move[a]
            if promised < PROMISE * tolerance:
                break
            turn = math.sqrt(move[0] ** 2 + move[1] ** 2 + move[2] ** 2)
            if turn > max_turn:
                for a in range(3):
                    move[a] *= max_turn / turn
            for a in range(2):
                new_shift[a] = shift[a] + min(max(move[3 + a], -max_move), max_move)
            length = math.sqrt(new_shift[0] ** 2 + new_shift[1] ** 2)
            if length > max_shift:
                for a in range(2):
                    new_shift[a] *= max_shift / length
            _turn(rotation, move[0], move[1], move[2], new_rotation)
            new_score = _normal_equations(
                values,
                centre,
                step,
                points,
                k_px,
                angle_step,
                x[i],
                c[i],
                new_rotation,
                new_shift,
                priors[m],
                precision,
                table,
                slopes,
                ex,
                ey,
                new_gradient,
                new_matrix,
            )
            gain = new_score - score
            if gain > 0:
                rotation, new_rotation = new_rotation, rotation
                shift, new_shift = new_shift, shift
                gradient, new_gradient = new_gradient, gradient
                matrix, new_matrix = new_matrix, matrix
                score = new_score
                damping *= 0.2
                if gain < tolerance:
                    break
            else:
                if damping > 1e3:
                    break
                damping *= 8
        rotations[m] = rotation
        shifts[m] = shift
        scores[m] = score
        information[m] = matrix


@njit(parallel=True, cache=True, error_model="numpy")
def pick_separated(index, score, rotations, symmetry, cos_apart, keep, window):
    """Walk down each image's ranked candidates and keep those apart from all kept before.

    Parameters
    ----------
    index, score
        (b, n) candidate rotations, best first, and their log-likelihoods.
    symmetry
        (g, 3, 3) rotations of the object that leave images unchanged.
    cos_apart
        Cosine of the least angle between two kept rotations.

    Returns
    -------
    index, score
        (b, keep), -1 and -inf where fewer were kept.
    """
    b, n = index.shape
    chosen = np.full((b, keep), -1, np.int64)
    chosen_score = np.full((b, keep), -np.inf, np.float32)
    for i in prange(b):
        count = 0
        for j in range(n):
            if count == keep or score[i, j] < score[i, 0] - window:
                break
            candidate = rotations[index[i, j]]
            is_apart = True
            for m in range(count):
                other = rotations[chosen[i, m]]
                # trace(candidate @ g @ other.T) is the sum of g * (candidate.T @ other).
                for g in range(symmetry.shape[0]):
                    trace = 0.0
                    for a in range(3):
                        for d in range(3):
                            u = 0.0
                            for e in range(3):
                                u += candidate[e, a] * other[e, d]
                            trace += symmetry[g, a, d] * u
                    if 0.5 * (trace - 1) > cos_apart:
                        is_apart = False
                        break
                if not is_apart:
                    break
            if is_apart:
                chosen[i, count] = index[i, j]
                chosen_score[i, count] = score[i, j]
                count += 1
    return chosen, chosen_score
