"""One small simulated set, refined once, for all tests of the whole loop."""

from dataclasses import dataclass
from pathlib import Path

import pytest
from click.testing import CliRunner

from cryorefine.cli.simulate import command as simulate
from cryorefine.engine.serial import SerialEngine
from cryorefine.events import Event, EventLog, read_events
from cryorefine.run.inputs import first_state, open_inputs, screen, screened_inputs
from cryorefine.run.loop import refine
from cryorefine.settings import RefineSettings, make_settings
from cryorefine.state.state import Inputs, State

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


@dataclass(frozen=True)
class Run:
    """A finished run and the set it refined."""

    data: Path
    folder: Path
    summary: dict

    @property
    def events(self) -> list[Event]:
        return read_events(self.folder / "events.jsonl")


@pytest.fixture(scope="session")
def small_set(tmp_path_factory) -> Path:
    return simulate_set(tmp_path_factory.mktemp("set") / "data")


@pytest.fixture(scope="session")
def finished(small_set, tmp_path_factory) -> Run:
    folder = tmp_path_factory.mktemp("finished") / "run"
    summary = refine(settings_for(small_set), folder)
    return Run(small_set, folder, summary)
