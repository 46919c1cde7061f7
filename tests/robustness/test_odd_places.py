"""Names and places that nothing can be read from or written to, in the command and in Python."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cryorefine as cr
from cryorefine.errors import InputError
from tests.builders import refused
from tests.robustness.judged import ended_here, problem_of_call, problem_of_command, within
from tests.robustness.odd_options import make_odd_places
from tests.robustness.small_set import BOX_PX, valid_set

NAMES = {
    "a NUL": "a\0b", "no UTF-8": "\udcff", "300 letters": "x" * 300,
    "5,000 letters": "/".join("z" * 250 for _ in range(20)), "a file": "file",
    "below a file": "file/x", "a pipe": "pipe", "below a pipe": "pipe/x", "a loop": "loop",
    "below a loop": "loop/x", "a device": "/dev/null", "a full device": "/dev/full",
    "the root": "/", "the working folder": ".", "the inputs' folder": "data", "nothing": "",
}  # fmt: skip


@pytest.fixture(scope="module")
def places(tmp_path_factory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("places")
    valid_set().write(folder / "data")
    make_odd_places(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        yield folder
    (folder / "closed").chmod(0o700)


COMMANDS = {
    "refine": ("data/particles.star", "--reference", "data/reference.mrc"),
    "reconstruct": ("data/particles.star",),
    "simulate": ("phantom",),
    "demo": (),
    "fsc": ("data/reference.mrc", "data/reference.mrc", "--overwrite"),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_refuses_an_output_that_can_be_none(places, command):
    before, problems = sorted(places.rglob("*")), []
    for what, name in NAMES.items():
        if command == "fsc" and what == "a file":
            continue  # which is what it writes
        ended = ended_here([command, *COMMANDS[command], "--output", name])
        problem = problem_of_command(ended)
        if problem or ended.code != 2:
            problems.append(f"{what}: {ended.code} {problem}")
    assert not problems, "\n".join(problems)
    assert sorted(places.rglob("*")) == before


CALLS: dict[str, Callable[[str], Any]] = {
    "refine": lambda name: cr.refine("data/particles.star", "data/reference.mrc", output=name),
    "refine of": lambda name: cr.refine(name, "data/reference.mrc", output="run"),
    "refine from": lambda name: cr.refine("data/particles.star", name, output="run"),
    "reconstruct": lambda name: cr.reconstruct("data/particles.star", output=name),
    "simulate": lambda name: cr.simulate(output=name),
    "simulate of": lambda name: cr.simulate(name, output="simulated"),
    "open_run": cr.open_run,
    "read_particles": cr.read_particles,
    "read_volume": cr.read_volume,
    "fsc": lambda name: cr.fsc(name, "data/reference.mrc"),
    "Volume.write": lambda name: cr.Volume(np.ones((BOX_PX,) * 3), 2.0).write(name),
    "Particles.write": lambda name: cr.read_particles("data/particles.star").write(name),
}


@pytest.mark.parametrize("call", CALLS)
def test_a_call_refuses_a_name_that_can_be_none(places, call):
    before, problems = sorted(places.rglob("*")), []
    for what, name in NAMES.items():
        if call.endswith("write") and what == "a file":
            continue  # which is what it writes
        refused = False

        def do(name: str = name) -> None:
            nonlocal refused
            try:
                CALLS[call](name)
            except InputError:
                refused = True
                raise

        problem = problem_of_call(do)
        if problem or not refused:
            problems.append(f"{what}: {problem or 'accepted'}")
    assert not problems, "\n".join(problems)
    assert sorted(places.rglob("*")) == before


def as_pipe(path: Path) -> Path:
    path.unlink(missing_ok=True)
    os.mkfifo(path)
    return path


@pytest.mark.parametrize("name", ["p.star", "p.cs", "p.csg", "p.xmd", "poses.pkl"])
def test_a_pipe_in_place_of_a_particle_file_is_refused_and_not_waited_for(tmp_path, name):
    pipe = as_pipe(tmp_path / name)
    with within(30), refused(f"{pipe}: is a pipe or a device, not a file"):
        cr.read_particles(pipe)


@pytest.mark.parametrize("other", ["a_ctf.pkl", "a_particles.txt", "J1_passthrough_particles.cs"])
def test_a_pipe_beside_a_particle_file_is_refused_and_not_waited_for(tmp_path, other):
    valid_set().write(tmp_path)
    particles = tmp_path / ("J1_particles.cs" if other.endswith(".cs") else "a_poses.pkl")
    cr.convert(tmp_path / "particles.star", particles)
    if other.endswith(".txt"):
        (tmp_path / "a_particles.star").unlink()
    pipe = as_pipe(tmp_path / other)
    with within(30), refused(f"{pipe}: is a pipe or a device, not a file"):
        cr.read_particles(particles)


@pytest.mark.parametrize("command", ["refine", "resume"])
def test_a_pipe_in_place_of_a_settings_file_is_refused_and_not_waited_for(tmp_path, command):
    star, pipe = valid_set().write(tmp_path / "data"), as_pipe(tmp_path / "settings.toml")
    what = (
        [str(star), "--output", str(tmp_path / "run")] if command == "refine" else [str(tmp_path)]
    )
    with within(30):
        ended = ended_here([command, *what, "--settings", str(pipe)])
    assert (ended.code, problem_of_command(ended)) == (2, "")
    assert f"{pipe}: is a pipe or a device, not a settings file" in ended.error


def test_a_pipe_in_place_of_a_model_is_refused_and_not_waited_for(tmp_path):
    with within(30), refused("no such model"):
        cr.simulate(as_pipe(tmp_path / "m.pdb"), output=tmp_path / "new")
