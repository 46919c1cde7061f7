from cryorefine.events import EventLog, read_events


def kinds(events):
    return [e["kind"] for e in events]


def test_events_come_back_from_the_file_in_order_with_their_data(tmp_path):
    log = EventLog(tmp_path / "events.jsonl")
    log.emit("start", n_particles=7, symmetry="d7")
    log.emit("iteration", resolution_A=3.25)
    start, iteration = read_events(tmp_path / "events.jsonl")
    assert (start["kind"], start["n_particles"], start["symmetry"]) == ("start", 7, "d7")
    assert (iteration["kind"], iteration["resolution_A"]) == ("iteration", 3.25)


def test_an_event_is_on_the_disk_when_emit_returns(tmp_path):
    log = EventLog(tmp_path / "events.jsonl")
    for n in (1, 2, 3):
        log.emit("step", n=n)
        assert [e["n"] for e in read_events(tmp_path / "events.jsonl")] == list(range(1, n + 1))


def test_every_listener_hears_every_later_event_and_none_earlier():
    first, second = [], []
    log = EventLog()
    log.subscribe(first.append)
    log.emit("one")
    log.subscribe(second.append)
    log.emit("two", value=2)
    assert kinds(first) == ["one", "two"]
    assert kinds(second) == ["two"]
    assert second[0]["value"] == 2


def test_progress_reaches_listeners_but_not_the_file(tmp_path):
    heard = []
    log = EventLog(tmp_path / "events.jsonl")
    log.subscribe(heard.append)
    log.emit("progress", done=1, total=2)
    log.emit("end")
    assert kinds(heard) == ["progress", "end"]
    assert kinds(read_events(tmp_path / "events.jsonl")) == ["end"]


def test_a_warning_is_an_event_with_a_message():
    heard = []
    log = EventLog()
    log.subscribe(heard.append)
    log.warn("3 images are constant")
    assert heard[0]["kind"] == "warning"
    assert heard[0]["message"] == "3 images are constant"


def test_a_later_part_of_a_run_appends(tmp_path):
    EventLog(tmp_path / "events.jsonl").emit("start")
    EventLog(tmp_path / "events.jsonl").emit("resume")
    assert kinds(read_events(tmp_path / "events.jsonl")) == ["start", "resume"]


def test_a_line_cut_short_by_a_crash_costs_only_itself(tmp_path):
    path = tmp_path / "events.jsonl"
    log = EventLog(path)
    log.emit("start")
    log.emit("iteration", text="é" * 20)
    whole = path.read_bytes()
    for length in range(len(whole.splitlines()[0]) + 2, len(whole) - 1, 7):
        path.write_bytes(whole[:length])
        assert kinds(read_events(path)) == ["start"]
        EventLog(path).emit("resume")
        assert kinds(read_events(path)) == ["start", "resume"]


def test_a_file_without_events_has_none(tmp_path):
    (tmp_path / "events.jsonl").write_text("")
    EventLog(tmp_path / "events.jsonl")
    assert read_events(tmp_path / "events.jsonl") == []


def test_values_that_json_lacks_and_any_text_survive(tmp_path):
    log = EventLog(tmp_path / "events.jsonl")
    log.emit("a", resolution_A=float("inf"), text='line\nbreak "Å"', nothing=None)
    (event,) = read_events(tmp_path / "events.jsonl")
    assert event["resolution_A"] == float("inf")
    assert event["text"] == 'line\nbreak "Å"'
    assert event["nothing"] is None
