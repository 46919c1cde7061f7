"""Decide what the next iteration does, from what the last ones showed. Pure functions."""

import math

from cryorefine.refine.plan import Geometry, IterationPlan, IterationRecord, Mode
from cryorefine.refine.settings import RefineSettings

__all__ = ["next_plan"]

_BEYOND_RESOLUTION = 0.9
_FASTEST_GAIN, _FASTEST_LOCAL_GAIN = 0.5, 0.8
_REACH = 1.6
_MANY_MISSED, _MORE_EFFORT, _MAX_EFFORT = 0.01, 3, 9
_SETTLED_FRACTION = 0.01
_UNDECIDED_FRACTION = 0.05
_SMALL_GAIN = 0.01
"""Share by which the mean FSC must rise for an iteration to have gained something."""

_UNDECIDED_GAIN = 0.005
"""The same where many particles are undecided: each search lets some of them find their poses. With
0.01 C1 at SNR 0.005 ends at 67.5 instead of 68.2 % within 5°, 7.96 instead of 7.80 Å."""

_STALLED, _STILL_SEARCH, _STILL = 3, 0.35, 0.75
_FEW_JUMP, _TURNS = 0.2, 3
_FIRST_PARTICLES, _NEARLY_ALL = 1000, 0.7
_FIXED_LOCAL_SHARE = 0.4
_MAY_STAY = 0.001
"""Particles that may be left unsearched although they fit badly, where a run ends: as many right
poses score so low by chance."""


def next_plan(
    settings: RefineSettings,
    geometry: Geometry,
    history: list[IterationRecord],
    *,
    before: IterationRecord | None = None,
    start_A: float = math.nan,
) -> IterationPlan | None:
    """Return what to do next, or None if the run is complete.

    ``before`` is the last record of an earlier run that this one continues with other settings:
    its resolution is where this one starts. Without it that is ``start_A``, the resolution of the
    half maps of the given poses, or the initial low-pass where that is NaN.

    Resolution: the next alignment looks a tenth beyond the last resolution, and at most twice as
    fine as the last alignment; or what the user's list says. Mode: automatic runs search globally
    until fewer than 1 % of the particles are seen to jump, and nearly all are decided or the last
    iteration gained next to nothing; or three in a row have gained nothing and moved most particles
    by far less than their accuracy; then locally. Once fewer than 20 % jump, a third of the
    particles is searched at each iteration, in turn, while the others follow the references as they
    get better. Search: where it would have missed more than 1 % of the poses that are known and
    were the best still, the next one looks at everything with three times the operations, twice at
    most. Particles: the first iteration of an automatic run uses 1,000, each later one twice as
    many, for coarse references need no more. End: when neither half maps nor poses gain any more
    and the half maps are filled up to Nyquist, if need be by one more iteration. A fixed schedule
    keeps the first rule only: the last two fifths of its iterations are local.
    """
    done = len(history)
    if done >= settings.max_iterations or _ended(settings, history, geometry):
        return None
    mode = _mode(settings, history)
    is_mixed = settings.alignment == "stochastic"  # sums of all iterations must fit together
    first = 1 if before is None else before.iteration + 1
    last = history[-1] if history else before
    align = _align_resolution(settings, geometry, mode, first + done, last, start_A)
    is_last = done + 1 >= settings.max_iterations or _converged(settings, history)
    share = 1.0 if is_last else _share(settings, geometry, done)
    shells = geometry.box_A / align
    reach = max(_REACH * shells, shells + 10)
    nyquist_shell = geometry.box_A / geometry.nyquist_A
    return IterationPlan(
        iteration=first + done,
        mode=mode,
        align_resolution_A=align,
        # Grids of five dimensions: so many times the poses.
        search_finer=_effort(history) ** 0.2,
        rescues=settings.is_data_driven and not is_mixed,
        reconstruct_resolution_A=geometry.box_A
        / (nyquist_shell if is_last or is_mixed else min(nyquist_shell, reach)),
        search_every=_in_turn(settings, history, _FEW_JUMP),
        guard_every=_in_turn(settings, history, _SETTLED_FRACTION),
        share=share,
        subset=settings.stochastic_subset if is_mixed else None,
        is_last=is_last,
    )


def _align_resolution(
    settings: RefineSettings,
    geometry: Geometry,
    mode: Mode,
    iteration: int,
    last: IterationRecord | None,
    start_A: float,
) -> float:
    """Return the finest detail to compare poses at."""
    targets = settings.target_resolution
    start_A = settings.initial_lowpass_angstrom if math.isnan(start_A) else start_A
    if settings.alignment == "none" or not settings.multiresolution:
        align = geometry.nyquist_A
    elif targets:
        known_A = start_A if last is None else last.resolution_A
        gain = _FASTEST_LOCAL_GAIN if mode == "local" else _FASTEST_GAIN
        align = max(gain * known_A, targets[min(iteration, len(targets)) - 1])
    elif last is None:
        align = _BEYOND_RESOLUTION * start_A
    else:
        finest = _FASTEST_GAIN * last.align_resolution_A
        align = max(finest, _BEYOND_RESOLUTION * last.resolution_A)
    if math.isinf(align) and last is not None:
        align = last.align_resolution_A
    return min(max(align, geometry.nyquist_A), geometry.box_A / 3)


def _share(settings: RefineSettings, geometry: Geometry, done: int) -> float:
    """Return the share of the particles to use: all, or twice as many as the iteration before."""
    if not settings.is_data_driven:
        return 1.0
    share = _FIRST_PARTICLES * 2.0**done / geometry.n_particles
    return share if share < _NEARLY_ALL else 1.0


def _in_turn(settings: RefineSettings, history: list[IterationRecord], few: float) -> int:
    """Return whether all particles are looked at, or, where few jump, some in turn."""
    few_jump = bool(history) and history[-1].jumped_fraction < few
    return _TURNS if settings.is_data_driven and few_jump and not _grows(history) else 1


def _effort(history: list[IterationRecord]) -> float:
    """Return how many times the usual operations the next search takes."""
    too_many = sum(record.missed_fraction > _MANY_MISSED for record in history)
    return min(_MAX_EFFORT, _MORE_EFFORT**too_many)


def _grows(history: list[IterationRecord]) -> bool:
    """Tell whether the next search sees more than the last."""
    return _effort(history) > _effort(history[:-1])


def _mode(settings: RefineSettings, history: list[IterationRecord]) -> Mode:
    if settings.alignment == "stochastic":
        return "global"
    if settings.alignment != "automatic":
        return settings.alignment
    if not settings.is_data_driven:
        n_local = round(_FIXED_LOCAL_SHARE * settings.max_iterations)
        return "local" if len(history) >= settings.max_iterations - n_local else "global"
    if not history:
        return "global"
    if history[-1].mode == "local":
        return "local"
    if history[-1].share < 1:
        return "global"
    if _grows(history):
        return "global"
    # A better reference may decide between the poses of those that are not decided.
    is_better = _gained(history, _UNDECIDED_GAIN) or not _turned(history[-1]) < _STILL
    is_settled = history[-1].jumped_at_least < _SETTLED_FRACTION and not (
        is_better and history[-1].undecided_fraction >= _UNDECIDED_FRACTION
    )
    is_still = _stalled(history, _STALLED) and _turned(history[-1]) < _STILL_SEARCH
    return "local" if is_settled or is_still else "global"


def _stalled(history: list[IterationRecord], n: int) -> bool:
    """Tell whether none of the last n iterations gained anything."""
    return len(history) > n and not any(_gained(history[: len(history) - i]) for i in range(n))


def _gained(history: list[IterationRecord], least: float = _SMALL_GAIN) -> bool:
    """Tell whether the last iteration's half maps agree better than all before them."""
    before = max((h.mean_fsc for h in history[:-1] if h.mean_fsc > 0), default=0.0)
    return history[-1].mean_fsc > before * (1 + least)


def _turned(record: IterationRecord) -> float:
    """Return by how much poses turned, in units of what they are known to."""
    return record.median_turn_deg / max(record.median_sigma_rotation_deg, 1e-9)


def _converged(settings: RefineSettings, history: list[IterationRecord]) -> bool:
    """Tell whether the next iteration can be the last."""
    if not settings.is_data_driven or len(history) < 3 or _mode(settings, history) != "local":
        return False
    last = history[-1]
    return (
        not _gained(history)
        and _turned(last) < (_STILL if last.mode == "local" else _STILL_SEARCH)
        and last.unsearched_fraction <= _MAY_STAY
    )


def _is_filled(reconstruct_resolution_A: float, geometry: Geometry) -> bool:
    return reconstruct_resolution_A <= geometry.nyquist_A * (1 + 1e-6)


def _ended(settings: RefineSettings, history: list[IterationRecord], geometry: Geometry) -> bool:
    """Tell whether the last iteration was run as the last one, or did all that one would."""
    if not history:
        return False
    if history[-1].unsearched_fraction > _MAY_STAY and settings.is_data_driven:
        return False
    filled = _is_filled(history[-1].reconstruct_resolution_A, geometry)
    complete = filled and history[-1].mode == "local"
    return _converged(settings, history[:-1]) or (complete and _converged(settings, history))
