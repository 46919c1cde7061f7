import math

import pytest

from cryorefine.refine.schedule import next_plan
from cryorefine.run.segments import (
    Segment,
    plan_of_segment,
    read_segments,
    settings_within_run,
    write_first_segment,
)
from cryorefine.settings import make_settings
from cryorefine.state.plan import Geometry
from tests.builders import make_record, refused

GEOMETRY = Geometry(
    box_A=200.0, nyquist_A=4.0, radius_A=60.0, max_shift_A=20.0, group_order=1, n_particles=2000
)
STILL = {"mode": "local", "resolution_A": 8.0, "align_resolution_A": 7.0, "median_turn_deg": 0.1,
         "reconstruct_resolution_A": 4.0, "jumped_fraction": 0.0}  # fmt: skip


def settings_of(**changes):
    return make_settings({"particles": "p.star", "reference": ("r.mrc",), **changes})


def converged():
    """A history of five iterations that a run ends with."""
    history = [make_record(i) for i in (1, 2)] + [make_record(i, **STILL) for i in (3, 4, 5)]
    assert next_plan(settings_of(), GEOMETRY, history) is None
    return history


def plan(segment, history, **changes):
    settings = settings_within_run(settings_of(**changes), segment)
    return plan_of_segment(settings, GEOMETRY, history, segment)


@pytest.mark.parametrize("done", range(6))
def test_the_first_segment_is_what_the_schedule_says(done):
    history = converged()[:done]
    expected = next_plan(settings_of(), GEOMETRY, history)
    assert plan(Segment(1, 1, {}), history) == expected


def test_a_run_that_has_converged_goes_on_locally_until_it_does_so_again():
    segment = Segment(6, 6, {})
    first = plan(segment, converged())
    assert (first.iteration, first.mode) == (6, "local")
    assert first.align_resolution_A == pytest.approx(0.9 * 8.0)
    assert first.share == 1
    # What the mask or the criterion of an earlier segment gave cannot be beaten, nor need it be.
    again = [*converged(), make_record(6, **{**STILL, "resolution_A": 9.0})]
    second = plan(segment, again)
    assert (second.iteration, second.mode) == (7, "local")
    settled = [*again, make_record(7, **{**STILL, "resolution_A": 9.0})]
    assert plan(segment, settled) is None


@pytest.mark.parametrize(("search", "every"), [("new", 3), ("all", 1)])
def test_a_segment_with_particles_that_have_no_pose_begins_with_a_search(search, every):
    segment = Segment(6, 6, {}, search=search)
    first = plan(segment, converged())
    assert (first.mode, first.search_every) == ("global", every)
    settled = make_record(6, jumped_fraction=0.005, resolution_A=8.0, align_resolution_A=7.0)
    assert plan(segment, [*converged(), settled]).mode == "local"


def test_an_automatic_segment_makes_at_most_as_many_iterations_as_it_was_given():
    segment, history = Segment(6, 6, {}), converged()
    moving = {**STILL, "median_turn_deg": 9.0}
    assert not plan(segment, history, iterations=2).is_last
    history.append(make_record(6, **moving))
    assert plan(segment, history, iterations=2).is_last
    history.append(make_record(7, **moving))
    assert plan(segment, history, iterations=2) is None


@pytest.mark.parametrize(
    "changes",
    [
        {"alignment": "global"},
        {"alignment": "local"},
        {"automatic_schedule": "fixed"},
        {"alignment": "stochastic"},
    ],
)
def test_other_segments_count_their_own_iterations_and_start_at_the_resolution_reached(changes):
    segment, history = Segment(6, 6, {}), converged()
    first = plan(segment, history, iterations=2, **changes)
    assert first.iteration == 6
    assert first.align_resolution_A < 10 < 0.9 * 30
    assert not first.is_last
    history.append(make_record(6))
    second = plan(segment, history, iterations=2, **changes)
    assert (second.iteration, second.is_last) == (7, True)
    assert plan(segment, [*history, make_record(7)], iterations=2, **changes) is None


def test_the_rest_of_a_stopped_segment_counts_from_where_that_began():
    segment, history = Segment(8, 6, {}), [*converged(), make_record(6), make_record(7)]
    last = plan(segment, history, alignment="global", iterations=3)
    assert (last.iteration, last.is_last) == (8, True)


def test_a_share_that_was_reached_is_kept():
    history = [make_record(1, mode="local", resolution_A=8.0, align_resolution_A=9.0)]
    assert plan(Segment(2, 2, {}, search="all"), history).share == 1


def test_a_segment_after_one_without_signal_starts_where_that_looked():
    history = [make_record(1, resolution_A=math.inf)]
    assert plan(Segment(2, 2, {}), history, alignment="global").align_resolution_A <= 25.0


def test_segments_come_back_and_a_run_without_a_list_has_one(tmp_path):
    assert read_segments(tmp_path) == [Segment(1, 1, {})]
    segment = Segment(
        1, 1, {"symmetry": "d2"}, suspended={"iterations": 3}, started="now", n_used=5
    )
    write_first_segment(tmp_path, segment)
    assert read_segments(tmp_path) == [segment]


@pytest.mark.parametrize("text", ["", "{", '[{"colour": 1}]'])
def test_a_damaged_list_of_segments_is_refused(tmp_path, text):
    (tmp_path / "legs.json").write_text(text)
    with refused(str(tmp_path / "legs.json"), "Restore the file"):
        read_segments(tmp_path)
