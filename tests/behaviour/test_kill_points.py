"""Killed at any change of its files, or on a full disk, a run leaves a folder to go on with.

A kill is every later change of files failing (``tests/crash_points.py``); iterations are those of
an earlier run, so that all of a run but its computing happens. ``make fuzz`` tries all points.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cryorefine.cli.main import main
from cryorefine.errors import InputError, StoppedEarly
from cryorefine.events import WarningGiven, read_events
from cryorefine.run.checkpoint import load_state
from cryorefine.run.loop import refine, resume
from cryorefine.storage.layout import LOCK, committed_iterations
from cryorefine.storage.publication import unlike_iteration
from tests.builders import refused
from tests.crash_points import assert_whole, full_disk_at, killed_at
from tests.run.test_checkpoint import assert_bit_equal

from .canned import Canned

N_POINTS = int(os.environ.get("CRYOREFINE_FUZZ", "6"))
"""Of each kind, spread over all."""
REPRODUCED = ("fsc.star", "particles.star", "statistics.json")
"""Results that hold neither a time nor what was spent."""


def spread(n: int) -> list[int]:
    """Return points from 1 to n, the first and the last among them."""
    return sorted({int(p) for p in np.linspace(1, n, min(n, N_POINTS)).round()})


def again(run: Path, canned: Canned) -> None:
    """Go on as a user would: resume; if there is no run, give the command again."""
    for command, said in (
        (lambda: resume(run), ("stopped before its first", "no run to resume")),
        (lambda: refine(canned.settings, run), ("--overwrite",)),
        (lambda: refine(canned.settings, run, overwrite=True), ()),
    ):
        try:
            command()
        except InputError as refusal:
            if not any(part in str(refusal) for part in said):
                raise
        else:
            return


def assert_same(run: Path, canned: Canned) -> None:
    """Check that a folder is whole, and that its result is that of a run nobody stopped."""
    assert_whole(run)
    assert json.loads((run / "summary.json").read_text())["iterations"] == 2
    assert_bit_equal(load_state(run, 2).state, load_state(canned.folder, 2).state)
    for name in REPRODUCED:
        assert (run / name).read_bytes() == (canned.folder / name).read_bytes()
    kept = sorted(p.relative_to(run) for p in run.rglob("*.mrc"))
    assert kept == sorted(p.relative_to(canned.folder) for p in canned.folder.rglob("*.mrc"))


def test_a_new_run_killed_at_any_point_can_be_gone_on_with(canned, tmp_path):
    with canned.in_use():
        with killed_at(0) as count:
            refine(canned.settings, tmp_path / "counted")
        assert count.n > 100
        for point in spread(count.n):
            run = tmp_path / "run"
            with killed_at(point):
                refine(canned.settings, run)
            with killed_at(1 + point * 7 % count.n):
                again(run, canned)  # which is killed as well
            again(run, canned)
            assert_same(run, canned)
            shutil.rmtree(run)


@pytest.mark.slow
def test_a_run_killed_while_it_is_overwritten_is_the_old_one_or_none(canned, tmp_path):
    old = tmp_path / "old"
    shutil.copytree(canned.folder, old)
    (old / "notes.txt").write_text("mine")
    with canned.in_use():
        shutil.copytree(old, tmp_path / "counted")
        with killed_at(0) as count:
            refine(canned.settings, tmp_path / "counted", overwrite=True)
        for point in spread(count.n):
            run = tmp_path / "run"
            shutil.copytree(old, run)
            with killed_at(point):
                refine(canned.settings, run, overwrite=True)
            with suppress(InputError):
                assert resume(run)["iterations"] == 2
                assert_same(run, canned)
            again(run, canned)
            assert_same(run, canned)
            assert (run / "notes.txt").read_text() == "mine"
            shutil.rmtree(run)


def test_a_second_segment_killed_at_any_point_begins_or_does_not(canned, tmp_path):
    def more(run: Path) -> None:
        resume(run, changes={"fsc_criterion": 0.3, "iterations": 1})

    second = canned.states[2]
    history = [*second.history, replace(second.history[-1], iteration=3)]
    states = {**canned.states, 3: replace(second, iteration=3, history=history)}
    longer = Canned(canned.data, canned.settings, canned.folder, canned.prepared, states)
    with longer.in_use():
        shutil.copytree(canned.folder, tmp_path / "counted")
        with killed_at(0) as count:
            more(tmp_path / "counted")
        for point in spread(count.n):
            run = tmp_path / "run"
            shutil.copytree(canned.folder, run)
            with killed_at(point):
                more(run)
            n = resume(run)["iterations"]
            assert n in (2, 3)
            assert_whole(run)
            assert ("0.3" in (run / "settings.toml").read_text()) == (n == 3)
            shutil.rmtree(run)


def test_a_run_on_a_disk_that_is_full_at_any_point_can_be_gone_on_with(canned, tmp_path):
    with canned.in_use():
        with killed_at(0) as count:
            refine(canned.settings, tmp_path / "counted")
        for point in spread(count.n):
            run = tmp_path / "run"
            # Of the plain error, after the last iteration, the command line makes its message.
            with full_disk_at(point), suppress(StoppedEarly, OSError):
                refine(canned.settings, run)
            again(run, canned)
            assert_same(run, canned)
            shutil.rmtree(run)


def test_half_published_results_are_put_right_and_told_of_by_resume_and_report(canned, tmp_path):
    for command in ("resume", "report"):
        run = tmp_path / command
        shutil.copytree(canned.folder, run)
        for name in ("half1.mrc", "particles.star", "fsc.star", "summary.json"):
            shutil.copyfile(run / "iteration_001" / name, run / name)
        (run / ".fsc.star.abcd1234.part").write_text("half")
        assert len(unlike_iteration(run)) == 4
        with pytest.raises(SystemExit) as stop:
            main([command, str(run)])
        assert stop.value.code == 0
        assert_whole(run)
    warnings = [e.message for e in read_events(tmp_path / "resume" / "events.jsonl")
                if isinstance(e, WarningGiven)]  # fmt: skip
    assert "half1.mrc, fsc.star, particles.star, summary.json" in warnings[-1]


def test_a_folder_that_a_process_works_in_is_refused_to_another(canned, tmp_path, capsys):
    import fcntl

    run = tmp_path / "run"
    shutil.copytree(canned.folder, run)
    with open(run / LOCK, "w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        before = {p: p.read_bytes() for p in run.rglob("*") if p.is_file()}
        for arguments in (
            ["resume", str(run)],
            ["resume", str(run), "--iterations", "1"],
            ["refine", str(canned.settings.particles), "--reference",
             str(canned.settings.reference[0]), "--output", str(run), "--overwrite"],
        ):  # fmt: skip
            with pytest.raises(SystemExit) as stop:
                main(arguments)
            assert stop.value.code == 2
            assert "works in the folder" in capsys.readouterr().err
        assert {p: p.read_bytes() for p in run.rglob("*") if p.is_file()} == before
    with canned.in_use():
        assert resume(run)["iterations"] == 2


def test_an_input_within_the_run_is_found_before_anything_is_removed(canned, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(canned.folder, run)
    (run / "iteration_1234").mkdir()
    (run / "iteration_1234" / "raw.mrc").write_text("mine")
    before = {p: p.read_bytes() for p in run.rglob("*") if p.is_file()}
    for path in (run / "half1.mrc", run / "iteration_001" / "map.mrc"):
        settings = canned.settings.model_copy(update={"reference": (path,)})
        with refused("an input lies among the results"):
            refine(settings, run, overwrite=True)
    assert {p: p.read_bytes() for p in run.rglob("*") if p.is_file()} == before
    with canned.in_use():
        refine(canned.settings, run, overwrite=True)
    assert (run / "iteration_1234" / "raw.mrc").read_text() == "mine"
    assert committed_iterations(run) == [0, 1, 2]


def test_a_users_folder_in_the_way_of_an_iteration_is_named_and_left_alone(canned, tmp_path):
    run = tmp_path / "run"
    with canned.in_use():
        refine(canned.settings, run)
        shutil.rmtree(run / "iteration_002")
        (run / "iteration_002").mkdir()
        (run / "iteration_002" / "raw.txt").write_text("mine")
        with refused("iteration_002: is in the way", "another name"):
            resume(run)
        (run / "iteration_002").rename(run / "raw")
        resume(run)
    assert (run / "raw" / "raw.txt").read_text() == "mine"
    assert_same(run, canned)


def test_events_of_a_run_are_not_written_through_a_link(canned, tmp_path):
    run, precious = tmp_path / "run", tmp_path / "precious.txt"
    shutil.copytree(canned.folder, run)
    shutil.move(run / "events.jsonl", precious)
    (run / "events.jsonl").symlink_to(precious)
    elsewhere = tmp_path / "elsewhere"
    before = precious.read_bytes()
    with refused("events.jsonl: is a link"):
        resume(run)
    assert precious.read_bytes() == before
    (run / "events.jsonl").unlink()
    shutil.move(run / "iteration_001", elsewhere)
    (run / "iteration_001").symlink_to(elsewhere)
    with refused("iteration_001: is a link"):
        resume(run)


def test_a_result_given_as_an_input_is_taken_from_the_iteration_that_made_it(canned, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(canned.folder, run)
    with canned.in_use(), suppress(KeyError):  # there is no third iteration to take
        resume(run, changes={"mask": run / "mask.mrc", "iterations": 1})
    text = (run / "settings.toml").read_text()
    assert f'mask = "{run / "iteration_002" / "mask.mrc"}"' in text


@pytest.mark.slow
def test_a_real_kill_leaves_no_lock_that_holds(canned, tmp_path):
    run, settings = tmp_path / "run", canned.settings
    command = [sys.executable, "-m", "cryorefine", "refine", str(settings.particles),
               "--reference", str(settings.reference[0]), "--output", str(run),
               "--alignment", "global", "--iterations", "200"]  # fmt: skip
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not (run / "iteration_002").exists():
        assert process.poll() is None
        time.sleep(0.02)
    with refused(f"process {process.pid} on", "works in the folder"):
        resume(run)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = committed_iterations(run)[-1]
    resume(run, changes={"iterations": 1})
    assert committed_iterations(run)[-1] == done + 1
    assert_whole(run)
