"""What the kernels compute, in plain torch: slow, obvious, differentiable where it can be."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from jaxtyping import Complex, Float, Int
from torch import Tensor

from cryorefine.geometry.rotation import matrix_from_rotvec
from cryorefine.kernels.grid import (
    HALO,
    OUTSIDE,
    TABLE_SIZE,
    WIDTH,
    Accumulator,
    SliceGrid,
    add_halo,
    open_table,
)
from cryorefine.kernels.poses import (
    DAMPING_FALLS,
    DAMPING_RISES,
    MAX_DAMPING,
    PROMISE,
    PROSPECT,
    RIDGE,
    LevenbergMarquardt,
    OwnNoiseInReference,
    PoseProblem,
    PoseResult,
    freeze,
)

__all__ = [
    "extract_slices",
    "extract_slices_with_gradient",
    "insert_slices",
    "learned_curvature",
    "own_noise_gain",
    "permute_grid",
    "pick_separated",
    "refine",
    "refine_poses",
    "rotate_grid",
]

NormalEquations = Callable[[PoseProblem], tuple[Tensor, Tensor, Tensor, Tensor]]


def _positions(step: float, rotations: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
    """Return grid coordinates (n, p, 3) as x, y, z with x ≥ 0, and the sign that put them there."""
    k = torch.einsum("pa,nax->npx", points.double(), rotations[:, :2].double()) * step
    sign = torch.where(k[..., 0] < 0, -1.0, 1.0).to(k)
    return k * sign[..., None], sign


def _weights(position: Tensor, step: float, centre: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return nearest grid points (…, 3), weights and slopes (…, 3, WIDTH).

    Samples that are not in the grid have the weights of :data:`~cryorefine.kernels.grid.OUTSIDE`,
    at the grid's first points.
    """
    weights, slopes = (torch.from_numpy(t).to(position.device) for t in open_table(step))
    nearest = torch.floor(position + 0.5)
    last = centre - WIDTH // 2
    is_in = (nearest.abs() <= last).all(-1) & (nearest.sum(-1) < 3 * last)
    first = torch.tensor([WIDTH // 2 - HALO, -last, -last], dtype=nearest.dtype)
    row = ((position + 0.5 - nearest) * TABLE_SIZE).long().clamp(0, TABLE_SIZE - 1)
    row = torch.where(is_in[..., None], row, OUTSIDE)
    nearest = torch.where(is_in[..., None], nearest, first.to(nearest.device)).long()
    return nearest, weights[row], slopes[row]


def _neighbourhood(nearest: Tensor, centre: int):
    """Yield index tuples (z, y, x) of the kernel's support and the offsets (dx, dy, dz)."""
    half = WIDTH // 2
    for dz, dy, dx in np.ndindex(WIDTH, WIDTH, WIDTH):
        yield (
            (
                nearest[..., 2] + dz - half + centre,
                nearest[..., 1] + dy - half + centre,
                nearest[..., 0] + dx - half + HALO,
            ),
            (dx, dy, dz),
        )


def extract_slices(
    grid: SliceGrid, rotations: Float[Tensor, "n 3 3"], points: Float[Tensor, "p 2"]
) -> Complex[Tensor, "n p"]:
    """Read central slices: the transforms of the volume's projections.

    Parameters
    ----------
    rotations
        Object-to-image matrices.
    points
        Image frequencies (x, y) in cycles per box of the volume. Samples that are not in the grid,
        because a number is NaN or too large, are NaN.
    """
    position, sign = _positions(grid.step, rotations, points)
    nearest, w, _ = _weights(position, grid.step, grid.centre)
    value = torch.zeros(position.shape[:2], dtype=grid.values.dtype, device=grid.values.device)
    for index, (dx, dy, dz) in _neighbourhood(nearest, grid.centre):
        value += grid.values[index] * (w[..., 0, dx] * w[..., 1, dy] * w[..., 2, dz])
    return torch.where(sign < 0, value.conj(), value)


def extract_slices_with_gradient(
    grid: SliceGrid, rotations: Float[Tensor, "n 3 3"], points: Float[Tensor, "p 2"]
) -> tuple[Complex[Tensor, "n p"], Complex[Tensor, "n p 3"]]:
    """Read slices and the gradient of the transform, per cycle per box, in object axes x, y, z.

    The gradient is that of the interpolation kernel: within 7 % of the exact one, which is enough
    for the steps of a refinement that is judged by the values.
    """
    position, sign = _positions(grid.step, rotations, points)
    nearest, w, d = _weights(position, grid.step, grid.centre)
    value = torch.zeros(position.shape[:2], dtype=grid.values.dtype, device=grid.values.device)
    gradient = torch.zeros(position.shape, dtype=grid.values.dtype, device=grid.values.device)
    for index, (dx, dy, dz) in _neighbourhood(nearest, grid.centre):
        v = grid.values[index]
        wx, wy, wz = w[..., 0, dx], w[..., 1, dy], w[..., 2, dz]
        value += v * (wx * wy * wz)
        gradient[..., 0] += v * (d[..., 0, dx] * wy * wz)
        gradient[..., 1] += v * (wx * d[..., 1, dy] * wz)
        gradient[..., 2] += v * (wx * wy * d[..., 2, dz])
    flip = sign < 0
    value = torch.where(flip, value.conj(), value)
    # d/dk of conj(F(-k)) is -conj(F'(-k)).
    gradient = torch.where(flip[..., None], -gradient.conj(), gradient) * grid.step
    return value, gradient


def insert_slices(
    acc: Accumulator,
    rotations: Float[Tensor, "n 3 3"],
    points: Float[Tensor, "p 2"],
    values: Complex[Tensor, "n p"],
    weights: Float[Tensor, "n p"],
) -> None:
    """Add slices and their weights to the sums, in place.

    The values' part is the adjoint of :func:`extract_slices` once
    :func:`~cryorefine.kernels.grid.fold_accumulator` has added the Friedel mates. Samples that are
    not in the grid make its first points NaN: they belong nowhere, and are not passed over.
    """
    position, sign = _positions(acc.step, rotations, points)
    nearest, w, _ = _weights(position, acc.step, acc.centre)
    values = torch.where(sign < 0, values.conj(), values)
    shape = acc.weights.shape
    flat_values, flat_weights = acc.values.view(-1), acc.weights.view(-1)
    for (z, y, x), (dx, dy, dz) in _neighbourhood(nearest, acc.centre):
        index = ((z * shape[1] + y) * shape[2] + x).flatten()
        k = w[..., 0, dx] * w[..., 1, dy] * w[..., 2, dz]
        flat_values.index_add_(0, index, (values * k).flatten())
        flat_weights.index_add_(0, index, (weights * k).flatten())


def rotate_grid(
    values: Complex[Tensor, "z y x"],
    weights: Float[Tensor, "z y x"],
    centre: int,
    step: float,
    rotations: Float[Tensor, "g 3 3"],
) -> tuple[Complex[Tensor, "z y x"], Float[Tensor, "z y x"]]:
    """Return ``sum_g f(R_g k)`` on half grids (x ≥ 0, no halo), by kernel interpolation.

    Points outside the largest sphere that can be read are zero.
    """
    values, weights = add_halo(values), add_halo(weights)
    half = centre
    axis = torch.arange(-half, half + 1, device=values.device)
    z, y, x = torch.meshgrid(axis, axis, axis[half:], indexing="ij")
    k = torch.stack([x, y, z], -1).double()
    inside = k.square().sum(-1) <= (half - WIDTH // 2) ** 2
    k = k[inside]
    out_v = values.new_zeros(x.shape)
    out_w = weights.new_zeros(x.shape)
    for rotation in rotations.to(k):
        position = k @ rotation.T
        sign = torch.where(position[..., 0] < 0, -1.0, 1.0).to(k)
        nearest, w, _ = _weights(position * sign[..., None], step, centre)
        total_v = torch.zeros(len(k), dtype=values.dtype, device=values.device)
        total_w = torch.zeros(len(k), dtype=weights.dtype, device=values.device)
        for index, (dx, dy, dz) in _neighbourhood(nearest, centre):
            weight = w[..., 0, dx] * w[..., 1, dy] * w[..., 2, dz]
            total_v += values[index] * weight
            total_w += weights[index] * weight
        out_v[inside] += torch.where(sign < 0, total_v.conj(), total_v)
        out_w[inside] += total_w
    return out_v, out_w


def permute_grid(
    values: Complex[Tensor, "z y x"],
    weights: Float[Tensor, "z y x"],
    centre: int,
    rotations: Float[Tensor, "g 3 3"],
) -> tuple[Complex[Tensor, "z y x"], Float[Tensor, "z y x"]]:
    """Return ``sum_g f(R_g k)`` on half grids without halo, for a group of signed permutations R.

    Such rotations take grid points to grid points: nothing is interpolated. Points outside the
    largest sphere are zero.
    """
    axis = torch.arange(-centre, centre + 1, device=values.device)
    z, y, x = torch.meshgrid(axis, axis, axis[centre:], indexing="ij")
    k = torch.stack([x, y, z], -1)
    inside = k.square().sum(-1) <= centre * centre
    k = k[inside]
    out_v, out_w = torch.zeros_like(values), torch.zeros_like(weights)
    for rotation in rotations.to(k):
        p = (k[..., None, :] * rotation).sum(-1)
        flip = p[..., 0] < 0
        px, py, pz = torch.where(flip[..., None], -p, p).unbind(-1)
        found = values[pz + centre, py + centre, px]
        out_v[inside] += torch.where(flip, found.conj(), found)
        out_w[inside] += weights[pz + centre, py + centre, px]
    return out_v, out_w


def _normal_equations(
    grid: SliceGrid, problem: PoseProblem
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return log-likelihood and model power (m,), gradient (m, 5) and matrix (m, 5, 5)."""
    value, gradient = extract_slices_with_gradient(grid, problem.rotations, problem.points)
    r = problem.rotations.to(gradient.real.dtype)
    along = torch.einsum("maj,mpj->map", r.to(gradient.dtype), gradient)  # image axes x, y, z
    px, py = problem.points.to(value.real.dtype).T
    kappa = problem.k_px.to(value.real.dtype) * (2 * torch.pi / problem.image_size_px)
    phase = problem.shifts_px.to(kappa) @ kappa.T
    x = problem.x[problem.image_of] * torch.polar(torch.ones_like(phase), -phase)
    c = problem.c[problem.image_of]
    w, u = c * value, c * along[:, 2]
    v = c * (py * along[:, 0] - px * along[:, 1])
    jacobian = torch.stack([-py * u, px * u, v, 1j * kappa[:, 0] * w, 1j * kappa[:, 1] * w], 1)
    residual = x - w
    g = 2 * torch.einsum("map,mp->ma", jacobian.conj(), residual).real.double()
    h = 2 * torch.einsum("map,mbp->mab", jacobian.conj(), jacobian).real.double()
    power = w.abs().square().double().sum(1)
    score = 2 * (x.conj() * w).real.double().sum(1) - power
    return score, power, g, h


def refine_poses(grid: SliceGrid, problem: PoseProblem, options: LevenbergMarquardt) -> PoseResult:
    """Refine each start to the nearest maximum of the log-likelihood.

    Levenberg-Marquardt on a rotation vector in the image frame and the shift, with analytic
    derivatives. See :class:`~cryorefine.kernels.poses.PoseProblem` for the model.
    """
    return refine(partial(_normal_equations, grid), problem, options)


def refine(
    normal_equations: NormalEquations, problem: PoseProblem, options: LevenbergMarquardt
) -> PoseResult:
    """Run the Levenberg-Marquardt iterations of all starts side by side.

    Parameters
    ----------
    normal_equations
        Returns log-likelihood and model power (m,), gradient (m, 5) and Gauss-Newton matrix
        (m, 5, 5) of a problem at its starts, without the prior.
    """
    rotations, shifts = problem.rotations.double().clone(), problem.shifts_px.double().clone()
    score, power, g, h = _with_prior(normal_equations, problem, options)
    damping = torch.full_like(score, options.initial_damping)
    residual_curvature = torch.zeros_like(h)
    rows = torch.arange(len(score), device=score.device)  # the starts that are still refined
    floor = problem.floors
    for _ in range(options.max_evaluations):
        slope, matrix = g[rows], h[rows]
        diagonal = torch.diagonal(matrix, dim1=1, dim2=2)
        lift = damping[rows, None] * diagonal + RIDGE * diagonal.amax(1, keepdim=True)
        lifted = matrix + torch.diag_embed(lift)
        factor, failed = torch.linalg.cholesky_ex(lifted + residual_curvature[rows])
        if bool((failed > 0).any()):
            # What was learned from steps further away has no maximum here.
            residual_curvature[rows[failed > 0]] = 0
            factor, failed = torch.linalg.cholesky_ex(lifted + residual_curvature[rows])
        step = torch.cholesky_solve(slope[..., None], factor)[..., 0]
        # Half of gradient times step is the gain that the quadratic model promises.
        promised = 0.5 * (slope * step).sum(1)
        promising = (failed == 0) & (promised >= PROMISE * options.tolerance)
        promising &= score[rows] + PROSPECT * promised >= floor[rows]
        rows, step = rows[promising], step[promising]
        if len(rows) == 0:
            break
        turn = step[:, :3].norm(dim=1, keepdim=True)
        rotvec = step[:, :3] * (options.max_turn_rad / turn.clamp_min(1e-30)).clamp(max=1.0)
        new_shifts = shifts[rows] + step[:, 3:].clamp(-options.max_move_px, options.max_move_px)
        length = new_shifts.norm(dim=1, keepdim=True)
        new_shifts = new_shifts * (options.max_shift_px / length.clamp_min(1e-30)).clamp(max=1.0)
        new_rotations = matrix_from_rotvec(rotvec) @ rotations[rows]
        tried = replace(
            problem,
            image_of=problem.image_of[rows],
            rotations=new_rotations,
            shifts_px=new_shifts,
            prior_shift_px=problem.prior_shift_px[rows],
            floor=None,
            own=None if problem.own is None else problem.own.at(rows),
        )
        new = _with_prior(normal_equations, tried, options)
        gain = new[0] - score[rows]
        better = gain > 0
        residual_curvature[rows] += learned_curvature(
            torch.cat([rotvec, new_shifts - shifts[rows]], 1),
            g[rows] - new[2],
            torch.where(better[:, None, None], new[3], h[rows]),
            residual_curvature[rows],
        )
        goes_on = torch.where(better, gain >= options.tolerance, damping[rows] <= MAX_DAMPING)
        damping[rows] *= torch.where(better, DAMPING_FALLS, DAMPING_RISES).to(damping)
        taken = rows[better]
        rotations[taken], shifts[taken] = new_rotations[better], new_shifts[better]
        for old, value in zip((score, power, g, h), new, strict=True):
            old[taken] = value[better]
        rows = rows[goes_on]
    at_edge = shifts.norm(dim=1) > options.max_shift_px * (1 - 1e-6)
    information = h if options.informs else torch.zeros_like(h)
    return PoseResult(rotations, shifts, score, power, information, at_edge)


def learned_curvature(
    step: Float[Tensor, "m p"],
    fall: Float[Tensor, "m p"],
    matrix: Float[Tensor, "m p p"],
    residual_curvature: Float[Tensor, "m p p"],
) -> Float[Tensor, "m p p"]:
    """Return by how much the curvature beside the Gauss-Newton matrix changes after a step.

    The sum of both then says how the gradient fell along the step, and the change is the least one
    in the metric of the Gauss-Newton matrix (``docs/mathematics.md``).
    """
    along = (matrix @ step[..., None])[..., 0]
    missing = fall - along - (residual_curvature @ step[..., None])[..., 0]
    length2 = (along * step).sum(1)
    along = along / length2.clamp_min(1e-300)[:, None]
    cross = missing[:, :, None] * along[:, None]
    twice = (missing * step).sum(1)[:, None, None] * along[:, :, None] * along[:, None]
    return torch.where(length2[:, None, None] > 0, cross + cross.mT - twice, 0.0)


def _with_prior(
    normal_equations: NormalEquations, problem: PoseProblem, options: LevenbergMarquardt
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    score, power, g, h = normal_equations(problem)
    offset = problem.shifts_px.double() - problem.prior_shift_px.double()
    score = score - 0.5 * problem.prior_precision * offset.square().sum(1)
    g[:, 3:] -= problem.prior_precision * offset
    h[:, 3, 3] += problem.prior_precision
    h[:, 4, 4] += problem.prior_precision
    if problem.own is not None:
        gained, slope = own_noise_gain(problem.own, problem.rotations, problem.shifts_px)
        score, g = score - gained, g - slope
    g, h = freeze(g, h, turns=options.max_turn_rad > 0, moves=options.max_move_px > 0)
    return score, power, g, h


def own_noise_gain(
    own: OwnNoiseInReference, rotations: Float[Tensor, "m 3 3"], shifts_px: Float[Tensor, "m 2"]
) -> tuple[Float[Tensor, "m"], Float[Tensor, "m 5"]]:
    """Return what poses gain by their images' own noise, and its gradient.

    A small turn e changes ``D`` by ``[e] D``, and its axis times the sine of its angle by
    ``(tr(D) - D) e / 2``.
    """
    turn = rotations.double() @ own.rotations.double().mT
    d = shifts_px.double() - own.shifts_px.double()
    trace = turn.diagonal(dim1=1, dim2=2).sum(1)
    skew = 0.5 * (turn - turn.mT)
    axis = torch.stack([skew[:, 2, 1], skew[:, 0, 2], skew[:, 1, 0]], 1)
    weighted = (own.turn_decay @ axis[..., None])[..., 0]
    distance2 = (weighted * axis).sum(1) + own.move_decay * d.square().sum(1)
    base = 1 + 0.5 * distance2
    gained = torch.where(trace > 1, own.bonus / base.square(), 0.0)
    change = 0.5 * (torch.eye(3).to(turn) * trace[:, None, None] - turn)
    by_turn = (change.mT @ weighted[..., None])[..., 0]
    by_move = d * own.move_decay[:, None]
    return gained, -2 * (gained / base)[:, None] * torch.cat([by_turn, by_move], 1)


def pick_separated(
    index: Int[Tensor, "b n"],
    score: Float[Tensor, "b n"],
    rotations: Float[Tensor, "q 3 3"],
    symmetry: Float[Tensor, "g 3 3"],
    *,
    cos_apart: float,
    keep: int,
    window: float,
) -> tuple[Int[Tensor, "b k"], Float[Tensor, "b k"]]:
    """Walk down each image's ranked candidates and keep those apart from all kept before.

    Parameters
    ----------
    index, score
        Candidate rotations, best first, and their log-likelihoods; those more than ``window``
        below the best are dropped.
    symmetry
        Rotations of the object that leave images unchanged.
    cos_apart
        Cosine of the least angle between two kept rotations; above 1 all are apart.
    keep
        Most candidates per image.

    Returns
    -------
    index, score
        -1 and -inf where fewer were kept.
    """
    b, n = index.shape
    candidate = rotations[index.clamp_min(0)]
    chosen = index.new_full((b, keep), -1)
    chosen_score = score.new_full((b, keep), -torch.inf)
    left = (score >= score[:, :1] - window) & (index >= 0)
    image = torch.arange(b, device=index.device)
    rank = torch.arange(n, device=index.device)
    for k in range(min(keep, n)):
        # The best that is left is the next to keep; what is not apart from it goes.
        best = left.int().argmax(1)
        found = left[image, best]
        chosen[:, k] = torch.where(found, index[image, best], chosen[:, k])
        chosen_score[:, k] = torch.where(found, score[image, best], chosen_score[:, k])
        copies = symmetry.to(candidate) @ candidate[image, best].mT[:, None]
        trace = torch.einsum("bnij,bgji->bng", candidate, copies)
        near = (0.5 * (trace - 1) > cos_apart).any(-1) | (rank == best[:, None])
        left &= ~near
    return chosen, chosen_score
