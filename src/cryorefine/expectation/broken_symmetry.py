"""Whether a run's images contradict the symmetry that was imposed on its maps.

A map with imposed symmetry has it, and all symmetric copies of a pose fit an image alike: neither
says whether the object has it. So each half's images are asked which copies they would choose. What
the symmetric reference leaves of them is put together with copies chosen at random, which breaks
the symmetry a little; each image is then given to its copies as it fits them, the asymmetric map is
made anew, and so on. Noise, too, grows to a map that fits its own images. It is therefore judged by
the images of the *other* half, which had no part in it: does the asymmetric map explain them better
than the symmetric one, when each of them may be any of its copies?

Images also differ from the reference by what has nothing to do with the object's symmetry: errors
of poses, grey values, and contrast that rises from one side of an image to the other (ice becomes
thicker, a neighbour stands there). Copies would be chosen so that all of these point the same way,
and would seem to show a map with a light and a dark side. So neither sees this part of an image.
"""

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Complex, Float
from torch import Tensor

from cryorefine.engine.freed_memory import release_memory
from cryorefine.evaluate.symmetry_agreement import is_contradicted, without_radial_mean
from cryorefine.events import EventLog
from cryorefine.fourier.crop import resize_volume
from cryorefine.geometry.protocol import Symmetry
from cryorefine.geometry.rotation import matrix_from_rotvec
from cryorefine.geometry.symmetry import parse_symmetry
from cryorefine.kernels.dispatch import extract_slices, insert_slices
from cryorefine.kernels.grid import Accumulator, make_accumulator, make_slice_grid
from cryorefine.masks.soft import sphere_mask
from cryorefine.reconstruct.accumulate import centre
from cryorefine.reconstruct.solve import fold, solve
from cryorefine.reconstruct.symmetrise import symmetrise_volume
from cryorefine.restore.rigid import move_volume
from cryorefine.state.particle_batches import (
    both_optics,
    particle_stack,
    poses_of,
    rows_by_geometry,
)
from cryorefine.state.state import Evaluation, Inputs, Poses, State

__all__ = ["warn_of_broken_symmetry"]

_SHELLS, _MIN_SHELLS = 6, 3
"""Fourier shells that are compared. What tells a particle from its copies is coarse, and poses
under a wrong symmetry are right to a few tens of degrees only; each shell more adds noise: with 10
instead of 6 a right D2 and D7 lost 67 and 47 nats instead of 27 and 11, and wrong groups gained no
more (600 images of SNR 0.02)."""

_MAX_COPIES, _MAX_IMAGES = 20_000, 1_500
"""Copies of images, and images, of a half that are compared: cost stays the same in large runs."""

_ROUNDS, _HEATED = 8, 6
"""Rounds, and those of them in which choices are heated: a map that is small at first would leave
them undecided, and grow slowly."""

_HEAT = 1.5
"""Spread of the log-likelihoods of an image's copies, in nats, that heated choices have at least:
the best of four copies then has two thirds of the weight, and none is lost."""

_FOLDS = 3
"""Parts of a half's images (5 and 8 tell no more): each is compared with a map of the other parts,
in which its own noise would hold it where it was put first."""

_AMPLITUDES = (0.5, 1.0)
"""Of the asymmetric map, as the other half's images see it: half of it is noise where images are
few, and all of it would then explain them worse than a part."""

_LEAST_SHARE = 1e-3  # of an image; copies with less are left out

_SMALL_TURN_RAD, _SMALL_STEP = 0.03, 0.05
"""Steps of the slopes of slices along angles, and along points in shells: over six shells of a
particle nothing bends within them."""


@dataclass(frozen=True, eq=False)
class _Half:
    """Coarse images of a half, whitened and centred.

    Attributes
    ----------
    residual
        What the symmetric reference leaves of them, less its part along the nuisances.
    nuisances
        Orthonormal: what images differ by whatever the symmetry; real and imaginary parts in turn.
    c
        Contrast transfer.
    rotations
        Their poses.
    points
        Where they sample the volume.
    reference
        The symmetric reference, coarsely sampled.
    shells
        Up to which they reach.
    """

    residual: Complex[Tensor, "b p"]
    nuisances: Float[Tensor, "b q t"]
    c: Float[Tensor, "b p"]
    rotations: Float[Tensor, "b 3 3"]
    points: Float[Tensor, "p 2"]
    reference: Float[Tensor, "z y x"]
    shells: int


def warn_of_broken_symmetry(
    inputs: Inputs, state: State, poses: Poses, evaluation: Evaluation, events: EventLog
) -> Evaluation:
    """Measure whether images contradict the symmetry, and warn if they do.

    Nothing is measured without a symmetry, of a helix, or where the half maps agree to less than
    three shells.

    Returns
    -------
    The evaluation with what was found.
    """
    group = inputs.group
    reach = inputs.geometry.box_A / evaluation.resolution_A
    shells = min(_SHELLS, int(reach)) if math.isfinite(reach) else 0
    if group.order == 1 or inputs.settings.has_helix or shells < _MIN_SHELLS:
        return evaluation
    halves = [_read(inputs, state, poses, half, shells) for half in (1, 2)]
    if min(len(half.residual) for half in halves) < _FOLDS:
        return evaluation
    fsc = evaluation.curves.corrected.double().cpu().clamp(0, 0.999)
    # A map that has no symmetry has so much less data at each point.
    ssnr = (fsc / (1 - fsc))[: shells + 2] / group.order
    radius_px = inputs.radius_px * halves[0].reference.shape[-1] / inputs.size_px
    broken = [_broken_map(half, group, ssnr, radius_px) for half in halves]
    first, second = broken
    gain = (_gain(halves[1], first, group) + _gain(halves[0], second, group)) / 2
    share = _asymmetric_share(broken, [half.reference for half in halves], group)
    if is_contradicted(gain, share):
        events.warn(
            f"the images contradict symmetry {group.name}: a map without it, made of one half's "
            f"images, explains those of the other half better by {gain:.0f} nats, and {share:.0%} "
            "of its coarse detail is not symmetric: the map shows an average of what is not alike; "
            "refine again with --symmetry c1 or a smaller group, and look with 'cryorefine "
            "symmetry find' at its half maps"
        )
    return replace(evaluation, symmetry_gain=gain, asymmetric_share=share)


def _read(inputs: Inputs, state: State, poses: Poses, half: int, shells: int) -> _Half:
    """Read images of a half, spread over the file, all of its most common geometry; on the CPU."""
    resolution_A = inputs.geometry.box_A / (shells + 0.5)
    optics = both_optics(inputs, state, resolution_A, poses.optics)[half - 1]
    parts = rows_by_geometry(inputs.table, inputs.half, optics, half)
    part = max(parts, key=lambda p: len(p.rows))
    used = part.rows[poses.is_assigned.numpy()[part.rows]] if poses.is_assigned.any() else part.rows
    if poses.scores.fits_nothing is not None:
        used = used[poses.scores.fits_nothing.numpy()[used] == 0]
    most = min(_MAX_IMAGES, max(_MAX_COPIES // inputs.group.order, _FOLDS))
    rows = used[np.unique(np.linspace(0, len(used) - 1, min(most, len(used))).astype(int))]
    view = optics.band_of(part.geometry)
    first = view.band.prefix(0)  # the mean says nothing
    x, c = [torch.zeros(0, len(view.band) - first, dtype=torch.complex64)], []
    for batch in optics.batches(particle_stack(inputs), part.geometry, rows, poses.optics):
        shifts_px = poses_of(poses, batch.rows, view)[1]
        x.append(centre(view, batch.x * batch.white, shifts_px)[:, first:].cpu())
        c.append((batch.c * batch.white)[:, first:].cpu())
    n = inputs.size_px
    size_px = min(n, 2 * math.ceil(1.5 * (shells + 1)))  # room for splines beyond the last shell
    # Sums over voxels, as transforms are, become smaller with their number.
    coarse = resize_volume(state.references[half - 1].cpu(), size_px) * (n / size_px) ** 3
    points, rotations = view.points[first:].cpu(), poses.rotations[torch.from_numpy(rows)]
    images, transfer = torch.cat(x), torch.cat(c) if c else x[0].real
    release_memory()  # what batches left behind, as after a pass over particles
    model = extract_slices(make_slice_grid(coarse, shells + 1.0), rotations, points) * transfer
    nuisances = _nuisances(coarse, shells, rotations, points, transfer)
    residual = torch.view_as_real(images - model).flatten(1)[..., None]
    residual = residual - nuisances @ (nuisances.transpose(1, 2) @ residual)
    left = torch.view_as_complex(residual.view(*images.shape, 2))
    return _Half(left, nuisances, transfer, rotations, points, coarse, shells)


def _nuisances(
    reference: Float[Tensor, "z y x"],
    shells: int,
    rotations: Float[Tensor, "b 3 3"],
    points: Float[Tensor, "p 2"],
    c: Float[Tensor, "b p"],
) -> Float[Tensor, "b q t"]:
    """Return what an image differs by from its slice if grey value, pose or contrast are not right.

    To first order: the slice itself, its slopes along two shifts and three turns, and the slice
    times x and times y, which are its slopes along the points.
    """
    grid = make_slice_grid(reference, shells + 1.0)
    slices = extract_slices(grid, rotations, points)
    parts = [slices, 1j * points[:, 0] * slices, 1j * points[:, 1] * slices]
    for i in range(3):
        turn = matrix_from_rotvec(_SMALL_TURN_RAD * torch.eye(3)[i]).to(rotations)
        ahead, behind = (extract_slices(grid, rotations @ r, points) for r in (turn, turn.T))
        parts.append(ahead - behind)
    for i in range(2):
        step = _SMALL_STEP * torch.eye(2)[i]
        ahead, behind = (extract_slices(grid, rotations, points + d) for d in (step, -step))
        parts.append(1j * (ahead - behind))
    real = torch.view_as_real(torch.stack([part * c for part in parts], dim=2).transpose(1, 2))
    return torch.linalg.qr(real.flatten(2).transpose(1, 2).double())[0].float()


def _broken_map(
    half: _Half, group: Symmetry, ssnr: Float[Tensor, "s"], radius_px: float
) -> Float[Tensor, "z y x"]:
    """Return what a half's images show beyond the symmetric reference, if they choose copies."""
    n, order = len(half.residual), group.order
    generator = torch.Generator().manual_seed(0)
    share = torch.zeros(n, order, dtype=torch.float64)
    share[torch.arange(n), torch.randint(order, (n,), generator=generator)] = 1.0
    folds = [torch.arange(f, n, _FOLDS) for f in range(_FOLDS)]
    size_px = half.reference.shape[-1]
    sphere = sphere_mask(size_px, radius_px, 0.1 * radius_px)

    def solved(sums: list[Accumulator]) -> Tensor:
        total = replace(
            sums[0],
            values=torch.stack([s.values for s in sums]).sum(0),
            weights=torch.stack([s.weights for s in sums]).sum(0),
        )
        return solve(fold(total, parse_symmetry("c1")), ssnr=ssnr) * sphere

    for i in range(_ROUNDS):
        sums = [_inserted(half, group, share, rows) for rows in folds]
        following = torch.zeros_like(share)
        for f, rows in enumerate(folds):
            volume = solved([s for j, s in enumerate(sums) if j != f])
            likeness, power = _scores(half, volume, group, rows)
            spread = float((likeness - power).var(1).mean().sqrt())
            heat = max(1.0, _HEAT / max(spread, 1e-9)) if i < _HEATED else 1.0
            following[rows] = torch.softmax(heat * likeness - heat * heat * power, 1)
        share = following
    # What is symmetric in it fits all copies alike: it has had no part in the choice.
    volume = solved([_inserted(half, group, share, rows) for rows in folds])
    return volume - symmetrise_volume(volume, group, voxel_A=1.0)


def _inserted(half: _Half, group: Symmetry, share: Tensor, rows: Tensor) -> Accumulator:
    """Return the sums of some images, each shared out to its copies."""
    sums = make_accumulator(half.reference.shape[-1], half.shells + 0.5)
    place, g = torch.nonzero(share[rows] > _LEAST_SHARE, as_tuple=True)
    mine = rows[place]
    # As in all sums of slices, which crowd at the origin.
    factor = half.points.norm(dim=1) * share[mine, g].float()[:, None]
    c = half.c[mine]
    copies = half.rotations[mine] @ group.point_group[g]
    values, weights = half.residual[mine] * c * factor, c.square() * factor
    insert_slices(sums, copies, half.points, values, weights)
    return sums


def _scores(
    half: _Half, volume: Float[Tensor, "z y x"], group: Symmetry, rows: Tensor
) -> tuple[Float[Tensor, "b g"], Float[Tensor, "b g"]]:
    """Return of each copy twice its product with the residual, and its power, beside the nuisances.

    Their difference is the gain in log-likelihood if the volume is added to the reference.
    """
    grid = make_slice_grid(volume, half.shells + 1.0)
    copies = half.rotations[rows][:, None] @ group.point_group
    slices = extract_slices(grid, copies.flatten(0, 1), half.points)
    model = slices.view(len(rows), group.order, -1) * half.c[rows][:, None]
    likeness = 2 * (half.residual[rows][:, None] * model.conj()).real.sum(2, dtype=torch.float64)
    along = torch.view_as_real(model).flatten(2) @ half.nuisances[rows]
    power = model.abs().square().sum(2, dtype=torch.float64)
    return likeness, power - along.square().sum(2, dtype=torch.float64)


def _gain(half: _Half, volume: Float[Tensor, "z y x"], group: Symmetry) -> float:
    """Return the log-likelihood that images gain, each at any of its copies with equal odds.

    Of likelihoods for several amplitudes of the volume, the mean.
    """
    likeness, power = _scores(half, volume, group, torch.arange(len(half.residual)))
    gained = [
        (torch.logsumexp(a * likeness - a * a * power, 1) - math.log(group.order)).sum()
        for a in _AMPLITUDES
    ]
    return float(torch.logsumexp(torch.stack(gained), 0)) - math.log(len(_AMPLITUDES))


def _asymmetric_share(broken: list[Tensor], references: list[Tensor], group: Symmetry) -> float:
    """Return the share of what both halves share that is not symmetric; noise has no part in it.

    Which copy is which is each half's own choice: the second's is turned to where it agrees best.
    """
    first, second = broken
    asymmetric = max(
        float((first * move_volume(second, operator, torch.zeros(3))).sum())
        for operator in group.point_group
    )
    one, other = (without_radial_mean(reference) for reference in references)
    symmetric = max(float((one * other).sum()), 0.0)
    return max(asymmetric, 0.0) / max(asymmetric + symmetric, 1e-30)
