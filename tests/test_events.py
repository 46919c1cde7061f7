import dataclasses
import json
import math
import time

import pytest

from cryorefine.events import (
    EarlyEventLog,
    EventLog,
    GreyScaleFound,
    IterationBegun,
    IterationDone,
    RadiusMeasured,
    RunResumed,
    RunStopped,
    SegmentBegun,
    StartResolutionMeasured,
    UnknownEvent,
    WarningGiven,
    WorkAdvanced,
    read_events,
)
from cryorefine.events.kinds import KINDS
from cryorefine.run.segments import Segment
from cryorefine.state.plan import IterationPlan, IterationRecord


def kinds(events):
    return [e.kind for e in events]


def resumed(iteration=1):
    return RunResumed(iteration=iteration)


def written(path):
    """The lines of a file as what JSON says they are."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_events_come_back_from_the_file_in_order_as_they_were(tmp_path):
    log = EventLog(tmp_path / "events.jsonl")
    emitted = [
        GreyScaleFound(half1=0.5, half2=0.25),
        IterationDone(iteration=3, mode="local", resolution_A=3.25),
        StartResolutionMeasured(resolution_A=None),
    ]
    for event in emitted:
        log.emit(event)
    found = read_events(tmp_path / "events.jsonl")
    assert [type(e) for e in found] == [type(e) for e in emitted]
    assert [(e.kind, e.time_s, e.data()) for e in found] == [
        (e.kind, e.time_s, e.data()) for e in emitted
    ]


def test_a_line_has_the_time_the_kind_and_the_fields_by_their_names(tmp_path):
    event = GreyScaleFound(half1=0.5, half2=0.25)
    EventLog(tmp_path / "events.jsonl").emit(event)
    (line,) = written(tmp_path / "events.jsonl")
    assert line == {"time": event.time_s, "kind": "grey_scale", "half1": 0.5, "half2": 0.25}
    assert abs(event.time_s - time.time()) < 60


def test_kinds_in_the_file_are_those_of_all_versions():
    assert set(KINDS) == {
        "calibration", "device_memory", "end", "grey_scale", "iteration", "iteration_start", "leg",
        "memory", "particles", "progress", "radius", "restored", "resume", "search", "start",
        "start_resolution", "stopped", "warning",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "record", "more"),
    [
        (IterationBegun, IterationPlan, set()),
        (IterationDone, IterationRecord, {"resolution_unmasked_A", "cpu_s", "wall_s"}),
        (SegmentBegun, Segment, {"number"}),
    ],
)
def test_what_a_record_holds_is_told_by_the_same_names(kind, record, more):
    names = {field.name for field in dataclasses.fields(kind)} - {"time_s"}
    assert names == {field.name for field in dataclasses.fields(record)} | more


def test_numbers_of_an_iteration_that_do_not_exist_are_left_out_and_come_back_as_nan(tmp_path):
    log = EventLog(tmp_path / "events.jsonl")
    log.emit(
        IterationDone(iteration=1, mode="global", resolution_A=math.inf, resolution_unmasked_A=None)
    )
    (line,) = written(tmp_path / "events.jsonl")
    del line["time"]
    assert line == {
        "kind": "iteration", "iteration": 1, "mode": "global", "resolution_A": math.inf,
        "resolution_unmasked_A": None, "subset": None, "counts": None, "helix": None,
    }  # fmt: skip
    (event,) = read_events(tmp_path / "events.jsonl")
    assert math.isnan(event.median_turn_deg)
    assert event.resolution_unmasked_A is None


def test_a_kind_that_is_not_known_is_kept_as_it_is(tmp_path):
    path = tmp_path / "events.jsonl"
    values = {"time": 12.5, "kind": "weather", "wind_m_per_s": 3, "deep": {"a": [1, None]}}
    path.write_text(json.dumps(values) + "\n")
    (event,) = read_events(path)
    assert isinstance(event, UnknownEvent)
    assert json.loads(event.line()) == values


def test_lines_of_other_versions_are_read(tmp_path):
    path = tmp_path / "events.jsonl"
    lines = [
        {"time": 1.0, "kind": "start", "n_particles": 7},  # before it said more
        {"time": 2.0, "kind": "warning", "message": "a", "advice": "b"},  # says more by now
        {"kind": "resume", "iteration": 4},
        ["no", "event"],
        {"time": 3.0},
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    start, warning, resume = read_events(path)
    assert (start.kind, start.data()) == ("start", {"n_particles": 7})
    assert warning == WarningGiven(message="a")
    assert resume == resumed(4)
    assert math.isnan(resume.time_s)


def test_an_event_is_on_the_disk_when_emit_returns(tmp_path):
    log = EventLog(tmp_path / "events.jsonl")
    for n in (1, 2, 3):
        log.emit(resumed(n))
        assert [e.iteration for e in read_events(tmp_path / "events.jsonl")] == [*range(1, n + 1)]


def test_every_listener_hears_every_later_event_and_none_earlier():
    first, second = [], []
    log = EventLog(listeners=[first.append])
    log.emit(RunStopped(message="one"))
    log.subscribe(second.append)
    log.emit(resumed(2))
    assert first == [RunStopped(message="one"), resumed(2)]
    assert second == [resumed(2)]


def test_progress_reaches_listeners_but_not_the_file(tmp_path):
    heard = []
    log = EventLog(tmp_path / "events.jsonl", [heard.append])
    log.emit(WorkAdvanced(stage="reading", done=1, total=2))
    log.emit(resumed())
    assert kinds(heard) == ["progress", "resume"]
    assert kinds(read_events(tmp_path / "events.jsonl")) == ["resume"]


def test_a_warning_is_an_event_with_a_message():
    heard = []
    EventLog(listeners=[heard.append]).warn("3 images are constant")
    assert heard == [WarningGiven(message="3 images are constant")]
    assert heard[0].kind == "warning"


def test_early_events_are_written_once_with_the_times_at_which_they_happened(tmp_path):
    heard = []
    log = EarlyEventLog([heard.append])
    log.emit(RadiusMeasured(radius_A=80.0, time_s=5.0))
    log.emit(WorkAdvanced(stage="reading", done=1, total=2))
    log.emit(WarningGiven(message="odd", time_s=7.0))
    path = tmp_path / "events.jsonl"
    assert not path.exists()
    log.continue_in(path)
    log.emit(RunStopped(message="later", time_s=9.0))
    assert [(e.kind, e.time_s) for e in read_events(path)] == [
        ("radius", 5.0), ("warning", 7.0), ("stopped", 9.0),
    ]  # fmt: skip
    assert kinds(heard) == ["radius", "progress", "warning", "stopped"]


def test_early_events_of_a_later_part_are_appended_to_a_file_whose_end_was_lost(tmp_path):
    path = tmp_path / "events.jsonl"
    EventLog(path).emit(resumed(1))
    with open(path, "a") as file:
        file.write('{"time": 1, "ki')
    log = EarlyEventLog()
    log.emit(resumed(2))
    log.continue_in(path)
    assert read_events(path) == [resumed(1), resumed(2)]


def test_a_later_part_of_a_run_appends(tmp_path):
    EventLog(tmp_path / "events.jsonl").emit(resumed(1))
    EventLog(tmp_path / "events.jsonl").emit(resumed(2))
    assert read_events(tmp_path / "events.jsonl") == [resumed(1), resumed(2)]


def test_a_line_cut_short_by_a_crash_costs_only_itself(tmp_path):
    path = tmp_path / "events.jsonl"
    log = EventLog(path)
    log.emit(RadiusMeasured(radius_A=1.0))
    log.warn("é" * 20)
    whole = path.read_bytes()
    for length in range(len(whole.splitlines()[0]) + 2, len(whole) - 1, 7):
        path.write_bytes(whole[:length])
        assert kinds(read_events(path)) == ["radius"]
        EventLog(path).emit(resumed())
        assert kinds(read_events(path)) == ["radius", "resume"]


def test_a_file_without_events_has_none(tmp_path):
    (tmp_path / "events.jsonl").write_text("")
    EventLog(tmp_path / "events.jsonl")
    assert read_events(tmp_path / "events.jsonl") == []


def test_values_that_json_lacks_and_any_text_survive(tmp_path):
    log = EventLog(tmp_path / "events.jsonl")
    log.emit(RadiusMeasured(radius_A=math.inf))
    log.warn('line\nbreak "Å"')
    radius, warning = read_events(tmp_path / "events.jsonl")
    assert radius.radius_A == math.inf
    assert warning.message == 'line\nbreak "Å"'
