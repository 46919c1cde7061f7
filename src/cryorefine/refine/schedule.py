"""Decide what the next iteration does, from what the last ones showed. Pure functions."""

import math

from cryorefine.filaments.momentum import is_moving
from cryorefine.refine.policy import DEFAULT_POLICY, SchedulePolicy
from cryorefine.refine.resolution_offset import offset_limit_A
from cryorefine.settings import RefineSettings
from cryorefine.state.plan import Geometry, IterationPlan, IterationRecord, Mode

__all__ = ["next_plan"]


def next_plan(
    settings: RefineSettings,
    geometry: Geometry,
    history: list[IterationRecord],
    *,
    before: IterationRecord | None = None,
    start_A: float = math.nan,
    policy: SchedulePolicy = DEFAULT_POLICY,
) -> IterationPlan | None:
    """Return what to do next, or None if the run is complete.

    ``before`` is the last record of an earlier run that this one continues with other settings:
    its resolution is where this one starts. Without it that is ``start_A``, the resolution of the
    half maps of the given poses, or the initial low-pass where that is NaN. ``policy`` has the
    numbers; those named here are its defaults.

    Resolution: the next alignment looks a tenth beyond the last resolution, and at most twice as
    fine as the last alignment; or what the user's list says; with a negative offset it looks as far
    as references reach. Mode: automatic runs search globally
    until fewer than 1 % of the particles are seen to jump, and nearly all are decided or the last
    iteration gained next to nothing; or three in a row have gained nothing and moved most particles
    by far less than their accuracy; then locally. Poses that are known to no better than a radian
    count as moving. Once fewer than 20 % jump, a third of the
    particles is searched at each iteration, in turn, while the others follow the references as they
    get better. Search: where it would have missed more than 1 % of the poses that are known and
    were the best still, the next one takes three times the operations, twice at most, and looks at
    all that are doubtful beside those whose turn it is. Particles: the first iteration of an
    automatic run uses 1,000, each later one twice as many, for coarse references need no more. End:
    when neither half maps nor poses gain any more and the half maps are filled up to Nyquist, if
    need be by one more iteration. A fixed schedule keeps the first rule only: the last two fifths
    of its iterations are local.
    """
    done = len(history)
    if done >= settings.max_iterations or _ended(settings, history, geometry, policy):
        return None
    mode = _mode(settings, history, policy)
    is_mixed = settings.alignment == "stochastic"  # sums of all iterations must fit together
    first = 1 if before is None else before.iteration + 1
    last = history[-1] if history else before
    align = _align_resolution(settings, geometry, mode, first + done, last, start_A, policy)
    is_last = done + 1 >= settings.max_iterations or _converged(settings, history, policy)
    share = 1.0 if is_last else _share(settings, geometry, done, policy)
    shells = geometry.box_A / align
    reach = max(policy.reach * shells, shells + policy.reach_shells)
    nyquist_shell = geometry.box_A / geometry.nyquist_A
    return IterationPlan(
        iteration=first + done,
        mode=mode,
        align_resolution_A=align,
        # Grids of five dimensions: so many times the poses.
        search_finer=_effort(history, policy) ** 0.2,
        rescues=settings.is_data_driven and not is_mixed,
        reconstruct_resolution_A=geometry.box_A
        / (nyquist_shell if is_last or is_mixed else min(nyquist_shell, reach)),
        search_every=_in_turn(settings, history, policy.few_jump, policy),
        guard_every=_in_turn(settings, history, policy.settled_fraction, policy),
        share=share,
        subset=settings.stochastic_subset if is_mixed else None,
        is_last=is_last,
        searches_doubtful=_grows(history, policy),
    )


def _align_resolution(
    settings: RefineSettings,
    geometry: Geometry,
    mode: Mode,
    iteration: int,
    last: IterationRecord | None,
    start_A: float,
    policy: SchedulePolicy,
) -> float:
    """Return the finest detail to compare poses at."""
    targets = settings.target_resolution
    start_A = settings.initial_lowpass_angstrom if math.isnan(start_A) else start_A
    if settings.alignment == "none" or not settings.multiresolution:
        align = geometry.nyquist_A
    elif targets:
        known_A = start_A if last is None else last.resolution_A
        gain = policy.fastest_local_gain if mode == "local" else policy.fastest_gain
        align = max(gain * known_A, targets[min(iteration, len(targets)) - 1])
    elif last is None:
        align = policy.beyond_resolution * start_A
    else:
        finest = policy.fastest_gain * last.align_resolution_A
        wanted = policy.beyond_resolution * last.resolution_A
        limit_A = offset_limit_A(settings, last.resolution_A, geometry.nyquist_A, policy)
        # A reference that reaches further is of use only where poses are compared that far.
        align = max(finest, wanted if limit_A is None else min(wanted, limit_A))
    if math.isinf(align) and last is not None:
        align = last.align_resolution_A
    return min(max(align, geometry.nyquist_A), geometry.box_A / policy.coarsest_shells)


def _share(
    settings: RefineSettings, geometry: Geometry, done: int, policy: SchedulePolicy
) -> float:
    """Return the share of the particles to use: all, or more than in the iteration before."""
    if not settings.is_data_driven:
        return 1.0
    share = policy.first_particles * policy.share_growth**done / geometry.n_particles
    return share if share < policy.nearly_all else 1.0


def _in_turn(
    settings: RefineSettings,
    history: list[IterationRecord],
    few: float,
    policy: SchedulePolicy,
) -> int:
    """Return whether all particles are looked at, or, where few jump, some in turn."""
    few_jump = bool(history) and history[-1].jumped_fraction < few
    return policy.turns if settings.is_data_driven and few_jump else 1


def _effort(history: list[IterationRecord], policy: SchedulePolicy) -> float:
    """Return how many times the usual operations the next search takes."""
    too_many = sum(record.missed_fraction > policy.many_missed for record in history)
    return min(policy.max_effort, policy.more_effort**too_many)


def _grows(history: list[IterationRecord], policy: SchedulePolicy) -> bool:
    """Tell whether the next search sees more than the last."""
    return _effort(history, policy) > _effort(history[:-1], policy)


def _mode(settings: RefineSettings, history: list[IterationRecord], policy: SchedulePolicy) -> Mode:
    if settings.alignment == "stochastic":
        return "global"
    if settings.alignment != "automatic":
        return settings.alignment
    if not settings.is_data_driven:
        n_local = round(policy.fixed_local_share * settings.max_iterations)
        return "local" if len(history) >= settings.max_iterations - n_local else "global"
    if not history:
        return "global"
    if history[-1].mode == "local":
        return "local"
    if history[-1].share < 1:
        return "global"
    if _grows(history, policy):
        return "global"
    # A better reference may decide between the poses of those that are not decided.
    is_better = (
        _gained(history, policy.undecided_gain) or not _turned(history[-1], policy) < policy.still
    )
    is_settled = history[-1].jumped_at_least < policy.settled_fraction and not (
        is_better and history[-1].undecided_fraction >= policy.undecided_fraction
    )
    is_still = _stalled(history, policy) and _turned(history[-1], policy) < policy.still_search
    return "local" if is_settled or is_still else "global"


def _stalled(history: list[IterationRecord], policy: SchedulePolicy) -> bool:
    """Tell whether none of the last iterations, of as many as the policy says, gained anything."""
    n = policy.stalled_iterations
    return len(history) > n and not any(
        _gained(history[: len(history) - i], policy.small_gain) for i in range(n)
    )


def _gained(history: list[IterationRecord], least: float) -> bool:
    """Tell whether the last iteration's half maps agree better than all before them."""
    before = max((h.mean_fsc for h in history[:-1] if h.mean_fsc > 0), default=0.0)
    return history[-1].mean_fsc > before * (1 + least)


def _turned(record: IterationRecord, policy: SchedulePolicy) -> float:
    """Return by how much poses turned, in units of what they are known to; infinity if unknown."""
    if record.median_sigma_rotation_deg > policy.unknown_deg:
        return math.inf  # Rotations at random are smaller than an uncertainty of all directions.
    return record.median_turn_deg / max(record.median_sigma_rotation_deg, 1e-9)


def _converged(
    settings: RefineSettings, history: list[IterationRecord], policy: SchedulePolicy
) -> bool:
    """Tell whether the next iteration can be the last."""
    if not settings.is_data_driven or len(history) < policy.least_iterations:
        return False
    if _mode(settings, history, policy) != "local":
        return False
    if is_moving([record.helix for record in history]):
        return False
    last = history[-1]
    return (
        not _gained(history, policy.small_gain)
        and _turned(last, policy) < (policy.still if last.mode == "local" else policy.still_search)
        and last.unsearched_fraction <= policy.may_stay
    )


def _is_filled(reconstruct_resolution_A: float, geometry: Geometry) -> bool:
    # Nyquist itself comes back from shells with rounding.
    return reconstruct_resolution_A <= geometry.nyquist_A * (1 + 1e-6)


def _ended(
    settings: RefineSettings,
    history: list[IterationRecord],
    geometry: Geometry,
    policy: SchedulePolicy,
) -> bool:
    """Tell whether the last iteration was run as the last one, or did all that one would."""
    if not history:
        return False
    if history[-1].unsearched_fraction > policy.may_stay and settings.is_data_driven:
        return False
    filled = _is_filled(history[-1].reconstruct_resolution_A, geometry)
    complete = filled and history[-1].mode == "local"
    return _converged(settings, history[:-1], policy) or (
        complete and _converged(settings, history, policy)
    )
