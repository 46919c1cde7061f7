"""Find every particle's pose against its own half's reference."""

import math
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from cryorefine.assign.align import (
    AlignmentOptions,
    Alternatives,
    BatchPoses,
    LocalLimits,
    align_globally,
    align_locally,
    can_be_tilted,
    score_poses,
)
from cryorefine.assign.own_noise import OwnNoise, own_bonus
from cryorefine.assign.particle_optics import N_VALUES
from cryorefine.events import EventLog
from cryorefine.kernels.grid import SliceGrid
from cryorefine.model.observe import GroupBand
from cryorefine.refine.grey_scale import common_factor
from cryorefine.refine.optics_refinement import optics_prior, refine_batch, without_common_part
from cryorefine.refine.particle_batches import (
    Batch,
    batches_of,
    group_bands_of,
    is_assigned,
    max_shift_px,
    poses_of,
    whitening,
)
from cryorefine.refine.plan import IterationPlan, shown_share
from cryorefine.refine.search_plan import prepare_search
from cryorefine.refine.state import Inputs, OtherPoses, Poses, State
from cryorefine.weigh.fit import fit_z

__all__ = ["DECIDED", "WORSE_THAN_RIGHT", "assign_poses", "is_unsearched"]

WORSE_THAN_RIGHT = -3.0
"""Standard deviations below what a right pose scores: one right pose in 700 lies there."""

DECIDED = 1.5
"""Effective number of poses below which one of them is the likeliest by far."""

_AS_FINE = 1.2
"""A search at less than this many times the present resolution need not be repeated."""


def _batches_in_turn(
    inputs: Inputs,
    state: State,
    group_band: GroupBand,
    rows: np.ndarray,
    plan: IterationPlan,
    optics: Float[Tensor, "n v"] | None,
) -> Iterator[tuple[str, Batch]]:
    """Yield batches by what is done with them.

    Keep a pose, find one, search for a better one, check those about it, or follow it.
    """
    is_searched = plan.is_searched(len(inputs.table))[rows]
    is_known = is_assigned(state, len(inputs.table))[rows]
    if plan.mode == "global":
        is_searched |= ~is_known
    if plan.rescues and state.poses is not None and state.poses.quality:
        is_searched |= is_unsearched(state.poses, plan.align_resolution_A)[rows]
    # From outside the tilt limits poses would end on them, far from where the particle is seen.
    is_outside = ~_can_be_seen(inputs, state, rows)
    if plan.rescues or plan.mode == "global":
        is_searched |= is_outside
    is_kept = (is_outside & ~is_searched) | (plan.mode == "none")
    is_restarted = plan.is_restarted(len(inputs.table))[rows]
    kinds = {
        "keep": is_kept,
        "find": is_searched & ~is_known,
        "search": is_searched & is_known,
        "check": ~is_searched & ~is_kept & is_restarted,
        "follow": ~is_searched & ~is_kept & ~is_restarted,
    }
    for kind, chosen in kinds.items():
        for batch in batches_of(inputs, group_band, rows[chosen], optics):
            yield kind, batch


def _can_be_seen(inputs: Inputs, state: State, rows: np.ndarray) -> np.ndarray:
    """Tell which particles have no pose, or one within the tilt limits or with a copy there."""
    if state.poses is None:
        return np.ones(len(rows), bool)
    known = ~inputs.table.lacks_pose[rows] | is_assigned(state, len(inputs.table))[rows]
    rotations = state.poses.rotations[torch.from_numpy(rows)]
    return ~known | can_be_tilted(rotations, inputs.group, inputs.tilt_range_rad).numpy()


def is_unsearched(poses: Poses, align_resolution_A: float) -> np.ndarray:
    """Tell which particles fit worse than they should and were never searched this finely."""
    quality = poses.quality
    if "fit_z" not in quality:
        return np.zeros(len(poses.rotations), bool)
    is_searched = quality["searched_A"] <= align_resolution_A * _AS_FINE
    return ((quality["fit_z"] < WORSE_THAN_RIGHT) & ~is_searched).numpy()


def _local_limits(inputs: Inputs, group_band: GroupBand) -> LocalLimits:
    settings = inputs.settings
    turn_deg, shift_percent = settings.max_angle_change_deg, settings.max_shift_change_percent
    return LocalLimits(
        turns=settings.refine_angles,
        moves=settings.refine_shifts,
        max_turn_rad=math.inf if turn_deg is None else math.radians(turn_deg),
        max_move_px=math.inf
        if shift_percent is None
        else shift_percent / 100 * group_band.group.box_px,
    )


def _shift_sigma_A(inputs: Inputs, state: State, half: int) -> float:
    """Return the spread of the half's shifts so far, as the width of their prior.

    Of the better half of the particles: where many poses are still wrong their shifts are spread
    over all that is allowed.
    """
    limit = inputs.geometry.max_shift_A
    known = is_assigned(state, len(inputs.table)) & (inputs.half == half)
    if state.poses is None or not known.any():
        measured = state.shift_sigma_A[half - 1]
        return limit if math.isnan(measured) else min(limit, max(inputs.voxel_A, measured))
    mine = torch.from_numpy(known)
    fit = state.poses.quality.get("fit_z", state.poses.quality["score"])[mine]
    shift_A = state.poses.shift_A[mine][fit >= fit.median()]
    # At least a pixel: a prior never pulls harder than the data were sampled.
    return float((shift_A.square().sum(1).mean() / 2).sqrt().clamp(inputs.voxel_A, limit))


def assign_poses(
    inputs: Inputs,
    state: State,
    grids: tuple[SliceGrid, SliceGrid],
    plan: IterationPlan,
    events: EventLog,
) -> tuple[Poses, tuple[tuple[float, ...], tuple[float, ...]], float]:
    """Find every particle's pose against its own half's reference.

    Returns
    -------
    poses, group_scale, missed_fraction
        And the amplitudes of the optics groups by half, measured at these poses; and how many of
        the particles that were searched kept a pose which the search alone would have missed, at
        least.
    """
    n = len(inputs.table)
    power = torch.zeros(n, dtype=torch.float64)
    group_scale = []
    rotations = torch.zeros(n, 3, 3, dtype=torch.float64)
    shift_A = torch.zeros(n, 2, dtype=torch.float64)
    covariance = torch.zeros(n, 5, 5, dtype=torch.float64)
    prior = optics_prior(inputs.settings) if plan.mode == "local" else None
    optics = None if state.poses is None else state.poses.optics
    if prior is not None and optics is None:
        optics = torch.zeros(n, N_VALUES, dtype=torch.float64)
    optics = None if optics is None else optics.clone()
    quality: dict[str, Tensor] = {}
    others: list[OtherPoses] = []
    searched_A = torch.full((n,), math.nan, dtype=torch.float64)
    if state.poses is not None and "searched_A" in state.poses.quality:
        searched_A = state.poses.quality["searched_A"].clone()
    stage = "scoring" if plan.mode == "none" else f"aligning ({plan.mode})"
    done = n_searched = n_missed = 0
    for half in (1, 2):
        group_bands = group_bands_of(inputs, state, half, plan.align_resolution_A)
        grid = grids[half - 1]
        sigma_A = _shift_sigma_A(inputs, state, half)
        for g, group_band in enumerate(group_bands):
            rows = inputs.rows(half, g)
            if len(rows) == 0:
                continue
            options = AlignmentOptions(
                max_shift_px=max_shift_px(inputs, group_band),
                shift_sigma_px=sigma_A / group_band.group.pixel_A,
                resolution_turn_rad=plan.align_resolution_A / inputs.geometry.radius_A,
                local=_local_limits(inputs, group_band),
                tilt_range_rad=inputs.tilt_range_rad,
            )
            white = whitening(state, half, g, group_band)
            prepared = None
            for kind, batch in _batches_in_turn(inputs, state, group_band, rows, plan, optics):
                x, c = batch.x * white, batch.c * white
                own = _own_noise(
                    state, half, group_band, batch.rows, c, options.resolution_turn_rad
                )
                if kind in ("find", "search"):
                    known = (
                        poses_of(state.poses, batch.rows, group_band) if kind == "search" else None
                    )
                    prepared = prepared or prepare_search(
                        inputs, grid, group_band, white, rows, options, plan, half, events
                    )
                    found = align_globally(
                        grid, prepared.search, prepared.depth, group_band, x, c, inputs.group,
                        options, previous=known, own=None if known is None else own,
                    )  # fmt: skip
                    searched_A[torch.from_numpy(batch.rows)] = plan.align_resolution_A
                else:
                    start = poses_of(state.poses, batch.rows, group_band)
                    if kind == "keep":
                        # Poses that are only scored may lie anywhere.
                        anywhere = replace(options, max_shift_px=float(group_band.group.box_px))
                        found = score_poses(
                            grid, group_band, x, c, *start, inputs.group, anywhere, own=own
                        )
                    else:
                        found = align_locally(
                            grid, group_band, x, c, *start, inputs.group, options,
                            is_restarted=kind == "check", own=own,
                            others=_known_others(state.poses, batch.rows, group_band, options),
                        )  # fmt: skip
                found = found.cpu()
                if kind == "search":
                    # Where several poses are as likely, not to find one of them is no fault.
                    is_decided = found.n_effective < DECIDED
                    n_searched += int(is_decided.sum())
                    n_missed += int((found.is_missed & is_decided).sum())
                index = torch.from_numpy(batch.rows)
                if prior is not None and optics is not None and kind != "keep":
                    found, optics[index] = refine_batch(
                        inputs,
                        grid,
                        group_band,
                        batch.rows,
                        batch.x,
                        white,
                        found,
                        optics[index],
                        prior,
                        options,
                        start=poses_of(state.poses, batch.rows, group_band),
                    )
                rotations[index] = found.rotations
                shift_A[index] = found.shifts_px * group_band.group.pixel_A
                unit = torch.tensor([1.0] * 3 + [group_band.group.pixel_A] * 2, dtype=torch.float64)
                covariance[index] = found.covariance * unit * unit[:, None]
                power[index] = found.model_power
                other = found.alternatives
                others.append(
                    OtherPoses(
                        index[other.image_of],
                        other.rotations,
                        other.shifts_px * group_band.group.pixel_A,
                        other.probability,
                    )
                )
                _store(quality, index, n, found, group_band.group.pixel_A)
                done += len(batch.rows)
                events.emit("progress", stage=stage, done=done, total=n)
        group_scale.append(_updated_scale(inputs, state, half, quality["scale"], power))
        # References are damped where they are unsure: only ratios of amplitudes mean anything.
        mine = torch.from_numpy(inputs.half == half)
        score = quality["score"][mine]
        quality.setdefault("fit_z", torch.zeros(n, dtype=torch.float64))[mine] = fit_z(
            score, power[mine]
        )
        quality["scale"][mine] /= quality["scale"][mine].mean().clamp_min(1e-12)
        if optics is not None:
            optics[mine] = without_common_part(optics[mine])
    quality["searched_A"] = searched_A
    poses = Poses(rotations, shift_A, quality, covariance, optics, OtherPoses.join(others))
    badly = quality["fit_z"] < WORSE_THAN_RIGHT
    unsearched = torch.from_numpy(is_unsearched(poses, plan.align_resolution_A))
    quality["fits_nothing"] = (badly & ~unsearched).double()
    missed_fraction = shown_share(n_missed, n_searched) if n_searched else math.nan
    return poses, (group_scale[0], group_scale[1]), missed_fraction


def _known_others(
    poses: Poses | None, rows: np.ndarray, group_band: GroupBand, options: AlignmentOptions
) -> Alternatives | None:
    """Return poses that competed so far, unless the user limits how far poses may go."""
    limits = options.local
    is_free = math.isinf(limits.max_turn_rad) and math.isinf(limits.max_move_px)
    if poses is None or poses.others is None or not (is_free and limits.turns and limits.moves):
        return None
    others = poses.select(rows).others
    if others is None or len(others.row) == 0:
        return None
    device = group_band.points.device
    return Alternatives(
        others.row.to(device), others.rotations.to(device),
        others.shift_A.to(device) / group_band.group.pixel_A, others.probability.to(device),
    )  # fmt: skip


def _own_noise(
    state: State, half: int, group_band: GroupBand, rows: np.ndarray, c: Tensor, reach_rad: float
) -> OwnNoise | None:
    """Return what the poses of some particles gain by their images' noise in the reference."""
    if state.own_share is None or state.poses is None or "weight" not in state.poses.quality:
        return None
    poses = state.poses.select(rows)
    weight = poses.quality["weight"].nan_to_num(0.0)
    bonus = own_bonus(state.own_share[half - 1], group_band, c, weight)
    rotations, share = _inserted(poses)
    return OwnNoise(rotations.to(c.device), bonus[:, None] * share.to(bonus), reach_rad)


def _inserted(poses: Poses) -> tuple[Float[Tensor, "b k 3 3"], Float[Tensor, "b k"]]:
    """Return all poses of particles, the best first, and their shares of the weight."""
    first = poses.quality["probability"].nan_to_num(1.0)
    if poses.others is None or len(poses.others.row) == 0:
        return poses.rotations[:, None], torch.ones_like(first)[:, None]
    row = poses.others.row
    counts = torch.bincount(row, minlength=len(first))
    rank = torch.arange(len(row)) - (counts.cumsum(0) - counts)[row] + 1
    k = int(counts.max()) + 1
    rotations = poses.rotations[:, None].expand(-1, k, 3, 3).clone()
    share = torch.zeros(len(first), k, dtype=torch.float64)
    share[:, 0] = first
    rotations[row, rank], share[row, rank] = poses.others.rotations, poses.others.probability
    return rotations, share


def _updated_scale(
    inputs: Inputs, state: State, half: int, scale: Tensor, power: Tensor
) -> tuple[float, ...]:
    """Return the optics groups' amplitudes, from their particles' least-squares amplitudes."""
    cross_g, power_g, counts = [], [], []
    for g, old in enumerate(state.group_scale[half - 1]):
        rows = torch.from_numpy(inputs.rows(half, g))
        # The measured amplitude is relative to a model that had the old one.
        cross_g.append(old * float((scale[rows] * power[rows]).sum()))
        power_g.append(float(power[rows].sum()))
        counts.append(len(rows))
    return common_factor(np.array(cross_g), np.array(power_g), np.array(counts))[1]


def _store(
    quality: dict[str, Tensor], index: Tensor, n: int, found: BatchPoses, pixel_A: float
) -> None:
    """Put a batch's quality measures into full-length columns."""
    columns = {
        "score": found.score,
        "gap": found.gap,
        "n_effective": found.n_effective,
        "probability": found.probability,
        "correlation": found.correlation,
        "scale": found.scale,
        "sigma_rotation_deg": torch.rad2deg(found.sigma_rotation_rad),
        "sigma_shift_A": found.sigma_shift_px * pixel_A,
        "at_shift_limit": found.at_edge.double(),
        "at_tilt_limit": found.at_tilt_limit.double(),
    }
    for name, values in columns.items():
        if name not in quality:
            quality[name] = torch.zeros(n, dtype=torch.float64)
        quality[name][index] = values.double()
