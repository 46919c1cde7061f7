import dataclasses
import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from cryorefine.refine.policy import DEFAULT_POLICY, SchedulePolicy
from cryorefine.refine.resolution_offset import offset_limit_A
from cryorefine.refine.schedule import next_plan
from cryorefine.settings import make_settings
from cryorefine.state.plan import Geometry, shown_share
from tests.builders import make_record

GEOMETRY = Geometry(box_A=320.0, nyquist_A=2.5, radius_A=90.0, max_shift_A=32.0, group_order=1)


def chosen(**values):
    return make_settings({"particles": "p.star", "reference": ["m.mrc"], **values})


def settled(iteration, **changes):
    """Return a local iteration whose poses hardly moved."""
    values = {
        "mode": "local",
        "resolution_A": 5.0,
        "align_resolution_A": 4.5,
        "median_turn_deg": 0.1,
        "jumped_fraction": 0.0,
        "median_sigma_rotation_deg": 1.0,
    }
    return make_record(iteration, **{**values, **changes})


geometries = st.builds(
    lambda box_px, voxel_A, radius, shift, order, tilt: Geometry(
        box_A=box_px * voxel_A,
        nyquist_A=2 * voxel_A,
        radius_A=radius * box_px * voxel_A,
        max_shift_A=shift * box_px * voxel_A,
        group_order=order,
        tilt_fraction=tilt,
    ),
    box_px=st.integers(16, 600),
    voxel_A=st.floats(0.3, 8),
    radius=st.floats(0.05, 0.5),
    shift=st.floats(0.001, 0.5),
    order=st.sampled_from([1, 2, 14, 24, 60]),
    tilt=st.floats(0.01, 1),
)


def test_the_first_iteration_aligns_a_tenth_beyond_what_given_poses_support():
    settings = chosen(alignment="local")
    assert next_plan(settings, GEOMETRY, [], start_A=8.0).align_resolution_A == pytest.approx(7.2)
    bound = chosen(alignment="local", target_resolution=(5.0,))
    assert next_plan(bound, GEOMETRY, [], start_A=8.0).align_resolution_A == pytest.approx(6.4)
    later = next_plan(settings, GEOMETRY, [make_record(1)], start_A=8.0)
    assert later == next_plan(settings, GEOMETRY, [make_record(1)])


@pytest.mark.parametrize("alignment", ["automatic", "global", "local"])
def test_the_first_iteration_aligns_a_tenth_beyond_the_initial_low_pass(alignment):
    plan = next_plan(chosen(alignment=alignment), GEOMETRY, [])
    assert plan.iteration == 1
    assert plan.align_resolution_A == pytest.approx(27.0)
    assert not plan.is_last
    assert plan.mode == ("local" if alignment == "local" else "global")


@pytest.mark.parametrize(("lowpass_A", "align_A"), [(0.1, 2.5), (1e6, 320 / 3)])
def test_the_first_alignment_stays_between_nyquist_and_a_third_of_the_box(lowpass_A, align_A):
    plan = next_plan(chosen(initial_lowpass_angstrom=lowpass_A), GEOMETRY, [])
    assert plan.align_resolution_A == pytest.approx(align_A)


def test_an_alignment_looks_a_tenth_beyond_the_last_resolution():
    history = [make_record(1, resolution_A=20.0, align_resolution_A=27.0)]
    assert next_plan(chosen(), GEOMETRY, history).align_resolution_A == pytest.approx(18.0)


def test_an_alignment_is_at_most_twice_as_fine_as_the_last():
    history = [make_record(1, resolution_A=3.0, align_resolution_A=27.0)]
    assert next_plan(chosen(), GEOMETRY, history).align_resolution_A == pytest.approx(13.5)


def test_an_alignment_becomes_coarser_again_if_the_resolution_does():
    history = [make_record(1, resolution_A=30.0, align_resolution_A=15.0)]
    assert next_plan(chosen(), GEOMETRY, history).align_resolution_A == pytest.approx(27.0)


def test_an_alignment_is_never_finer_than_nyquist():
    history = [make_record(1, resolution_A=2.5, align_resolution_A=2.6)]
    assert next_plan(chosen(), GEOMETRY, history).align_resolution_A == pytest.approx(2.5)


def test_halves_that_do_not_agree_at_all_keep_the_last_alignment():
    history = [make_record(1, resolution_A=math.inf, align_resolution_A=27.0)]
    plan = next_plan(chosen(), GEOMETRY, history)
    assert plan.align_resolution_A == pytest.approx(27.0)
    assert math.isfinite(plan.reconstruct_resolution_A)


@pytest.mark.parametrize(
    ("jumped", "mode"), [(0.5, "global"), (0.01, "global"), (0.0099, "local"), (0.0, "local")]
)
def test_an_automatic_run_turns_local_when_fewer_than_1_percent_jumped(jumped, mode):
    history = [make_record(1), make_record(2, jumped_fraction=jumped)]
    assert next_plan(chosen(), GEOMETRY, history).mode == mode


@pytest.mark.parametrize(
    ("reason", "changes", "mode"),
    [
        ("nothing is gained", {}, "local"),
        ("the resolution gains", {"resolution_A": 7.0}, "global"),
        ("poses turn", {"median_turn_deg": 0.8}, "global"),
        ("many are seen to jump", {"jumped_at_least": 0.02}, "global"),
    ],
)
def test_a_run_with_undecided_particles_goes_local_once_nothing_is_gained(reason, changes, mode):
    values = {"resolution_A": 8.0, "undecided_fraction": 0.4, "median_turn_deg": 0.5,
              "jumped_fraction": 0.02, "jumped_at_least": 0.005}  # fmt: skip
    history = [make_record(1), make_record(2, **values)]
    assert next_plan(chosen(), GEOMETRY, history).mode == "global"
    history.append(make_record(3, **{**values, **changes}))
    assert next_plan(chosen(), GEOMETRY, history).mode == mode, reason


@pytest.mark.parametrize(("turn_deg", "is_last"), [(0.3, True), (0.4, False)])
def test_the_first_local_iteration_is_the_last_where_the_search_gained_nothing_and_stood_still(
    turn_deg, is_last
):
    still = {"resolution_A": 8.0, "jumped_fraction": 0.0, "median_turn_deg": turn_deg}
    history = [make_record(1), make_record(2, resolution_A=8.0), make_record(3, **still)]
    found = next_plan(chosen(), GEOMETRY, history)
    assert (found.mode, found.is_last) == ("local", is_last)


@given(st.integers(0, 500), st.integers(1, 500))
def test_a_share_is_shown_by_a_count_only_beyond_two_of_its_standard_deviations(count, more):
    found = shown_share(count, count + more)
    assert 0 <= found <= count / (count + more)
    assert (found > 0) == (count > 4)


def test_an_automatic_run_stays_global_while_nobody_can_tell_how_many_jumped():
    history = [make_record(1, jumped_fraction=math.nan, median_turn_deg=math.nan)]
    assert next_plan(chosen(), GEOMETRY, history).mode == "global"


def test_an_automatic_run_never_turns_back_from_local():
    history = [make_record(1), make_record(2, mode="local", jumped_fraction=0.9)]
    assert next_plan(chosen(), GEOMETRY, history).mode == "local"


@pytest.mark.parametrize(
    ("iterations", "n_global"), [(None, 3), (1, 1), (2, 1), (3, 2), (5, 3), (10, 6)]
)
@pytest.mark.parametrize("jumped", [0.0, 0.9])
def test_a_fixed_schedule_turns_local_for_the_last_two_fifths_whatever_happens(
    iterations, n_global, jumped
):
    settings = chosen(automatic_schedule="fixed", iterations=iterations)
    records = []
    while (plan := next_plan(settings, GEOMETRY, records)) is not None:
        assert (plan.search_every, plan.guard_every) == (1, 1)
        outcome = {"resolution_A": 5.0, "median_turn_deg": 0.0, "jumped_fraction": jumped}
        records.append(make_record(plan.iteration, mode=plan.mode, **outcome))
    assert len(records) == (iterations or 5)
    assert [r.mode for r in records[:n_global]] == ["global"] * n_global
    assert {r.mode for r in records[n_global:]} <= {"local"}


def test_a_settled_run_ends_with_one_last_iteration_up_to_nyquist():
    history = [make_record(1), settled(2), settled(3)]
    plan = next_plan(chosen(), GEOMETRY, history)
    assert plan.is_last
    assert plan.reconstruct_resolution_A == pytest.approx(2.5)
    assert next_plan(chosen(), GEOMETRY, [*history, settled(4)]) is None


@pytest.mark.parametrize("last", [{"resolution_A": 3.0}, {"median_turn_deg": 9.0}])
def test_the_last_iteration_is_the_last_even_if_it_gains_or_moves(last):
    history = [make_record(1), settled(2), settled(3)]
    assert next_plan(chosen(), GEOMETRY, [*history, settled(4, **last)]) is None


@pytest.mark.parametrize(
    ("reason", "changes"),
    [
        ("the resolution gains", {"resolution_A": 4.9}),
        ("the poses turn", {"median_turn_deg": 0.76}),
        ("particles jump", {"mode": "global", "jumped_fraction": 0.2}),
        ("nobody knows how far poses turned", {"median_turn_deg": math.nan}),
    ],
)
def test_a_run_goes_on_while(reason, changes):
    history = [make_record(1), settled(2), settled(3, **changes)]
    assert not next_plan(chosen(), GEOMETRY, history).is_last, reason


def test_a_gain_counts_against_the_best_resolution_so_far():
    history = [settled(1, resolution_A=4.0), settled(2, resolution_A=6.0), settled(3)]
    assert next_plan(chosen(), GEOMETRY, history).is_last


def test_two_iterations_are_too_few_to_end():
    assert not next_plan(chosen(), GEOMETRY, [settled(1), settled(2)]).is_last


def test_before_the_last_iteration_maps_are_filled_some_way_beyond_the_alignment():
    history = [make_record(1, resolution_A=20.0, align_resolution_A=27.0)]
    plan = next_plan(chosen(), GEOMETRY, history)
    shells = 320 / plan.align_resolution_A
    assert 320 / plan.reconstruct_resolution_A == pytest.approx(max(1.6 * shells, shells + 10))


@pytest.mark.parametrize("alignment", ["global", "local"])
@pytest.mark.parametrize("n", [None, 1, 5])
def test_global_and_local_runs_do_exactly_the_iterations_asked_for(alignment, n):
    settings = chosen(alignment=alignment, iterations=n)
    history = []
    while (plan := next_plan(settings, GEOMETRY, history)) is not None:
        assert plan.mode == alignment
        assert plan.is_last == (plan.iteration == (n or 3))
        history.append(settled(plan.iteration, mode=plan.mode))
    assert len(history) == (n or 3)


def test_poses_that_are_kept_are_scored_once_up_to_nyquist():
    settings = make_settings({"particles": "p.star", "alignment": "none"})
    plan = next_plan(settings, GEOMETRY, [])
    assert (plan.mode, plan.is_last) == ("none", True)
    assert plan.align_resolution_A == pytest.approx(2.5)
    assert next_plan(settings, GEOMETRY, [make_record(1, mode="none")]) is None


outcomes = st.tuples(
    st.floats(0.5, 500) | st.just(math.inf),
    st.floats(0, 180) | st.just(math.nan),
    st.floats(0, 1) | st.just(math.nan),
    st.floats(0, 30),
    st.floats(0, 1) | st.just(math.nan),
)


@hypothesis_settings(max_examples=150, deadline=None)
@given(
    geometry=geometries,
    history=st.lists(outcomes, min_size=30, max_size=30),
    most=st.none() | st.integers(1, 29),
    how=st.sampled_from(
        [
            {"alignment": "automatic"},
            {"alignment": "automatic", "automatic_schedule": "fixed"},
            {"alignment": "global"},
            {"alignment": "local"},
        ]
    ),
)
def test_whatever_the_iterations_show_a_run_ends_and_keeps_its_bounds(geometry, history, most, how):
    settings = chosen(**how, iterations=most)
    records, plans = [], []
    while (plan := next_plan(settings, geometry, records)) is not None:
        assert len(records) < settings.max_iterations
        resolution_A, turn, jumped, sigma, missed = history[len(records)]
        plans.append(plan)
        records.append(
            make_record(
                plan.iteration,
                mode=plan.mode,
                resolution_A=resolution_A,
                align_resolution_A=plan.align_resolution_A,
                reconstruct_resolution_A=plan.reconstruct_resolution_A,
                median_turn_deg=turn,
                jumped_fraction=jumped,
                median_sigma_rotation_deg=sigma,
                missed_fraction=missed,
            )
        )
    assert [s.iteration for s in plans] == list(range(1, len(plans) + 1))
    # A run also ends after an iteration that did all that a last one would.
    assert not any(s.is_last for s in plans[:-1])
    assert plans[-1].reconstruct_resolution_A == pytest.approx(geometry.nyquist_A)
    if not settings.is_data_driven:
        assert len(plans) == settings.max_iterations
    modes = [s.mode for s in plans]
    assert modes == sorted(modes)  # global, then local
    slack = 1 + 1e-6
    for s in plans:
        assert geometry.nyquist_A <= s.align_resolution_A * slack
        assert s.align_resolution_A <= geometry.box_A / 3 * slack
        assert geometry.nyquist_A <= s.reconstruct_resolution_A * slack
        assert s.reconstruct_resolution_A <= s.align_resolution_A * slack
        assert s.search_finer >= 1
    for before, after in pairwise(plans):
        assert after.align_resolution_A * slack >= before.align_resolution_A / 2


def test_once_few_particles_jump_a_third_is_searched_at_each_iteration_in_turn():
    many, few = make_record(1, jumped_fraction=0.4), make_record(1, jumped_fraction=0.1)
    settings = chosen()
    everything = next_plan(settings, GEOMETRY, [many])
    assert everything is not None
    assert everything.is_searched(10).all()
    turns = []
    for iteration in (1, 2, 3):
        record = dataclasses.replace(few, iteration=iteration)
        plan = next_plan(settings, GEOMETRY, [record] * iteration)
        assert plan is not None
        assert plan.mode == "global"
        turns.append(plan.is_searched(10))
    assert np.array(turns).sum(0).tolist() == [1] * 10


def test_a_run_does_not_end_while_badly_fitting_particles_are_unsearched():
    still = make_record(
        1, mode="local", resolution_A=4.0, align_resolution_A=4.0, reconstruct_resolution_A=4.0,
        median_turn_deg=0.01, jumped_fraction=0.0,
    )  # fmt: skip
    history = [dataclasses.replace(still, iteration=k + 1) for k in range(4)]
    geometry = dataclasses.replace(GEOMETRY, nyquist_A=4.0)
    assert next_plan(chosen(), geometry, history) is None
    history[-1] = dataclasses.replace(history[-1], unsearched_fraction=0.01)
    plan = next_plan(chosen(), geometry, history)
    assert plan is not None
    assert plan.rescues
    assert not next_plan(chosen(alignment="local"), geometry, []).rescues


def test_a_search_that_misses_poses_is_followed_by_finer_ones_over_all_doubtful_particles():
    history = [make_record(1, missed_fraction=math.nan, resolution_A=9.0)]
    steps = []
    for missed in (0.005, 0.011, 0.5, 0.5, 0.0):
        latest = make_record(len(history) + 1, missed_fraction=missed, jumped_fraction=0.0,
                             resolution_A=9.0, align_resolution_A=9.0)  # fmt: skip
        history.append(latest)
        plan = next_plan(chosen(), GEOMETRY, history)
        assert plan is not None
        steps.append((plan.mode, plan.searches_doubtful, plan.search_finer))
    finer = [effort**0.2 for effort in (1, 3, 9)]
    first, second, third, fourth, last = steps
    assert first == ("local", False, finer[0])  # hardly any missed, and nobody jumped
    assert second == ("global", True, finer[1])
    assert third == ("global", True, finer[2])
    assert fourth == last == ("local", False, finer[2])  # as fine as it gets


@pytest.mark.parametrize(("jumped", "times"), [(0.04, 3), (0.005, 1)])
def test_poses_are_restarted_in_turn_once_next_to_none_jumps(jumped, times):
    restarted = []
    for iteration in (1, 2, 3):
        record = settled(iteration, jumped_fraction=jumped, median_turn_deg=9.0)
        plan = next_plan(chosen(), GEOMETRY, [record] * iteration)
        assert plan is not None
        restarted.append(plan.is_restarted(10))
    assert np.array(restarted).sum(0).tolist() == [times] * 10


def test_alignment_global_searches_all_particles_whatever_they_do():
    settings = chosen(alignment="global", iterations=5)
    plan = next_plan(settings, GEOMETRY, [make_record(1, jumped_fraction=0.05)])
    assert plan is not None
    assert plan.is_searched(7).all()


def still(iteration, **changes):
    """Return a global iteration of which many particles jump while most stay where they were."""
    return make_record(
        iteration, resolution_A=8.0, median_turn_deg=0.2, jumped_fraction=0.1, **changes
    )


def test_a_search_that_gains_nothing_three_times_and_moves_little_goes_local():
    before = [make_record(1), make_record(2, resolution_A=8.0), still(3), still(4)]
    assert next_plan(chosen(), GEOMETRY, before).mode == "global"
    assert next_plan(chosen(), GEOMETRY, [*before, still(5)]).mode == "local"
    moving = dataclasses.replace(still(5), median_turn_deg=0.4)
    assert next_plan(chosen(), GEOMETRY, [*before, moving]).mode == "global"
    gaining = dataclasses.replace(still(5), mean_fsc=1 / 7.8)
    assert next_plan(chosen(), GEOMETRY, [*before, gaining]).mode == "global"


def test_a_converged_run_whose_half_maps_are_filled_ends_at_once():
    history = [make_record(1), settled(2), settled(3)]
    assert next_plan(chosen(), GEOMETRY, history) is not None
    history[-1] = settled(3, reconstruct_resolution_A=GEOMETRY.nyquist_A)
    assert next_plan(chosen(), GEOMETRY, history) is None


@pytest.mark.parametrize("reached_A", [5.0, 2.6])  # fills half maps by one more iteration, or not
@pytest.mark.parametrize("alignment", ["automatic", "local", "global"])
def test_every_run_ends_with_half_maps_filled_up_to_nyquist(alignment, reached_A):
    settings = chosen(alignment=alignment)
    history, last = [], None
    while (plan := next_plan(settings, GEOMETRY, history)) is not None:
        last = plan
        history.append(
            settled(
                plan.iteration,
                mode=plan.mode,
                resolution_A=reached_A,
                align_resolution_A=plan.align_resolution_A,
                reconstruct_resolution_A=plan.reconstruct_resolution_A,
            )
        )
    assert last is not None
    assert last.reconstruct_resolution_A == pytest.approx(GEOMETRY.nyquist_A)


def test_another_policy_takes_other_decisions_from_the_same_history():
    history = [make_record(n, jumped_fraction=0.02) for n in (1, 2, 3)]
    assert next_plan(chosen(), GEOMETRY, history).mode == "global"
    lenient = dataclasses.replace(DEFAULT_POLICY, settled_fraction=0.03)
    assert next_plan(chosen(), GEOMETRY, history, policy=lenient).mode == "local"


# What a record shows where poses have no information: nobody is decided, so that nobody jumps.
LOST = {
    "median_turn_deg": 60.0,
    "jumped_fraction": 0.0,
    "undecided_fraction": 1.0,
    "median_sigma_rotation_deg": 100.0,
}


def test_poses_that_are_not_known_do_not_stand_still():
    before = make_record(1, mean_fsc=0.5)
    lost = make_record(2, mean_fsc=0.4, **LOST)
    assert next_plan(chosen(), GEOMETRY, [before, lost]).mode == "global"
    # The same movement, in units of what the poses are known to.
    known = dataclasses.replace(lost, median_turn_deg=30.0, median_sigma_rotation_deg=50.0)
    assert next_plan(chosen(), GEOMETRY, [before, known]).mode == "local"


# Histories that between them come to every decision.
HISTORIES = [
    [],
    [make_record(1, share=0.5)],
    [make_record(1), make_record(2, jumped_fraction=0.1, missed_fraction=0.005)],
    [make_record(1), make_record(2, missed_fraction=0.05)],
    [make_record(n, missed_fraction=0.05) for n in (1, 2, 3)],
    [make_record(n, jumped_fraction=0.0, undecided_fraction=0.07) for n in (1, 2)],
    [make_record(n, mean_fsc=0.5, median_turn_deg=0.3) for n in (1, 2, 3, 4, 5)],
    [make_record(1), settled(2, mean_fsc=0.5), settled(3, mean_fsc=0.5)],
    [make_record(1, mean_fsc=0.5), settled(2, mean_fsc=0.5, median_turn_deg=0.6)] * 2,
    [make_record(1, mean_fsc=0.5, median_turn_deg=0.4, jumped_fraction=0.0)] * 3,
    [make_record(1), *(settled(n, mean_fsc=0.5, unsearched_fraction=0.0005) for n in (2, 3, 4))],
    [make_record(n, jumped_fraction=0.02) for n in (1, 2)],
    [
        make_record(1, mean_fsc=0.5),
        make_record(
            2, mean_fsc=0.504, jumped_fraction=0.0, undecided_fraction=0.07, median_turn_deg=0.4
        ),
    ],
    [make_record(1, mean_fsc=0.5), settled(2, mean_fsc=0.5), settled(3, mean_fsc=0.504)],
    [make_record(1, mean_fsc=0.5), make_record(2, mean_fsc=0.5, **LOST)],
]


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(SchedulePolicy)])
def test_every_number_of_the_policy_decides_something(name):
    value = getattr(DEFAULT_POLICY, name)
    geometry = dataclasses.replace(GEOMETRY, n_particles=2800)
    histories = [(h, {}) for h in HISTORIES]
    histories += [(h, {"automatic_schedule": "fixed"}) for h in HISTORIES]
    histories += [(h, {"alignment": "local", "target_resolution": (3.0,)}) for h in HISTORIES]
    histories += [(h, {"initial_lowpass_angstrom": 1e4}) for h in HISTORIES]
    for other in (value / 4, value / 2, value * 1.5, value * 4):
        policy = dataclasses.replace(
            DEFAULT_POLICY, **{name: max(type(value)(other), type(value)(value > 1))}
        )
        for history, values in histories:
            args = chosen(**values), geometry, history
            if next_plan(*args, policy=policy) != next_plan(*args):
                return
    raise AssertionError(f"no history shows what {name} decides")


def test_a_negative_offset_compares_beyond_the_resolution_and_a_positive_one_does_not():
    def compared_at(offset, resolution_A=12.0):
        settings = chosen(alignment="global", resolution_offset_angstrom=offset)
        record = make_record(1, resolution_A=resolution_A, align_resolution_A=27.0)
        return next_plan(settings, GEOMETRY, [record]).align_resolution_A

    plain = compared_at(None, 20.0)
    assert plain == pytest.approx(18.0)
    assert compared_at(5.0, 20.0) == compared_at(-1.0, 20.0) == plain
    assert compared_at(-4.0, 20.0) == pytest.approx(16.0)
    # At most twice as fine as the last comparison and as the resolution, whatever is asked for.
    assert compared_at(-10.0, 20.0) == pytest.approx(13.5)
    assert offset_limit_A(chosen(resolution_offset_angstrom=-10.0), 8.0, 2.5) == pytest.approx(4.0)
    assert offset_limit_A(chosen(resolution_offset_angstrom=-2.0), 4.0, 2.5) == pytest.approx(2.5)
    assert offset_limit_A(chosen(), 8.0, 2.5) is None
