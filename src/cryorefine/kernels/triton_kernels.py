"""The inner loops for GPUs, in Triton; :mod:`cryorefine.kernels.gpu` calls them with tensors.

Triton has no complex numbers: complex arrays arrive as pairs of floats, real part first. The
arithmetic is that of ``cpu``: single precision, the same table of kernel weights.
"""

# pyright: reportGeneralTypeIssues=false
# (static_range is declared as what it is outside a kernel: nothing that can be iterated over)

import triton
import triton.language as tl

from cryorefine.kernels import grid

__all__ = [
    "N_SUMS",
    "extract_slices",
    "insert_slices",
    "normal_equations",
    "permute_grid",
    "rotate_grid",
]

N_SUMS = 22
"""Sums that :func:`normal_equations` writes: Re(x* w), |w|², gradient (5), upper triangle (15)."""

_WIDTH = tl.constexpr(grid.WIDTH)
_HALF = tl.constexpr(grid.WIDTH // 2)
"""Samples of the kernel on each side of the nearest grid point."""

_HALO = tl.constexpr(grid.HALO)
_TABLE_SIZE = tl.constexpr(grid.TABLE_SIZE)
_OUTSIDE = tl.constexpr(grid.OUTSIDE)
_N_SUMS = tl.constexpr(N_SUMS)
_TWO_PI = tl.constexpr(6.283185307179586)
"""2π: Triton's compiler takes constants of its own only."""


@triton.jit
def _row(rotation, a, scale):
    """Return a matrix's row times a scale."""
    at = rotation + 3 * a
    return scale * tl.load(at), scale * tl.load(at + 1), scale * tl.load(at + 2)


@triton.jit
def _place(x, y, z, centre, side, length):
    """Find the kernel's support about a sample of the half grid.

    Returns the index of its first point, the rows of the table for x, y and z, and the sign that
    brought the sample to x ≥ 0. Samples that are not in the grid are at its first point, with the
    weights of ``grid.OUTSIDE``.
    """
    sign = tl.where(x < 0, -1.0, 1.0)
    x, y, z = x * sign + 0.5, y * sign + 0.5, z * sign + 0.5
    x0, y0, z0 = tl.floor(x), tl.floor(y), tl.floor(z)
    last = (centre - _HALF).to(tl.float32)
    is_in = (tl.abs(x0) <= last) & (tl.abs(y0) <= last) & (tl.abs(z0) <= last)
    is_in = is_in & (x0 + y0 + z0 < 3 * last)
    x, y, z = tl.where(is_in, x, 0.0), tl.where(is_in, y, 0.0), tl.where(is_in, z, 0.0)
    x0, y0, z0 = tl.where(is_in, x0, 0.0), tl.where(is_in, y0, 0.0), tl.where(is_in, z0, 0.0)
    tx = tl.where(is_in, ((x - x0) * _TABLE_SIZE).to(tl.int32), _OUTSIDE) * _WIDTH
    ty = tl.where(is_in, ((y - y0) * _TABLE_SIZE).to(tl.int32), _OUTSIDE) * _WIDTH
    tz = tl.where(is_in, ((z - z0) * _TABLE_SIZE).to(tl.int32), _OUTSIDE) * _WIDTH
    line = (z0.to(tl.int32) + centre - _HALF) * side + (y0.to(tl.int32) + centre - _HALF)
    # Grids of large boxes have more than 2³¹ numbers.
    first = line.to(tl.int64) * length + (x0.to(tl.int32) + _HALO - _HALF)
    first = tl.where(is_in, first, 0)
    return first, tx, ty, tz, sign


@triton.jit
def _place_on_slice(rotation, step, points, p, live, centre, side, length):
    """Find the support of samples of an image turned by a matrix; see ``_place``."""
    kx = tl.load(points + 2 * p, mask=live, other=0.0)
    ky = tl.load(points + 2 * p + 1, mask=live, other=0.0)
    ax, ay, az = _row(rotation, 0, step)
    bx, by, bz = _row(rotation, 1, step)
    return _place(kx * ax + ky * bx, kx * ay + ky * by, kx * az + ky * bz, centre, side, length)


@triton.jit
def extract_slices(
    values, centre, side, length, step, rotations, points, table, out, n_points,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """Read slices into ``out`` (n, p, 2); grid: images × blocks of points."""
    i = tl.program_id(0).to(tl.int64)
    p = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    live = p < n_points
    first, tx, ty, tz, sign = _place_on_slice(
        rotations + 9 * i, step, points, p, live, centre, side, length
    )
    re, im = tl.zeros((BLOCK,), tl.float32), tl.zeros((BLOCK,), tl.float32)
    for dz in tl.static_range(_WIDTH):
        wz = tl.load(table + tz + dz)
        for dy in tl.static_range(_WIDTH):
            w = wz * tl.load(table + ty + dy)
            for dx in tl.static_range(_WIDTH):
                k = w * tl.load(table + tx + dx)
                at = values + 2 * (first + (dz * side + dy) * length + dx)
                re += k * tl.load(at)
                im += k * tl.load(at + 1)
    to = out + 2 * (i * n_points + p)
    tl.store(to, re, mask=live)
    tl.store(to + 1, sign * im, mask=live)


@triton.jit
def insert_slices(
    grid_values, grid_weights, centre, side, length, step, rotations, points, values, weights,
    table, n_points,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """Add slices (n, p, 2) and weights (n, p) to the grids; grid: images × blocks of points."""
    i = tl.program_id(0).to(tl.int64)
    p = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    live = p < n_points
    source = i * n_points + p
    weight = tl.load(weights + source, mask=live, other=0.0)
    re = tl.load(values + 2 * source, mask=live, other=0.0)
    im = tl.load(values + 2 * source + 1, mask=live, other=0.0)
    first, tx, ty, tz, sign = _place_on_slice(
        rotations + 9 * i, step, points, p, live, centre, side, length
    )
    im *= sign
    for dz in tl.static_range(_WIDTH):
        wz = tl.load(table + tz + dz)
        for dy in tl.static_range(_WIDTH):
            w = wz * tl.load(table + ty + dy)
            for dx in tl.static_range(_WIDTH):
                k = w * tl.load(table + tx + dx)
                at = first + (dz * side + dy) * length + dx
                tl.atomic_add(grid_values + 2 * at, k * re, mask=live, sem="relaxed")
                tl.atomic_add(grid_values + 2 * at + 1, k * im, mask=live, sem="relaxed")
                tl.atomic_add(grid_weights + at, k * weight, mask=live, sem="relaxed")


@triton.jit
def rotate_grid(
    values, weights, centre, side, length, rotations, n_rotations, table, out_values, out_weights,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """Sum a grid over rotations into grids without halo; grid: blocks of points."""
    to = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    line, ix = to // (centre + 1), to % (centre + 1)
    iz, iy = line // side - centre, line % side - centre
    reach = centre - _HALF
    live = (iz <= centre) & (ix * ix + iy * iy + iz * iz <= reach * reach)
    # Beyond the sphere nothing is stored: those lanes read at the origin.
    x = tl.where(live, ix, 0).to(tl.float32)
    y = tl.where(live, iy, 0).to(tl.float32)
    z = tl.where(live, iz, 0).to(tl.float32)
    re, im = tl.zeros((BLOCK,), tl.float32), tl.zeros((BLOCK,), tl.float32)
    total = tl.zeros((BLOCK,), tl.float32)
    for g in range(n_rotations):
        ax, ay, az = _row(rotations + 9 * g, 0, 1.0)
        bx, by, bz = _row(rotations + 9 * g, 1, 1.0)
        cx, cy, cz = _row(rotations + 9 * g, 2, 1.0)
        first, tx, ty, tz, sign = _place(
            ax * x + ay * y + az * z,
            bx * x + by * y + bz * z,
            cx * x + cy * y + cz * z,
            centre, side, length,
        )  # fmt: skip
        for dz in tl.static_range(_WIDTH):
            wz = tl.load(table + tz + dz)
            for dy in tl.static_range(_WIDTH):
                w = wz * tl.load(table + ty + dy)
                for dx in tl.static_range(_WIDTH):
                    k = w * tl.load(table + tx + dx)
                    at = first + (dz * side + dy) * length + dx
                    re += k * tl.load(values + 2 * at)
                    im += sign * k * tl.load(values + 2 * at + 1)
                    total += k * tl.load(weights + at)
    tl.store(out_values + 2 * to, re, mask=live)
    tl.store(out_values + 2 * to + 1, im, mask=live)
    tl.store(out_weights + to, total, mask=live)


@triton.jit
def permute_grid(
    values, weights, centre, side, rotations, n_rotations, out_values, out_weights,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """Sum a half grid over signed permutations of its axes (int32); grid: blocks of points."""
    to = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    length = centre + 1
    line, x = to // length, to % length
    z, y = line // side - centre, line % side - centre
    live = (z <= centre) & (x * x + y * y + z * z <= centre * centre)
    re, im = tl.zeros((BLOCK,), tl.float32), tl.zeros((BLOCK,), tl.float32)
    total = tl.zeros((BLOCK,), tl.float32)
    for g in range(n_rotations):
        ax, ay, az = _row(rotations + 9 * g, 0, 1)
        bx, by, bz = _row(rotations + 9 * g, 1, 1)
        cx, cy, cz = _row(rotations + 9 * g, 2, 1)
        px = ax * x + ay * y + az * z
        sign = tl.where(px < 0, -1, 1)
        py = sign * (bx * x + by * y + bz * z)
        pz = sign * (cx * x + cy * y + cz * z)
        at = ((pz + centre) * side + py + centre) * length + sign * px
        re += tl.load(values + 2 * at, mask=live, other=0.0)
        im += sign * tl.load(values + 2 * at + 1, mask=live, other=0.0)
        total += tl.load(weights + at, mask=live, other=0.0)
    tl.store(out_values + 2 * to, re, mask=live)
    tl.store(out_values + 2 * to + 1, im, mask=live)
    tl.store(out_weights + to, total, mask=live)


@triton.jit
def normal_equations(
    values, centre, side, length, step, points, k_px, inverse_size, x, c, image_of, rotations,
    shifts, table, slopes, out, n_points,
    BLOCK: tl.constexpr,
    CHUNK: tl.constexpr,
):  # fmt: skip
    """Write the sums of likelihood, gradient and matrix over a chunk of points: (m, chunks, 22).

    The algebra is that of ``reference``: u is the derivative of the slice out of its plane, v
    that in its plane, w the slice itself, each times the contrast transfer; all sums lack their
    factor 2. Grid: starts × chunks.
    """
    m = tl.program_id(0).to(tl.int64)
    chunk = tl.program_id(1)
    image = tl.load(image_of + m) * n_points
    shift_x = tl.load(shifts + 2 * m) * inverse_size
    shift_y = tl.load(shifts + 2 * m + 1) * inverse_size
    ax, ay, az = _row(rotations + 9 * m, 0, step)
    bx, by, bz = _row(rotations + 9 * m, 1, step)
    cx, cy, cz = _row(rotations + 9 * m, 2, step)
    zero = tl.zeros((BLOCK,), tl.float32)
    s_xw, s_ww = zero, zero
    g_x, g_y, g_z, g_sx, g_sy = zero, zero, zero, zero, zero
    h_xx, h_xy, h_yy, h_xz, h_yz, h_zz = zero, zero, zero, zero, zero, zero
    h_xsx, h_xsy, h_ysx, h_ysy, h_zsx, h_zsy = zero, zero, zero, zero, zero, zero
    h_sxx, h_sxy, h_syy = zero, zero, zero
    end = tl.minimum((chunk + 1) * CHUNK, n_points)
    for start in range(chunk * CHUNK, end, BLOCK):
        p = start + tl.arange(0, BLOCK)
        live = p < n_points
        kx = tl.load(points + 2 * p, mask=live, other=0.0)
        ky = tl.load(points + 2 * p + 1, mask=live, other=0.0)
        first, tx, ty, tz, sign = _place(
            kx * ax + ky * bx, kx * ay + ky * by, kx * az + ky * bz, centre, side, length
        )
        f_re, f_im = zero, zero
        x_re, x_im, y_re, y_im, z_re, z_im = zero, zero, zero, zero, zero, zero
        for dz in tl.static_range(_WIDTH):
            wz, dwz = tl.load(table + tz + dz), tl.load(slopes + tz + dz)
            for dy in tl.static_range(_WIDTH):
                wy, dwy = tl.load(table + ty + dy), tl.load(slopes + ty + dy)
                row_re, row_im, slope_re, slope_im = zero, zero, zero, zero
                for dx in tl.static_range(_WIDTH):
                    wx, dwx = tl.load(table + tx + dx), tl.load(slopes + tx + dx)
                    at = values + 2 * (first + (dz * side + dy) * length + dx)
                    re, im = tl.load(at), tl.load(at + 1)
                    row_re += wx * re
                    row_im += wx * im
                    slope_re += dwx * re
                    slope_im += dwx * im
                f_re += wz * wy * row_re
                f_im += wz * wy * row_im
                x_re += wz * wy * slope_re
                x_im += wz * wy * slope_im
                y_re += wz * dwy * row_re
                y_im += wz * dwy * row_im
                z_re += dwz * wy * row_re
                z_im += dwz * wy * row_im
        # At the mirrored point the value is conjugate and the gradient minus conjugate. Lanes
        # beyond the last point have no contrast and no image: they add nothing.
        weight = tl.load(c + image + p, mask=live, other=0.0)
        w_re, w_im = weight * f_re, weight * sign * f_im
        u_re = weight * sign * (cx * x_re + cy * y_re + cz * z_re)
        u_im = weight * (cx * x_im + cy * y_im + cz * z_im)
        vx, vy, vz = ky * ax - kx * bx, ky * ay - kx * by, ky * az - kx * bz
        v_re = weight * sign * (vx * x_re + vy * y_re + vz * z_re)
        v_im = weight * (vx * x_im + vy * y_im + vz * z_im)
        nx = tl.load(k_px + 2 * p, mask=live, other=0).to(tl.float32)
        ny = tl.load(k_px + 2 * p + 1, mask=live, other=0).to(tl.float32)
        # Sine and cosine are most exact within half a turn.
        turns = nx * shift_x + ny * shift_y
        angle = _TWO_PI * (turns - tl.floor(turns + 0.5))
        cosine, sine = tl.cos(angle), tl.sin(angle)
        re = tl.load(x + 2 * (image + p), mask=live, other=0.0)
        im = tl.load(x + 2 * (image + p) + 1, mask=live, other=0.0)
        centred_re, centred_im = re * cosine + im * sine, im * cosine - re * sine
        r_re, r_im = centred_re - w_re, centred_im - w_im
        qx, qy = _TWO_PI * inverse_size * nx, _TWO_PI * inverse_size * ny
        ww = w_re * w_re + w_im * w_im
        ur = u_re * r_re + u_im * r_im
        wr = w_re * r_im - w_im * r_re
        uu = u_re * u_re + u_im * u_im
        uv = u_re * v_re + u_im * v_im
        uw = u_re * w_im - u_im * w_re
        vw = v_re * w_im - v_im * w_re
        s_xw += centred_re * w_re + centred_im * w_im
        s_ww += ww
        g_x -= ky * ur
        g_y += kx * ur
        g_z += v_re * r_re + v_im * r_im
        g_sx += qx * wr
        g_sy += qy * wr
        h_xx += ky * ky * uu
        h_xy -= kx * ky * uu
        h_xz -= ky * uv
        h_xsx += ky * qx * uw
        h_xsy += ky * qy * uw
        h_yy += kx * kx * uu
        h_yz += kx * uv
        h_ysx -= kx * qx * uw
        h_ysy -= kx * qy * uw
        h_zz += v_re * v_re + v_im * v_im
        h_zsx -= qx * vw
        h_zsy -= qy * vw
        h_sxx += qx * qx * ww
        h_sxy += qx * qy * ww
        h_syy += qy * qy * ww
    to = out + (m * tl.num_programs(1) + chunk) * _N_SUMS
    tl.store(to, tl.sum(s_xw, 0))
    tl.store(to + 1, tl.sum(s_ww, 0))
    tl.store(to + 2, tl.sum(g_x, 0))
    tl.store(to + 3, tl.sum(g_y, 0))
    tl.store(to + 4, tl.sum(g_z, 0))
    tl.store(to + 5, tl.sum(g_sx, 0))
    tl.store(to + 6, tl.sum(g_sy, 0))
    tl.store(to + 7, tl.sum(h_xx, 0))
    tl.store(to + 8, tl.sum(h_xy, 0))
    tl.store(to + 9, tl.sum(h_xz, 0))
    tl.store(to + 10, tl.sum(h_xsx, 0))
    tl.store(to + 11, tl.sum(h_xsy, 0))
    tl.store(to + 12, tl.sum(h_yy, 0))
    tl.store(to + 13, tl.sum(h_yz, 0))
    tl.store(to + 14, tl.sum(h_ysx, 0))
    tl.store(to + 15, tl.sum(h_ysy, 0))
    tl.store(to + 16, tl.sum(h_zz, 0))
    tl.store(to + 17, tl.sum(h_zsx, 0))
    tl.store(to + 18, tl.sum(h_zsy, 0))
    tl.store(to + 19, tl.sum(h_sxx, 0))
    tl.store(to + 20, tl.sum(h_sxy, 0))
    tl.store(to + 21, tl.sum(h_syy, 0))
