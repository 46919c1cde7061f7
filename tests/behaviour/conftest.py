"""Simulated sets, each refined once, for all tests of the whole loop."""

import fcntl
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

from cryorefine.cli.simulate import command as simulate
from cryorefine.engine.serial import SerialEngine
from cryorefine.errors import StoppedEarly
from cryorefine.events import Event, EventLog, IterationDone, read_events
from cryorefine.io.star import StarBlock, read_star
from cryorefine.run.inputs import first_state, open_inputs, screen, screened_inputs
from cryorefine.run.loop import refine
from cryorefine.settings import RefineSettings, make_settings
from cryorefine.state.state import Inputs, State

if TYPE_CHECKING:
    from .canned import Canned

OPTIONS = {
    "--particles": 240,
    "--box-px": 48,
    "--pixel-angstrom": 3.6,
    "--symmetry": "d2",
    "--diameter-angstrom": 120,
    "--snr": 0.1,
    "--per-micrograph": 12,
    "--shift-angstrom": 4,
}
TINY = {"box_px": 32, "per_micrograph": 8, "snr": 0.3}


def simulate_set(folder: Path, **changes) -> Path:
    """Simulate a set with the options above, some changed; returns its folder."""
    options = {**OPTIONS, **{"--" + k.replace("_", "-"): v for k, v in changes.items()}}
    arguments = ["phantom", "--output", str(folder)]
    for name, value in options.items():
        arguments += [name, str(value)]
    result = CliRunner().invoke(simulate, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return folder


def settings_for(folder: Path, **changes) -> RefineSettings:
    """Settings that refine a simulated set from its 30 Å start, with two threads."""
    values = {
        "particles": folder / "particles.star",
        "reference": (folder / "reference.mrc",),
        "symmetry": "d2",
        "compare_to": folder / "truth_map.mrc",
        "threads": 2,
    }
    return make_settings({**values, **changes})


def begun(settings: RefineSettings) -> tuple[Inputs, State]:
    """Inputs of a run and its state before the first iteration, without a folder."""
    quiet = EventLog()
    opened = open_inputs(settings)
    start = opened.start_volumes(quiet)
    radius_px = opened.radius_px(start[0], quiet)
    engine = SerialEngine()
    inputs = screened_inputs(
        opened, screen(opened, radius_px, quiet, engine), None, radius_px, quiet
    )
    return inputs, first_state(inputs, start, quiet, engine)


def stopped_run(settings: RefineSettings, folder: Path) -> Path:
    """Refine until the first iteration is done, where the user stops; returns the run's folder."""

    def stop(event: Event) -> None:
        if isinstance(event, IterationDone):
            raise KeyboardInterrupt

    with pytest.raises(StoppedEarly):
        refine(settings, folder, listeners=(stop,))
    return folder


@dataclass(frozen=True)
class Run:
    """A finished run and the set it refined."""

    data: Path
    folder: Path
    summary: dict

    @property
    def events(self) -> list[Event]:
        return read_events(self.folder / "events.jsonl")


def made_once(temporary: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """Return a folder that is made by whichever process of this test session needs it first."""
    root = temporary.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent  # of all workers
    folder, done = root / name / "data", root / name / "done"
    folder.parent.mkdir(exist_ok=True)
    with open(root / name / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # a process that ends, however, lets go of it
        if not done.exists():
            shutil.rmtree(folder, ignore_errors=True)  # of one that failed
            make(folder)
            done.touch()
    return folder


@pytest.fixture(scope="session")
def small_set(tmp_path_factory) -> Path:
    return made_once(tmp_path_factory, "small_set", simulate_set)


@pytest.fixture(scope="session")
def finished(small_set, tmp_path_factory) -> Run:
    return finished_run(tmp_path_factory, "finished", small_set)


@pytest.fixture(scope="session")
def tiny_set(tmp_path_factory) -> Path:
    """64 particles of 32 px, with as little noise as an iteration of a second bears."""
    make = partial(simulate_set, particles=64, **TINY, pixel_angstrom=5.4)
    return made_once(tmp_path_factory, "tiny_set", make)


@pytest.fixture(scope="session")
def eighty_set(tmp_path_factory) -> Path:
    """80 particles of 32 px, for what needs some more of them than ``tiny_set`` has."""
    make = partial(simulate_set, particles=80, **TINY, pixel_angstrom=5.0)
    return made_once(tmp_path_factory, "eighty_set", make)


@pytest.fixture(scope="session")
def one_iteration(small_set, tmp_path_factory) -> Path:
    """The first iteration of ``small_set`` alone."""
    settings = settings_for(small_set, iterations=1)
    return made_once(tmp_path_factory, "one_iteration", lambda folder: refine(settings, folder))


@pytest.fixture(scope="session")
def global_run(tiny_set, tmp_path_factory) -> Path:
    """A finished run of one global iteration of ``tiny_set``; a test that changes it copies it."""
    settings = settings_for(tiny_set, compare_to=None, alignment="global", iterations=1)
    return made_once(tmp_path_factory, "global_run", lambda folder: refine(settings, folder))


@pytest.fixture
def run(global_run, tmp_path) -> Path:
    """A copy of it that a test may change."""
    return Path(shutil.copytree(global_run, tmp_path / "run"))


@pytest.fixture(scope="session")
def plain(eighty_set, tmp_path_factory) -> Callable[..., tuple[Path, StarBlock]]:
    """Return a function of settings: the folder of their run and its columns, to be read only.

    It is what tests of an option compare theirs with, and made when the first of them asks.
    """

    from .option_runs import run as refine_once

    def found(**changes: object) -> tuple[Path, StarBlock]:
        name = "-".join(["plain", *(f"{key}_{changes[key]}" for key in sorted(changes))])
        folder = made_once(
            tmp_path_factory, name, lambda folder: refine_once(eighty_set, folder, **changes)
        )
        return folder, read_star(folder / "particles.star")["particles"]

    return found


@pytest.fixture(scope="session")
def tiny_finished(tiny_set, tmp_path_factory) -> Run:
    return finished_run(tmp_path_factory, "tiny_finished", tiny_set)


def finished_run(temporary: pytest.TempPathFactory, name: str, data: Path) -> Run:
    """Return an automatic run of a set."""
    folder = made_once(temporary, name, lambda folder: refine(settings_for(data), folder))
    return Run(data, folder, json.loads((folder / "summary.json").read_text()))


@pytest.fixture(scope="session")
def canned(tmp_path_factory) -> "Canned":
    """A run whose iterations others take instead of making them."""
    from .canned import make_canned

    return make_canned(tmp_path_factory.mktemp("canned"))


@pytest.fixture(scope="session")
def given_poses(tmp_path_factory) -> "Canned":
    """The same of poses that are given, as ``reconstruct`` takes them."""
    from .canned import make_canned

    return make_canned(tmp_path_factory.mktemp("given"), alignment="none")
