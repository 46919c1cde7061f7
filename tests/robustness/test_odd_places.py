"""Names and places that nothing can be read from or written to, in the command and in Python."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cryorefine as cr
from cryorefine.errors import InputError
from tests.robustness.judged import ended_here, problem_of_call, problem_of_command
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
