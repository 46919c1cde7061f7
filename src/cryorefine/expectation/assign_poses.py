"""Find every particle's pose against its own half's reference."""

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from cryorefine.assign.align import AlignmentOptions, LocalLimits, can_be_tilted
from cryorefine.assign.own_noise import NoiseInReference, spread_A2
from cryorefine.assign.particle_optics import N_VALUES, OpticsPrior
from cryorefine.engine.blocks import Block, Rows, plan_blocks, rows_in_order
from cryorefine.engine.progress import progress_of
from cryorefine.engine.protocol import Engine
from cryorefine.events import EventLog
from cryorefine.expectation.find_poses import FindPoses, FoundPoses
from cryorefine.expectation.grey_scale import believed_sums, common_factor
from cryorefine.expectation.optics_refinement import optics_prior, without_common_part
from cryorefine.expectation.search_plan import PreparedSearch, PrepareSearch, pose_space
from cryorefine.filaments.poses import axis_prior, helical_step
from cryorefine.kernels.grid import SliceGrid
from cryorefine.model.observe import GroupBand
from cryorefine.state.particle_batches import (
    HalfOptics,
    both_optics,
    is_assigned,
    particle_stack,
    rows_by_geometry,
)
from cryorefine.state.plan import IterationPlan, shown_share
from cryorefine.state.scores import measured
from cryorefine.state.state import Inputs, Poses, State
from cryorefine.weigh.fit import fit_z

__all__ = ["DECIDED", "WORSE_THAN_RIGHT", "Assignment", "assign_poses", "is_unsearched"]

WORSE_THAN_RIGHT = -3.0
"""Standard deviations below what a right pose scores: one right pose in 700 lies there."""

DECIDED = 1.5
"""Effective number of poses below which one of them is the likeliest by far."""

_SURE, _AS_RIGHT = 0.95, -1.0
"""Probability of a pose, and standard deviations beside what a right pose scores, from which on it
needs no finer search: of apoferritin's particles that came to another pose and were decided there,
80 % were below, and of all half (``docs/decisions.md``, "Finer searches take the doubtful")."""

_AS_FINE = 1.2
"""A search at less than this many times the present resolution need not be repeated."""


@dataclass(frozen=True, eq=False)
class Assignment:
    """What an iteration found of the particles' poses.

    Attributes
    ----------
    poses
        Of all particles.
    group_scale
        Amplitudes of the optics groups by half, measured at these poses.
    missed_fraction
        Of the particles that were searched, how many, at least, kept a pose which the search alone
        would have missed; NaN where none was searched that had one.
    n_aligned
        Particles that were compared with a reference, and did not just keep their pose.
    """

    poses: Poses
    group_scale: tuple[tuple[float, ...], tuple[float, ...]]
    missed_fraction: float
    n_aligned: int


def assign_poses(
    inputs: Inputs,
    state: State,
    grids: tuple[SliceGrid, SliceGrid],
    plan: IterationPlan,
    events: EventLog,
    engine: Engine,
) -> Assignment:
    """Find every particle's pose against its own half's reference."""
    optics = both_optics(inputs, state, plan.align_resolution_A)
    parts = [
        Rows(half, part.geometry, action, part.rows[chosen])
        for half in (1, 2)
        for part in rows_by_geometry(inputs.table, inputs.half, optics[half - 1], half)
        for action, chosen in _actions(inputs, state, part.rows, plan).items()
    ]
    options = _alignment_options(inputs, state, optics, plan)
    prior = _prior(inputs, plan) if plan.mode == "local" else None
    search = PrepareSearch(
        table=inputs.table.without_labels(),
        optics=optics,
        grids=grids,
        space=replace(pose_space(inputs), step=helical_step(inputs, state)),
        options=options,
        plan=plan,
        seed=inputs.settings.seed,
    )
    values = None if state.poses is None else state.poses.optics
    if prior is not None and values is None:
        values = torch.zeros(len(inputs.table), N_VALUES, dtype=torch.float64)
    task = FindPoses(
        stack=particle_stack(inputs),
        optics=optics,
        grids=grids,
        searches=_searches(inputs, search, parts, events, engine),
        options=options,
        symmetry=inputs.group,
        poses=state.poses,
        noise=_own_noise(inputs, state),
        values=values,
        prior=prior,
        axis=axis_prior(inputs),
    )
    stage = "scoring" if plan.mode == "none" else f"aligning ({plan.mode})"
    done = progress_of(stage, events, len(inputs.table))
    blocks = plan_blocks(parts, smallest=inputs.working_memory.smallest_block)
    found = FoundPoses.join(engine.map(task, blocks, done))
    order = rows_in_order(blocks)
    poses = found.poses.select(order)
    power = found.model_power[torch.from_numpy(order)]
    missed_fraction = _missed_fraction(blocks, found)
    return _completed(inputs, state, poses, power, blocks, missed_fraction, plan)


def _own_noise(inputs: Inputs, state: State) -> tuple[NoiseInReference, NoiseInReference] | None:
    """Return how references hold the noise of their images, by half."""
    if state.own_share is None:
        return None
    first, second = (
        NoiseInReference(share, spread_A2(reference.square(), inputs.voxel_A))
        for share, reference in zip(state.own_share, state.references, strict=True)
    )
    return first, second


def _prior(inputs: Inputs, plan: IterationPlan) -> OpticsPrior | None:
    """Return what is refined beside poses."""
    has_defocus = any(g.has_ctf for g in inputs.optics) and not any(
        g.correction == "premultiplied" for g in inputs.optics
    )
    return optics_prior(inputs.settings, is_last=plan.is_last, has_defocus=has_defocus)


def _actions(
    inputs: Inputs, state: State, rows: np.ndarray, plan: IterationPlan
) -> dict[str, np.ndarray]:
    """Return which of some particles what is done with; see :class:`FindPoses`."""
    is_searched = plan.is_searched(len(inputs.table))[rows]
    is_known = is_assigned(state, len(inputs.table))[rows]
    if plan.mode == "global":
        is_searched |= ~is_known
        if plan.searches_doubtful and state.poses is not None:
            is_searched |= _is_doubtful(state.poses)[rows]
    if plan.rescues and state.poses is not None:
        is_searched |= is_unsearched(state.poses, plan.align_resolution_A)[rows]
    # From outside the tilt limits poses would end on them, far from where the particle is seen.
    is_outside = ~_can_be_seen(inputs, state, rows)
    if plan.rescues or plan.mode == "global":
        is_searched |= is_outside
    is_kept = (is_outside & ~is_searched) | (plan.mode == "none")
    is_restarted = plan.is_restarted(len(inputs.table))[rows]
    return {
        "keep": is_kept,
        "find": is_searched & ~is_known,
        "search": is_searched & is_known,
        "check": ~is_searched & ~is_kept & is_restarted,
        "follow": ~is_searched & ~is_kept & ~is_restarted,
    }


def _can_be_seen(inputs: Inputs, state: State, rows: np.ndarray) -> np.ndarray:
    """Tell which particles have no pose, or one within the tilt limits or with a copy there."""
    if state.poses is None:
        return np.ones(len(rows), bool)
    known = ~inputs.table.lacks_pose[rows] | is_assigned(state, len(inputs.table))[rows]
    rotations = state.poses.rotations[torch.from_numpy(rows)]
    return ~known | can_be_tilted(rotations, inputs.group, inputs.tilt_range_rad).numpy()


def _is_doubtful(poses: Poses) -> np.ndarray:
    """Tell which particles' poses are not the only likely one, or fit less well than most."""
    probability, fit = poses.scores.probability, poses.scores.fit_z
    if probability is None or fit is None:
        return np.ones(len(poses.rotations), bool)
    # A comparison with NaN is false: what was not measured is not sure.
    return ~((probability >= _SURE) & (fit >= _AS_RIGHT)).numpy()


def is_unsearched(poses: Poses, align_resolution_A: float) -> np.ndarray:
    """Tell which particles fit worse than they should and were never searched this finely."""
    if poses.scores.fit_z is None:
        return np.zeros(len(poses.rotations), bool)
    is_searched = measured(poses.scores.searched_A) <= align_resolution_A * _AS_FINE
    return ((poses.scores.fit_z < WORSE_THAN_RIGHT) & ~is_searched).numpy()


def _alignment_options(
    inputs: Inputs, state: State, optics: tuple[HalfOptics, HalfOptics], plan: IterationPlan
) -> dict[tuple[int, int], AlignmentOptions]:
    """Return how images are aligned, by half and geometry."""
    space, out = pose_space(inputs), {}
    for half, half_optics in enumerate(optics, 1):
        sigma_A = _shift_sigma_A(inputs, state, half)
        for geometry in set(half_optics.geometry_of):
            band = half_optics.band_of(geometry)
            out[half, geometry] = AlignmentOptions(
                max_shift_px=space.max_shift_px(band),
                shift_sigma_px=sigma_A / band.group.pixel_A,
                resolution_turn_rad=plan.align_resolution_A / inputs.geometry.radius_A,
                local=_local_limits(inputs, band),
                tilt_range_rad=inputs.tilt_range_rad,
                step=helical_step(inputs, state, band.group.pixel_A),
            )
    return out


def _searches(
    inputs: Inputs, task: PrepareSearch, parts: list[Rows], events: EventLog, engine: Engine
) -> dict[tuple[int, int], PreparedSearch]:
    """Prepare the searches that some particles need, by half and geometry."""
    needed = sorted(
        {(p.half, p.geometry) for p in parts if len(p.rows) and p.action in ("find", "search")}
    )
    blocks = []
    for half, geometry in needed:
        part = rows_by_geometry(inputs.table, inputs.half, task.optics[half - 1], half)[geometry]
        blocks.append(Block(half, geometry, "prepare", part.rows))
    searches = dict(zip(needed, engine.map(task, blocks), strict=True))
    for prepared in searches.values():
        for attempt in prepared.attempts:
            events.emit(attempt)
    return searches


def _missed_fraction(blocks: list[Block], found: FoundPoses) -> float:
    """Return the share of searched particles that the search alone would have missed."""
    is_searched = torch.cat(
        [torch.full((len(block.rows),), block.action == "search") for block in blocks]
    )
    # Where several poses are as likely, not to find one of them is no fault.
    counted = is_searched & (measured(found.poses.scores.n_effective) < DECIDED)
    n_searched, n_missed = int(counted.sum()), int((found.is_missed & counted).sum())
    return shown_share(n_missed, n_searched) if n_searched else math.nan


def _completed(
    inputs: Inputs,
    state: State,
    poses: Poses,
    power: Float[Tensor, "n"],
    blocks: list[Block],
    missed_fraction: float,
    plan: IterationPlan,
) -> Assignment:
    """Add what is only known of all particles of a half together."""
    n = len(inputs.table)
    score, scale = measured(poses.scores.score), measured(poses.scores.scale).clone()
    fit, values = torch.zeros(n, dtype=torch.float64), poses.optics
    group_scale = []
    for half in (1, 2):
        group_scale.append(_updated_scale(inputs, state, half, scale, power))
        mine = torch.from_numpy(inputs.half == half)
        fit[mine] = fit_z(score[mine], power[mine])
        # References are damped where they are unsure: only ratios of amplitudes mean anything.
        scale[mine] /= scale[mine].mean().clamp_min(1e-12)
        if values is not None:
            values[mine] = without_common_part(values[mine])
    searched_A = _searched_A(state, blocks, n, plan)
    scores = poses.scores.replace(scale=scale, fit_z=fit, searched_A=searched_A)
    poses = replace(poses, scores=scores, optics=values)
    unsearched = torch.from_numpy(is_unsearched(poses, plan.align_resolution_A))
    fits_nothing = ((fit < WORSE_THAN_RIGHT) & ~unsearched).double()
    poses = replace(poses, scores=scores.replace(fits_nothing=fits_nothing))
    n_aligned = sum(len(block.rows) for block in blocks if block.action != "keep")
    return Assignment(poses, (group_scale[0], group_scale[1]), missed_fraction, n_aligned)


def _searched_A(
    state: State, blocks: list[Block], n: int, plan: IterationPlan
) -> Float[Tensor, "n"]:
    """Return the resolution at which particles were last searched; NaN if they never were."""
    searched_A = torch.full((n,), math.nan, dtype=torch.float64)
    if state.poses is not None and state.poses.scores.searched_A is not None:
        searched_A = state.poses.scores.searched_A.clone()
    for block in blocks:
        if block.action in ("find", "search"):
            searched_A[torch.from_numpy(block.rows)] = plan.align_resolution_A
    return searched_A


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
        sigma_A = state.shift_sigma_A[half - 1]
        return limit if math.isnan(sigma_A) else min(limit, max(inputs.voxel_A, sigma_A))
    mine = torch.from_numpy(known)
    scores = state.poses.scores
    fit = measured(scores.score if scores.fit_z is None else scores.fit_z)[mine]
    shift_A = state.poses.shift_A[mine][fit >= fit.median()]
    # At least a pixel: a prior never pulls harder than the data were sampled.
    return float((shift_A.square().sum(1).mean() / 2).sqrt().clamp(inputs.voxel_A, limit))


def _updated_scale(
    inputs: Inputs, state: State, half: int, scale: Tensor, power: Tensor
) -> tuple[float, ...]:
    """Return the optics groups' amplitudes, from their particles' least-squares amplitudes."""
    mine = inputs.half == half
    groups = inputs.table.optics_index[mine]
    power_i = power[torch.from_numpy(mine)].numpy()
    # The measured amplitude is relative to a model that had the old one.
    old = np.array(state.group_scale[half - 1])[groups]
    cross_i = old * scale[torch.from_numpy(mine)].numpy() * power_i
    counts = np.bincount(groups, minlength=len(inputs.optics))
    cross_g, power_g = believed_sums(cross_i, power_i, groups, counts)
    return common_factor(cross_g, power_g, counts)[1]
