"""What is well when a run begins, and is not later."""

import gc
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from cryorefine.engine.serial import SerialEngine
from cryorefine.errors import InputError
from cryorefine.events import Event, EventLog, IterationBegun, WarningGiven
from cryorefine.refine.finite import require_finite_halves, require_finite_poses
from cryorefine.refine.image_statistics import screen_images
from cryorefine.run.inputs import open_inputs, screen, screened_inputs
from cryorefine.run.loop import refine, resume
from cryorefine.settings import RefineSettings, make_settings
from cryorefine.state.state import Poses
from cryorefine.storage.layout import committed_iterations
from tests.behaviour.conftest import begun
from tests.builders import line_of, refused
from tests.robustness.small_set import BOX_PX, PIXELS_OFFSET, valid_set


def settings_of(folder: Path, **changes: object) -> RefineSettings:
    values = {
        "particles": folder / "particles.star", "reference": (folder / "reference.mrc",),
        "alignment": "global", "iterations": 1, "threads": 1,
    }  # fmt: skip
    return make_settings({**values, **changes})


@pytest.fixture
def data(tmp_path) -> Path:
    valid_set().write(tmp_path / "data")
    return tmp_path / "data"


@pytest.mark.parametrize("workers", [None, 1])
def test_an_image_that_is_no_numbers_any_more_ends_the_run_by_its_name(data, tmp_path, workers):
    stack = data / "stack.mrcs"

    def damage(event: Event) -> None:
        if isinstance(event, IterationBegun):
            with open(stack, "r+b") as file:
                file.seek(PIXELS_OFFSET + 4 * (5 * BOX_PX * BOX_PX + 7))
                file.write(np.float32(np.nan).tobytes())

    with refused(f"{stack}: image 6 holds NaN", "resume"):
        refine(settings_of(data, workers=workers), tmp_path / "run", listeners=(damage,))
    assert committed_iterations(tmp_path / "run") == [0]


def test_a_stack_that_is_cut_short_before_it_is_opened_ends_the_run_by_its_name(data):
    opened = open_inputs(settings_of(data))
    stack = data / "stack.mrcs"
    stack.write_bytes(stack.read_bytes()[:-100])
    with refused(f"{stack}: truncated"):
        opened.images.read(np.arange(3))


@pytest.mark.slow
@pytest.mark.parametrize("workers", [(), ("--workers", "1")])
def test_a_stack_that_is_cut_short_while_a_run_reads_it_ends_the_run_and_nothing_is_lost(
    data, tmp_path, workers
):
    run, stack = tmp_path / "run", data / "stack.mrcs"
    command = [
        sys.executable, "-m", "cryorefine", "refine", str(data / "particles.star"),
        "--reference", str(data / "reference.mrc"), "--output", str(run), "--threads", "1",
        "--alignment", "global", "--iterations", "500", *workers,
    ]  # fmt: skip
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    while not (run / "iteration_002").exists():
        assert process.poll() is None
        time.sleep(0.005)
    whole = stack.read_bytes()
    os.truncate(stack, PIXELS_OFFSET + 5 * 4 * BOX_PX**2)
    error = process.communicate()[1]
    assert process.returncode == 2, error
    assert error.splitlines()[-1].startswith(f"cryorefine: {stack}: truncated: the header promises")
    assert "5 are whole" in error
    stack.write_bytes(whole)
    done = committed_iterations(run)[-1]
    resume(run, changes={"iterations": 1})
    assert committed_iterations(run)[-1] == done + 1


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="needs /proc/self/fd")
def test_a_run_that_has_ended_holds_no_stack_open(data, tmp_path):
    refine(settings_of(data), tmp_path / "run")
    gc.collect()
    held = [os.readlink(path) for path in Path("/proc/self/fd").iterdir() if path.exists()]
    assert str(data / "stack.mrcs") not in held


@pytest.mark.parametrize("value", [1e30, 1e-30, 3e36])
def test_the_energy_of_images_does_not_depend_on_their_grey_scale(data, value):
    opened = open_inputs(settings_of(data))
    usual = screen_images(
        opened.table, opened.images, np.array([8.0]), EventLog(), SerialEngine(), max_energy=1.5
    )
    valid = valid_set()
    replace(valid, images=valid.images * np.float32(value)).write(data)
    opened = open_inputs(settings_of(data))
    scaled = screen_images(
        opened.table, opened.images, np.array([8.0]), EventLog(), SerialEngine(), max_energy=1.5
    )
    assert any(usual.reasons)
    assert scaled.reasons == usual.reasons


def test_values_that_are_hardly_meant_are_used_with_a_warning(tmp_path):
    odd = valid_set().with_value("particles", "rlnCtfScalefactor", 3, "0")
    odd = odd.with_value("particles", "rlnCtfScalefactor", 4, "-1")
    for label in ("rlnDefocusU", "rlnDefocusV"):
        odd = odd.with_value("particles", label, 5, "400000")
    star = odd.write(tmp_path)
    told: list[str] = []

    def note(event: Event) -> None:
        if isinstance(event, WarningGiven):
            told.append(event.message)

    opened, log = open_inputs(settings_of(tmp_path)), EventLog(listeners=(note,))
    screened_inputs(opened, screen(opened, 8.0, log, SerialEngine()), None, 8.0, log)
    for row, part in ((3, "factor of 0"), (4, "negative"), (5, "beyond 10 µm")):
        line = line_of(star, f"{row + 1:06d}@")
        assert any(part in message and f"line {line})" in message for message in told), told


def test_poses_that_are_no_numbers_are_refused_by_their_particles(data):
    inputs, state = begun(settings_of(data))
    assert state.poses is not None
    n = len(inputs.table)
    scores = state.poses.scores.replace(score=torch.zeros(n, dtype=torch.float64))
    rotations = state.poses.rotations.clone()
    require_finite_poses(inputs, Poses(rotations, state.poses.shift_A, scores))
    rotations[3, 1, 1] = torch.nan
    name = str(inputs.table.names[3])
    with refused(f"1 of {n} particles", name, inputs.table.where(3), "remove"):
        require_finite_poses(inputs, Poses(rotations, state.poses.shift_A, scores))
    with refused("no particle's pose"):
        require_finite_poses(inputs, Poses(rotations * torch.nan, state.poses.shift_A, scores))


@pytest.mark.parametrize(("value", "word"), [(torch.nan, "no numbers"), (0.0, "empty")])
def test_half_maps_that_are_no_numbers_or_empty_are_refused(data, value, word):
    inputs, _ = begun(settings_of(data))
    good, bad = torch.ones(8, 8, 8), torch.ones(8, 8, 8) * value
    require_finite_halves(inputs, (good, good))
    with refused("half 2", word):
        require_finite_halves(inputs, (good, bad))


def test_an_error_keeps_its_parts_on_the_way_from_another_process():
    import pickle

    error = pickle.loads(pickle.dumps(InputError("it is so", where="here", do="change it")))
    assert (error.what, error.where, error.do) == ("it is so", "here", "change it")
    assert str(error) == "here: it is so. Change it."
