"""A run's result does not depend on who does its work, in which order, and who is killed."""

import hashlib
import os
import signal
from pathlib import Path

import numpy as np
import pytest

import cryorefine.run.engines as engines_module
from cryorefine.engine.processes import ProcessEngine
from cryorefine.engine.serial import SerialEngine
from cryorefine.errors import StoppedEarly
from cryorefine.run.loop import refine, resume
from cryorefine.storage.layout import committed_iterations

from .conftest import settings_for, simulate_set

MRC_HEADER_BYTES = 1024  # it holds the time of writing
PASSES = {
    "ScreenImages", "MeasurePower", "MeasureAmplitude", "PrepareSearch", "FindPoses",
    "InsertImages", "SplitImages", "CompareImages",
}  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """260 particles: three blocks of each half."""
    folder = tmp_path_factory.mktemp("engines") / "data"
    return simulate_set(
        folder, particles=260, box_px=32, pixel_angstrom=5.4, snr=0.3, optics_groups=3
    )


def settings_of(data: Path, **changes):
    # A search, a local iteration that refines optics, and what is measured at the end.
    options = {"automatic_schedule": "fixed", "iterations": 2, "refine_defocus": True}
    return settings_for(data, **{**options, **changes})


def digest(run: Path) -> dict[str, str]:
    """Hash what a run found."""
    out = {}
    for name in ("map.mrc", "half1.mrc", "half2.mrc", "fsc.star", "particles.star"):
        content = (run / name).read_bytes()
        if name.endswith(".mrc"):
            content = content[MRC_HEADER_BYTES:]
        out[name] = hashlib.sha256(content).hexdigest()
    return out


@pytest.fixture(scope="module")
def expected(data, tmp_path_factory) -> dict[str, str]:
    """What one thread finds."""
    folder = tmp_path_factory.mktemp("engines") / "serial"
    refine(settings_of(data, threads=1), folder)
    return digest(folder)


@pytest.mark.parametrize("threads", [2, pytest.param(5, marks=pytest.mark.slow)])
def test_the_number_of_threads_changes_no_bit(data, expected, tmp_path, threads):
    refine(settings_of(data, threads=threads), tmp_path / "run")
    assert digest(tmp_path / "run") == expected


@pytest.mark.parametrize(
    ("workers", "threads"),
    [
        (2, 2),
        pytest.param(1, 2, marks=pytest.mark.slow),
        pytest.param(4, 4, marks=pytest.mark.slow),
    ],
)
def test_the_number_of_worker_processes_changes_no_bit(data, expected, tmp_path, workers, threads):
    refine(settings_of(data, workers=workers, threads=threads), tmp_path / "run")
    assert digest(tmp_path / "run") == expected


class Shuffled(SerialEngine):
    """Does blocks in an order drawn anew each time."""

    def __init__(self, threads: int) -> None:
        self._generator = np.random.default_rng(1)

    def map(self, task, blocks, done=None):
        out = [None] * len(blocks)
        for i in self._generator.permutation(len(blocks)):
            (out[i],) = super().map(task, [blocks[i]], done)
        return out


def test_the_order_in_which_blocks_are_done_changes_no_bit(data, expected, tmp_path, monkeypatch):
    monkeypatch.setattr(engines_module, "ThreadEngine", Shuffled)
    refine(settings_of(data), tmp_path / "run")
    assert digest(tmp_path / "run") == expected


class Hunted(ProcessEngine):
    """Kills the first worker that tells of progress, once in each kind of pass."""

    killed: set[str] = set()  # noqa: RUF012  cleared by the test

    def map(self, task, blocks, done=None):
        name = type(task).__name__

        def kill(count: int) -> None:
            if count > 0 and name not in self.killed:
                self.killed.add(name)
                os.kill(self._workers[0].process.pid, signal.SIGKILL)
            if done is not None:
                done(count)

        if name in ("MeasureAmplitude", "PrepareSearch") and name not in self.killed:
            # They tell of nothing: a worker is killed before it begins.
            super().map(task, blocks[:1])
            self.killed.add(name)
            os.kill(self._workers[0].process.pid, signal.SIGKILL)
        return super().map(task, blocks, kill)


@pytest.mark.slow
def test_a_worker_killed_in_each_pass_changes_no_bit(data, expected, tmp_path, monkeypatch):
    monkeypatch.setattr(engines_module, "ProcessEngine", Hunted)
    monkeypatch.setattr(Hunted, "killed", set())
    refine(settings_of(data, workers=2), tmp_path / "run")
    assert Hunted.killed == PASSES
    assert digest(tmp_path / "run") == expected


@pytest.mark.slow
@pytest.mark.parametrize(
    ("before", "after"), [({"threads": 1}, {"workers": 2}), ({"workers": 2}, {"threads": 1})]
)
def test_a_run_resumed_with_other_workers_ends_with_the_same_bits(
    data, expected, tmp_path, before, after
):
    run, heard = tmp_path / "run", []

    def stop_in_the_second(event) -> None:
        heard.append(event.kind)
        if event.kind == "iteration_start" and heard.count("iteration_start") == 2:
            raise KeyboardInterrupt

    with pytest.raises(StoppedEarly):
        refine(settings_of(data, **before), run, listeners=(stop_in_the_second,))
    assert committed_iterations(run)[-1] == 1
    resume(run, changes=after)
    assert digest(run) == expected
