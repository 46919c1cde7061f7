"""Whatever stops a run, the iterations before it are safe and the rest can be resumed."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import cryorefine.run.first_segment as first_segment_module
import cryorefine.run.later_segments as later_segments_module
import cryorefine.run.loop as loop_module
import cryorefine.run.running_segment as running_segment_module
from cryorefine.errors import InputError, StoppedEarly
from cryorefine.run.checkpoint import load_state
from cryorefine.run.folder import check_output_folder
from cryorefine.run.inputs import Opened
from cryorefine.run.loop import refine, resume
from cryorefine.run.segments import read_segments
from cryorefine.storage.layout import committed_iterations
from tests.run.test_checkpoint import assert_bit_equal

from .conftest import settings_for


@pytest.mark.parametrize("stop_at", ["assign", "commit"])
def test_a_stopped_run_resumes_to_the_same_bits(
    tiny_set, tiny_finished, tmp_path, monkeypatch, stop_at
):
    calls = {"n": 0}
    stages = {"assign": (loop_module, "advance"), "commit": (running_segment_module, "save_state")}
    module, name = stages[stop_at]
    original = getattr(module, name)

    def interrupted(*args, **kwargs):
        calls["n"] += 1
        # save_state also commits iteration 0 before the first iterate.
        if calls["n"] == (3 if stop_at == "assign" else 4):
            raise KeyboardInterrupt
        return original(*args, **kwargs)

    monkeypatch.setattr(module, name, interrupted)
    with pytest.raises(StoppedEarly, match="2 iterations are safe; go on with 'cryorefine resume"):
        refine(settings_for(tiny_set), tmp_path / "run")
    monkeypatch.undo()
    assert committed_iterations(tmp_path / "run") == [0, 1, 2]
    summary = resume(tmp_path / "run")
    assert summary["finished"]
    assert summary["iterations"] == tiny_finished.summary["iterations"]
    ours = load_state(tmp_path / "run", summary["iterations"]).state
    theirs = load_state(tiny_finished.folder, summary["iterations"]).state
    assert_bit_equal(ours, theirs)


def test_resuming_a_finished_run_changes_nothing(tiny_finished):
    before = (tiny_finished.folder / "half1.mrc").stat().st_mtime_ns
    summary = resume(tiny_finished.folder)
    assert summary["finished"]
    assert summary["iterations"] == tiny_finished.summary["iterations"]
    assert (tiny_finished.folder / "half1.mrc").stat().st_mtime_ns == before


def test_a_half_written_iteration_is_ignored_and_replaced(global_run, tmp_path):
    shutil.copytree(global_run, tmp_path / "run")
    (tmp_path / "run" / ".iteration_001.part").mkdir()
    (tmp_path / "run" / ".iteration_001.part" / "half1.mrc").write_bytes(b"rubbish")
    assert committed_iterations(tmp_path / "run") == [0, 1]
    assert resume(tmp_path / "run")["finished"]


def test_resuming_nothing_or_with_another_particle_file_is_refused(tiny_set, tmp_path):
    with pytest.raises(InputError, match="no run to resume"):
        resume(tmp_path)
    star = tmp_path / "particles.star"
    text = (tiny_set / "particles.star").read_text()
    star.write_text(text.replace("@particles.mrcs", f"@{tiny_set / 'particles.mrcs'}"))
    settings = settings_for(tiny_set, particles=star, alignment="global", iterations=1)
    refine(settings, tmp_path / "run")
    lines = star.read_text().splitlines()
    star.write_text("\n".join(lines[:-3]))
    with pytest.raises(InputError, match="the run started with 64"):
        resume(tmp_path / "run")


def test_a_disk_that_is_full_stops_the_run_and_leaves_the_last_iteration_whole(
    tiny_set, tmp_path, monkeypatch
):
    original, calls = running_segment_module.save_state, {"n": 0}

    def full(*args, **kwargs):
        calls["n"] += 1
        if calls["n"] == 3:
            raise OSError(28, "No space left on device")
        return original(*args, **kwargs)

    monkeypatch.setattr(running_segment_module, "save_state", full)
    with pytest.raises(StoppedEarly, match="No space left on device"):
        refine(settings_for(tiny_set, iterations=3), tmp_path / "run")
    assert committed_iterations(tmp_path / "run") == [0, 1]


@pytest.fixture(scope="module")
def half_done(tiny_set, tmp_path_factory) -> Path:
    """A run that was stopped in the second of its two iterations."""
    run = tmp_path_factory.mktemp("half_done") / "run"
    original, calls = loop_module.advance, []

    def second_stops(*args, **kwargs):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return original(*args, **kwargs)

    settings = settings_for(tiny_set, iterations=2, automatic_schedule="fixed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop_module, "advance", second_stops)
        with pytest.raises(StoppedEarly):
            refine(settings, run)
    return run


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (torch.OutOfMemoryError("CUDA out of memory."), "GPU's memory is full.*--device cpu"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "machine's memory is full"),
    ],  # what else tells of it: tests/run/test_interruption.py
)
def test_too_little_memory_stops_the_run_and_leaves_the_last_iteration_whole(
    half_done, tmp_path, monkeypatch, error, message
):
    run = shutil.copytree(half_done, tmp_path / "run")

    def fails(*args, **kwargs):
        raise error

    monkeypatch.setattr(loop_module, "advance", fails)
    with pytest.raises(StoppedEarly, match=message):
        resume(run)
    monkeypatch.undo()
    assert committed_iterations(run) == [0, 1]
    assert resume(run)["iterations"] == 2


STAGES_BEFORE_THE_FOLDER = {
    "opening": (first_segment_module, "open_inputs"),
    "preparing the map": (Opened, "start_volumes"),
    "measuring the radius": (Opened, "radius_px"),
    "screening": (first_segment_module, "screen"),
}
STAGES_IN_THE_FOLDER = {
    "clear_run": first_segment_module,
    "write_manifest": first_segment_module,
    "save_settings": first_segment_module,
    "emit_start": first_segment_module,
    "save_state": running_segment_module,
}


@pytest.mark.parametrize("error", [KeyboardInterrupt(), MemoryError("Unable to allocate")])
@pytest.mark.parametrize("stage", STAGES_BEFORE_THE_FOLDER)
def test_a_run_that_is_stopped_before_it_has_a_folder_says_that_nothing_is_written(
    tiny_set, tmp_path, monkeypatch, stage, error
):
    def stops(*args, **kwargs):
        raise error

    monkeypatch.setattr(*STAGES_BEFORE_THE_FOLDER[stage], stops)
    with pytest.raises(StoppedEarly, match=r"; nothing has been written yet$") as caught:
        refine(settings_for(tiny_set), tmp_path / "run")
    assert len(str(caught.value).splitlines()) == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("error", [KeyboardInterrupt(), MemoryError("Unable to allocate")])
@pytest.mark.parametrize("stage", STAGES_IN_THE_FOLDER)
def test_a_run_that_is_stopped_before_its_first_commit_can_be_given_again(
    tiny_set, tmp_path, monkeypatch, stage, error
):
    def stops(*args, **kwargs):
        raise error

    run = tmp_path / "run"
    (run / "iteration_000").mkdir(parents=True)
    (run / "iteration_000" / "state.npz").write_text("of an earlier run")
    (run / "notes.txt").write_text("mine")
    settings = settings_for(tiny_set, alignment="global", iterations=1)
    monkeypatch.setattr(STAGES_IN_THE_FOLDER[stage], stage, stops)
    with pytest.raises(StoppedEarly, match=r"no iteration has been made yet; .* --overwrite$"):
        refine(settings, run, overwrite=True)
    monkeypatch.undo()
    check_output_folder(run, overwrite=True)
    assert (run / "notes.txt").read_text() == "mine"


def test_a_run_resumes_or_says_that_it_is_as_it_was(global_run, tmp_path, monkeypatch):
    run = Path(shutil.copytree(global_run, tmp_path / "run"))
    before = {p: p.read_bytes() for p in run.rglob("*") if p.is_file()}

    def stops(*args, **kwargs):
        raise MemoryError

    monkeypatch.setattr(later_segments_module, "open_inputs", stops)
    with pytest.raises(StoppedEarly, match=r"memory is full.*; the run is as it was"):
        resume(run)
    assert {p: p.read_bytes() for p in run.rglob("*") if p.is_file()} == before


def test_other_errors_of_the_program_are_not_taken_for_a_full_memory(
    tiny_set, tmp_path, monkeypatch
):
    def fails(*args, **kwargs):
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(first_segment_module, "screen", fails)
    with pytest.raises(RuntimeError, match="shapes do not match"):
        refine(settings_for(tiny_set), tmp_path / "run")


@pytest.mark.slow
def test_a_killed_process_leaves_whole_iterations_and_resumes(tiny_set, tmp_path):
    run = tmp_path / "run"
    command = [
        sys.executable, "-m", "cryorefine", "refine", str(tiny_set / "particles.star"),
        "--reference", str(tiny_set / "reference.mrc"), "--symmetry", "d2",
        "--output", str(run), "--threads", "2", "--alignment", "global", "--iterations", "4",
    ]  # fmt: skip
    for _ in range(2):
        before = len(committed_iterations(run)) or 1  # the start is one
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 300
        while len(committed_iterations(run)) <= before:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        done = committed_iterations(run)
        assert done[-1] < 4
        load_state(run, done[-1])
        command = [sys.executable, "-m", "cryorefine", "resume", str(run)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert result.returncode == 0, result.stderr
    assert "resolution" in result.stdout
    assert committed_iterations(run) == [0, 1, 2, 3, 4]


@pytest.mark.slow
def test_a_process_killed_while_a_second_segment_begins_leaves_a_run_that_goes_on(
    tiny_set, tmp_path
):
    run = tmp_path / "run"
    refine(settings_for(tiny_set, compare_to=None, alignment="global", iterations=1), run)
    shutil.copytree(run, tmp_path / "other")
    resume(tmp_path / "other", changes={"iterations": 2})
    command = [sys.executable, "-m", "cryorefine", "resume", str(run), "--iterations", "2"]
    for seen in ("leg_002", "legs.json", "iteration_002"):
        # Whatever the file is renewed by is under way, or just done, when the process dies.
        before = (run / seen).stat().st_mtime_ns if (run / seen).exists() else 0
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while process.poll() is None:
            if (run / seen).exists() and (run / seen).stat().st_mtime_ns > before:
                process.kill()
                break
            time.sleep(0.0005)
        process.wait()
        resumed = [sys.executable, "-m", "cryorefine", "resume", str(run)]
        command = resumed if len(read_segments(run)) > 1 else command
        if seen == "legs.json" and len(read_segments(run)) > 1:
            assert (run / "leg_002" / "settings.toml").exists()
    assert resume(run)["iterations"] == 3
    assert_bit_equal(load_state(run, 3).state, load_state(tmp_path / "other", 3).state)
    assert (run / "settings.toml").read_bytes() == (tmp_path / "other/settings.toml").read_bytes()
