"""Run folders with well-formed but odd files: used, or refused in one line; never a traceback."""

import contextlib
import json
import os
import shutil
import tracemalloc
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import cryorefine as cr
from cryorefine.errors import InputError
from cryorefine.report.build import write_report
from cryorefine.run.checkpoint import load_measurements, load_state
from cryorefine.run.loop import resume
from cryorefine.storage.layout import committed_iterations
from tests.builders import refused
from tests.robustness.judged import (
    Served,
    case_count,
    ended_here,
    problem_of_call,
    problem_of_command,
    served,
)
from tests.robustness.odd_runs import RECORDS, npy, odd_arrays, odd_record, write_npz
from tests.robustness.small_set import valid_set

FUZZED = {
    "deadline": None, "derandomize": True, "database": None,
    "suppress_health_check": list(HealthCheck),
}  # fmt: skip


@pytest.fixture(scope="module")
def commands() -> Iterator[Served]:
    with served() as found:
        yield found


@pytest.fixture(scope="module")
def made(commands, tmp_path_factory) -> Path:
    """A run folder that is finished, of given poses."""
    folder = tmp_path_factory.mktemp("made")
    star = valid_set().write(folder / "data")
    ended = commands.run("reconstruct", star, "--output", folder / "run", "--threads", 1)
    assert (ended.code, problem_of_command(ended)) == (0, "")
    return folder / "run"


@pytest.fixture(scope="module")
def whole(made) -> dict[str, np.ndarray]:
    with np.load(made / "iteration_001" / "state.npz", allow_pickle=False) as file:
        return dict(file)


@pytest.fixture(scope="module")
def run(made, tmp_path_factory) -> Path:
    """A copy to be changed; ``renewed`` makes it what it was."""
    return Path(shutil.copytree(made, tmp_path_factory.mktemp("odd") / "run"))


def renewed(made: Path, run: Path) -> None:
    shutil.rmtree(run)
    shutil.copytree(made, run)


def looked_at(run: Path) -> None:
    """Ask an opened run for all that is not images or maps."""
    opened = cr.open_run(run)
    for ask in (
        lambda: repr(opened), lambda: opened.history, lambda: opened.settings,
        lambda: opened.is_finished, lambda: opened.result.warnings, lambda: opened.result.fsc,
        lambda: [i.resolution_A for i in opened.iterations],
    ):  # fmt: skip
        with contextlib.suppress(InputError):
            ask()


def resumed(run: Path) -> None:
    """Resume a run that is finished, and say so if it is not what it should be."""
    summary = resume(run)
    assert summary["resolution_A"] is None or 0 < summary["resolution_A"] < 1e6, summary
    assert summary["n_half1"] + summary["n_half2"] == summary["n_used"], summary


@pytest.mark.slow
@given(data=st.data())
@settings(max_examples=case_count(40), **FUZZED)
def test_odd_arrays_of_a_checkpoint_are_read_or_refused(run, whole, data):
    path = run / "iteration_001" / "state.npz"
    write_npz(path, odd_arrays(data.draw, whole))

    def read() -> None:
        checkpoint = load_state(run, 1)
        load_measurements(run, 1)
        poses = checkpoint.state.poses
        assert poses is not None
        assert torch.isfinite(poses.rotations).all()
        assert set(checkpoint.constants.half.tolist()) <= {1, 2}

    assert problem_of_call(read) == ""


@given(data=st.data())
@settings(max_examples=case_count(2, share=10), **FUZZED)
def test_a_run_goes_on_from_an_odd_checkpoint_or_refuses_it(commands, made, run, whole, data):
    renewed(made, run)
    write_npz(run / "iteration_001" / "state.npz", odd_arrays(data.draw, whole))
    more = data.draw(st.sampled_from([(), ("--alignment", "local", "--iterations", 1)]))
    ended = commands.run("resume", run, *more, limit_s=120)
    assert problem_of_command(ended) == ""
    assert committed_iterations(run)[-1] == (2 if more and ended.code == 0 else 1)


@given(data=st.data())
@settings(max_examples=case_count(8), **FUZZED)
def test_odd_records_of_a_run_are_read_or_refused(made, run, data):
    name = data.draw(st.sampled_from(RECORDS))
    path, text = run / name, (made / name).read_text()
    path.write_text(odd_record(data.draw, name, text), errors="surrogatepass")
    try:
        assert problem_of_call(lambda: looked_at(run)) == ""
        assert problem_of_call(lambda: resumed(run)) == ""
    finally:
        renewed(made, run)


@pytest.mark.slow
@given(data=st.data())
@settings(max_examples=case_count(2, share=5), **FUZZED)
def test_odd_records_of_a_run_are_reported(made, run, data):
    name = data.draw(st.sampled_from(RECORDS))
    path, text = run / name, (made / name).read_text()
    path.write_text(odd_record(data.draw, name, text), errors="surrogatepass")
    try:
        assert problem_of_call(lambda: write_report(run)) == ""
        assert "<script" not in (run / "report.html").read_text()
    finally:
        renewed(made, run)


BOMBS = {
    "a declared length": lambda whole: {**whole, "half": npy("(1000000000000,)", "|i1")},
    "declared text": lambda whole: {**whole, "reasons": npy("(2,)", "<U200000000")},
    "empty along one axis": lambda whole: {**whole, "poses_shift_A": npy("(0, 1000000000000)")},
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_an_array_that_declares_more_than_there_is_takes_no_memory(run, whole, bomb):
    path = run / "iteration_001" / "state.npz"
    write_npz(path, BOMBS[bomb](whole))
    tracemalloc.start()
    try:
        with refused(f"{path}: the checkpoint cannot be read"):
            load_state(run, 1)
        assert tracemalloc.get_traced_memory()[1] < 50e6
    finally:
        tracemalloc.stop()


def test_an_archive_that_inflates_is_refused_before_it_does(run, whole):
    path = run / "iteration_001" / "state.npz"
    large = np.zeros(30_000_000, np.int8)
    write_npz(path, {**whole, "half": large}, compression=zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 1e6
    tracemalloc.start()
    try:
        with refused(f"{path}: the checkpoint cannot be read", "compressed"):
            load_state(run, 1)
        assert tracemalloc.get_traced_memory()[1] < 10e6
    finally:
        tracemalloc.stop()


def test_a_pickled_object_in_a_checkpoint_is_not_made(run, whole, tmp_path):
    path, trace = run / "iteration_001" / "state.npz", tmp_path / "trace"
    call = f"cposix\nsystem\n(S'touch {trace}'\ntR.".encode()
    write_npz(path, {**whole, "half": npy("(1,)", "|O", call)})
    with refused(f"{path}: the checkpoint cannot be read", "objects"):
        load_state(run, 1)
    assert not trace.exists()


@pytest.mark.parametrize(
    ("name", "number"), [("iteration_003", 3), ("iteration_002", 2), ("iteration_1000000", 10**6)]
)
def test_a_state_under_the_name_of_another_iteration_is_refused(made, tmp_path, name, number):
    run = Path(shutil.copytree(made, tmp_path / "run"))
    shutil.copytree(run / "iteration_001", run / name)
    with refused(str(run / name), "state of iteration 1", "this iteration's folder"):
        resume(run)
    with refused(str(run / name), "state of iteration 1"):
        _ = cr.open_run(run).history
    assert committed_iterations(run) == [0, 1, number]


@pytest.mark.parametrize("name", ["iteration_0002", "iteration_٠٠٢", "iteration_00x"])
def test_names_like_those_of_iterations_are_none(made, tmp_path, name):
    run = Path(shutil.copytree(made, tmp_path / "run"))
    shutil.copytree(run / "iteration_001", run / name)
    assert committed_iterations(run) == [0, 1]
    resume(run)


@pytest.mark.parametrize("name", ["events.jsonl", "legs.json", "settings.toml", "published.json"])
@pytest.mark.parametrize("kind", ["pipe", "folder"])
def test_a_pipe_or_folder_in_place_of_a_record_is_refused(made, tmp_path, name, kind):
    run = Path(shutil.copytree(made, tmp_path / "run"))
    (run / name).unlink()
    os.mkfifo(run / name) if kind == "pipe" else (run / name).mkdir()
    for call in (lambda: resume(run), lambda: cr.open_run(run)):
        with refused(str(run / name), "is no file"):
            call()
    ended = ended_here(["report", str(run)])
    assert (ended.code, problem_of_command(ended)) == (2, "")


LINKED = ("events.jsonl", "report.html", "iteration_001", "iteration_001/reference1.mrc")


@pytest.mark.parametrize("name", LINKED)
@pytest.mark.parametrize("command", ["resume", "report", "reconstruct"])
def test_a_link_in_place_of_a_file_is_refused_and_nothing_is_written_through_it(
    made, tmp_path, name, command
):
    run, outside = Path(shutil.copytree(made, tmp_path / "run")), tmp_path / "outside"
    if (run / name).exists():
        shutil.move(run / name, outside)
    else:
        outside.write_text("mine")
    (run / name).symlink_to(outside)
    before = {p: p.stat().st_mtime_ns for p in [outside, *outside.rglob("*")]}
    more = () if command != "reconstruct" else (
        str(made.parent / "data" / "particles.star"), "--overwrite", "--output",
    )  # fmt: skip
    ended = ended_here([command, *more, str(run)])
    assert (ended.code, problem_of_command(ended)) == (2, "")
    assert "is a link to" in ended.error
    assert {p: p.stat().st_mtime_ns for p in [outside, *outside.rglob("*")]} == before


def test_a_run_may_be_reached_by_a_link(made, tmp_path):
    run = Path(shutil.copytree(made, tmp_path / "run"))
    (tmp_path / "link").symlink_to(run)
    assert resume(tmp_path / "link")["finished"]


def test_nothing_that_a_file_says_becomes_markup_of_the_report(made, tmp_path):
    run, evil = Path(shutil.copytree(made, tmp_path / "run")), "<script>alert(1)</script>"
    with open(run / "events.jsonl", "a") as file:
        file.write(json.dumps({"time": 1e9, "kind": "warning", "message": evil}) + "\n")
        file.write(
            json.dumps({"time": 1e9, "kind": "iteration", "iteration": 1, "mode": evil}) + "\n"
        )
    for name in ("summary.json", "manifest.json"):
        record = json.loads((run / name).read_text())
        record |= {"symmetry": evil, "inputs": {evil: {"sha256": evil}}, "command": [evil]}
        (run / name).write_text(json.dumps(record))
    with open(run / "settings.toml", "a") as file:
        file.write(f"\nnovel = {json.dumps(evil)}\n")
    star = run / "particles.star"
    star.write_text(star.read_text().replace("stack.mrcs", evil).replace("mic0.mrc", evil))
    write_report(run)
    page = (run / "report.html").read_text()
    assert "<script" not in page.lower()
    assert page.count("&lt;script&gt;") >= 4


def test_legs_that_cannot_follow_on_each_other_are_refused_with_what_is_wrong(made, tmp_path):
    run = Path(shutil.copytree(made, tmp_path / "run"))
    first = json.loads((run / "legs.json").read_text())[0]
    for legs, said in (
        ([{**first, "first_iteration": 2}], "first_iteration"),
        ([{**first, "first_iteration": "1"}], "first_iteration"),
        ([first, {**first, "first_iteration": 7, "counts_from": 7}], "lacks iteration 6"),
        ([{**first, "counts_from": 10**40}], "counts_from"),
        ([{**first, "search": "everybody"}], "search"),
        ([{**first, "settings": []}], "settings"),
        ([{**first, "keep_above_percentile": "10"}], "keep_above_percentile"),
    ):
        (run / "legs.json").write_text(json.dumps(legs))
        with refused(str(run), said, "estore"):
            resume(run)
