"""Commands that fill a folder, stopped at any point: nothing half done is shown or in the way."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cryorefine as cr
from cryorefine.api import helices, simulation
from cryorefine.cli.main import main
from cryorefine.geometry.helix import Helix
from cryorefine.model.simulate import SimulationPlan
from cryorefine.model.simulation_options import SimulationOptions
from cryorefine.report import helical_landscape, restored
from cryorefine.storage.layout import LOCK, committed_iterations
from cryorefine.storage.lock import locked
from tests.behaviour.test_full_disk import N_SIZES, command
from tests.builders import helical_map
from tests.crash_points import killed_at
from tests.robustness.judged import case_count, ended_here, problem_of_command


@dataclass(frozen=True)
class Filler:
    """A command line without its ``--output``, and what it leaves when nobody stops it."""

    arguments: tuple[object, ...]
    whole: Path

    def line(self, output: Path, *more: str) -> list[str]:
        return [str(a) for a in (*self.arguments, "--output", output, *more)]

    def done(self, output: Path, *more: str) -> None:
        """Give the command, and check that it leaves all, and no more."""
        ended = ended_here(self.line(output, *more))
        assert (ended.code, problem_of_command(ended)) == (0, ""), ended.error
        assert contents(output) == contents(self.whole)


def contents(folder: Path) -> dict[str, bytes]:
    """Return all files; of maps what follows the header, which holds the time."""
    files = {p.name: p.read_bytes() for p in sorted(folder.iterdir())}
    return {name: b[1024:] if name.endswith((".mrc", ".mrcs")) else b for name, b in files.items()}


def once(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that computes once for each plan or options among its arguments."""
    found: dict[str, Any] = {}

    def call(*arguments: Any, **options: Any) -> Any:
        key = repr([a for a in arguments if isinstance(a, SimulationPlan | SimulationOptions)])
        if key not in found:
            found[key] = function(*arguments, **options)
        return found[key]

    return call


@pytest.fixture(scope="module")
def fillers(tmp_path_factory) -> Iterator[dict[str, Filler]]:
    """The commands by name; what they compute, they compute once."""
    folder = tmp_path_factory.mktemp("fillers")
    random = np.random.default_rng(1)
    for name in ("half1", "half2"):
        cr.Volume(random.normal(size=(24, 24, 24)).astype(np.float32), 3.0).write(
            folder / f"{name}.mrc"
        )
    helix = helical_map(Helix(-33.0, 7.3), 48, 3.0, bfactor_A2=400).numpy()
    cr.Volume(helix, 3.0).write(folder / "helix.mrc")
    arguments = {
        "simulate": ("phantom", "--particles", 8, "--box-px", 32, "--pixel-angstrom", 5),
        "restore": (folder / "half1.mrc", folder / "half2.mrc", "--post-undershoot-sigmas", 3),
        "helical-search": (
            folder / "helix.mrc", "--twist-range-deg", -45, -20, "--rise-range-angstrom", 5, 10,
            "--resolution-angstrom", 9,
        ),
    }  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        # What is computed is kept, and pictures cost more than all else: neither is stopped here.
        patch.setattr(helices, "searched", once(helices.searched))
        patch.setattr(cr.restore, "apply", once(cr.restore.apply))
        for part in ("_atoms", "draw_parameters", "_images", "truth_volume"):
            patch.setattr(simulation, part, once(getattr(simulation, part)))
        patch.setattr(restored, "draw_restored", lambda _, path: path.write_bytes(b"picture" * 99))
        patch.setattr(helical_landscape, "draw_landscape", lambda _: b"picture" * 99)
        made = {}
        for name, options in arguments.items():
            made[name] = Filler((name, *options), folder / name)
            assert ended_here(made[name].line(made[name].whole)).code == 0
        yield made


COMMANDS = ("simulate", "restore", "helical-search")


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_that_finds_no_room_leaves_nothing_and_works_when_there_is(
    fillers, tmp_path, name
):
    filler, output = fillers[name], tmp_path / "new" / "out"
    sizes = sorted(len(content) for content in contents(filler.whole).values())
    limits = np.geomspace(20, sizes[-1], N_SIZES).astype(int).tolist()
    for limit in limits:
        code, line = command(limit, *filler.line(output))
        assert (code, "File too large" in line) == (2, True), line
        assert line.startswith(f"cryorefine: {output}/"), line
        assert Path(line.split(": ")[1]).name in contents(filler.whole)
        assert not any(tmp_path.iterdir())
    filler.done(output)


@pytest.mark.parametrize("is_there", [False, True])
@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_killed_at_any_point_works_when_it_is_given_again(
    fillers, tmp_path, name, is_there
):
    filler = fillers[name]

    def begin(output: Path, point: int) -> int:
        if is_there:
            output.mkdir()
        with killed_at(point) as count, suppress(SystemExit):
            main(filler.line(output))
        return count.n

    n_points = begin(tmp_path / "counted", 0)
    assert n_points > 20
    for point in np.unique(np.linspace(1, n_points, min(n_points, case_count(6))).astype(int)):
        output = tmp_path / f"out{point}"
        begin(output, int(point))
        shown = visible(output)
        is_marked = (output / f".{name}.part").exists()
        assert is_marked or shown in (set(), visible(filler.whole))
        if shown and not is_marked:
            (output / LOCK).unlink(missing_ok=True)  # the kill came when all was done
            assert contents(output) == contents(filler.whole)
        else:
            filler.done(output)


def visible(folder: Path) -> set[str]:
    return {p.name for p in folder.iterdir() if p.name[0] != "."} if folder.exists() else set()


def filled(filler: Filler, output: Path) -> dict[str, bytes]:
    """Make a folder with other results than the command's, and a note of the user's."""
    output.mkdir()
    for name in (*contents(filler.whole), "disagreement.mrc"):
        (output / name).write_text(f"older {name}")
    (output / "notes.txt").write_text("mine")
    return contents(output)


def test_restored_maps_that_find_no_room_leave_the_older_ones_as_they_were(fillers, tmp_path):
    filler, output = fillers["restore"], tmp_path / "out"
    older = filled(filler, output)
    for limit in (20, 3000, 40_000):
        code, line = command(limit, *filler.line(output, "--overwrite"))
        assert (code, "File too large" in line) == (2, True), line
        assert contents(output) == older


def test_restored_maps_are_never_taken_for_a_mixture_of_older_and_newer_ones(fillers, tmp_path):
    filler = fillers["restore"]
    filled(filler, tmp_path / "counted")
    with killed_at(0) as count, suppress(SystemExit):
        main(filler.line(tmp_path / "counted", "--overwrite"))
    assert "disagreement.mrc" not in contents(tmp_path / "counted")
    n_points = min(count.n, case_count(12))
    for point in np.unique(np.linspace(1, count.n, n_points).astype(int)):
        output = tmp_path / f"out{point}"
        older = filled(filler, output)
        with killed_at(int(point)), suppress(SystemExit):
            main(filler.line(output, "--overwrite"))
        is_older = visible(output) == set(older) and contents_of(output, older) == older
        if (output / "restorations.json").exists() and not is_older:
            newer = contents(filler.whole)
            assert contents_of(output, newer) == newer
            assert not (output / "disagreement.mrc").exists()
        more = ["--overwrite"] if (output / "restorations.json").exists() else []
        ended = ended_here(filler.line(output, *more))
        assert ended.code == 0, ended.error
        assert (output / "notes.txt").read_text() == "mine"
        (output / "notes.txt").unlink()
        assert contents(output) == contents(filler.whole)
        shutil.rmtree(output)


def contents_of(folder: Path, names: dict[str, bytes]) -> dict[str, bytes]:
    found = {name: (folder / name).read_bytes() for name in names if (folder / name).exists()}
    return {name: b[1024:] if name.endswith((".mrc", ".mrcs")) else b for name, b in found.items()}


def test_a_demonstration_that_is_refused_leaves_no_folder(tmp_path):
    ended = ended_here(["demo", "--output", str(tmp_path / "a" / "b"), "--symmetry", "none"])
    assert (ended.code, problem_of_command(ended)) == (2, "")
    assert not any(tmp_path.iterdir())
    ended = ended_here(["demo", "--output", str(tmp_path), "--symmetry", "none"])
    assert (ended.code, list(tmp_path.iterdir())) == (2, [])  # a folder that was there stays


@pytest.mark.parametrize("name", COMMANDS)
def test_two_commands_do_not_fill_one_folder(fillers, tmp_path, name):
    with locked(tmp_path):
        ended = ended_here(fillers[name].line(tmp_path))
    assert (ended.code, problem_of_command(ended)) == (2, "")
    assert "works in the folder" in ended.error
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("name", COMMANDS)
def test_what_was_filled_in_the_meantime_is_not_replaced(fillers, tmp_path, monkeypatch, name):
    """The folder is looked at again once it is held: another may have been done just before."""
    filler, output = fillers[name], tmp_path / "out"

    def late(folder: Path):
        (folder / "notes.txt").write_text("mine")
        return locked(folder)

    monkeypatch.setattr("cryorefine.storage.result_folder.locked", late)
    ended = ended_here(filler.line(output))
    assert (ended.code, problem_of_command(ended)) == (2, "")
    assert contents(output) == {"notes.txt": b"mine"}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_users_file_in_the_way_is_named_and_left_alone(fillers, tmp_path, name):
    output = tmp_path / "out"
    (output / f".{name}.part").mkdir(parents=True)
    mine = output / f".{name}.part" / "notes.txt"
    mine.write_text("mine")
    ended = ended_here(fillers[name].line(output))
    assert (ended.code, problem_of_command(ended)) == (2, "")
    assert str(mine.parent) in ended.error
    assert mine.read_text() == "mine"


DEMO = ("demo", "--particles", "4")


@pytest.fixture
def refines(monkeypatch) -> list[bool]:
    """Let demonstrations end at once where they would refine; returns with which overwriting."""
    calls: list[bool] = []

    def refine_(settings, output, *, overwrite, **_):
        calls.append(overwrite)
        output.mkdir(exist_ok=True)
        raise KeyboardInterrupt

    monkeypatch.setattr("cryorefine.run.loop.refine", refine_)
    return calls


@pytest.mark.usefixtures("fillers")
def test_a_demonstration_that_stopped_before_it_refined_begins_anew(tmp_path, refines):
    output = tmp_path / "new" / "demo"
    line = [*DEMO, "--output", str(output)]
    for limit in (20, 3000, 40_000):
        code, said = command(limit, *line)
        assert (code, "File too large" in said) == (2, True), said
        assert said.startswith(f"cryorefine: {output}/particles/"), said
        assert refines == []
    for point in (1, 3, 5, 7, 9, 12, 15, 25):
        with killed_at(point), suppress(SystemExit):
            main(line)
    assert ended_here(line).code == 3
    assert ended_here(line).code == 3
    assert refines == [False, True]
    assert len(cr.read_particles(output / "particles" / "particles.star")) == 4


@pytest.mark.usefixtures("fillers")
def test_a_demonstration_that_can_be_resumed_is_not_begun_anew(tmp_path, refines):
    output = tmp_path / "demo"
    line = [*DEMO, "--output", str(output)]
    assert ended_here(line).code == 3
    (output / "run" / "iteration_000").mkdir()
    (output / "run" / "iteration_000" / "state.npz").write_text("state")
    assert committed_iterations(output / "run") == [0]
    ended = ended_here(line)
    assert (ended.code, len(refines)) == (2, 1)
    assert f"cryorefine resume {output / 'run'}" in ended.error
    (output / "notes.txt").write_text("mine")
    assert "not empty" in ended_here(line).error
