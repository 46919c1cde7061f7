"""A run goes on from any working folder, after it was moved, and as a copy in a new folder."""

import json
import shutil
from pathlib import Path

import pytest

import cryorefine as cr
from cryorefine.cli.main import main
from cryorefine.run.checkpoint import load_state
from cryorefine.run.loop import resume
from cryorefine.settings import load_settings, make_settings
from cryorefine.storage.layout import committed_iterations
from cryorefine.storage.lock import locked
from tests.builders import refused
from tests.run.test_checkpoint import assert_bit_equal

from .conftest import simulate_set, stopped_run


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A project with a set and, in ``jobs/run``, a run of it whose paths are relative: 1 of 2."""
    folder = tmp_path_factory.mktemp("made")
    simulate_set(
        folder / "data",
        particles=32, box_px=24, pixel_angstrom=7.0, per_micrograph=8, snr=0.5,
        diameter_angstrom=110,
    )  # fmt: skip
    settings = make_settings({
        "particles": "data/particles.star", "reference": ("data/reference.mrc",),
        "alignment": "global", "iterations": 2, "threads": 1, "reference_mask": "data/mask.mrc",
    })  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        cr.Volume(cr.read_volume("data/truth_map.mrc").data * 0 + 1, 7.0).write("data/mask.mrc")
        stopped_run(settings, Path("jobs/run"))
    return folder


@pytest.fixture
def project(made, tmp_path) -> Path:
    """A copy of it whose run has not been told that it was moved."""
    folder = tmp_path / "project"
    shutil.copytree(made, folder)
    return folder


@pytest.fixture(scope="module")
def uninterrupted(made, tmp_path_factory) -> Path:
    """The run after its second iteration, resumed where it was begun."""
    folder = tmp_path_factory.mktemp("uninterrupted") / "project"
    shutil.copytree(made, folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        resume(Path("jobs/run"))
    return folder / "jobs" / "run"


def contents(run: Path) -> dict[str, bytes]:
    return {str(p.relative_to(run)): p.read_bytes() for p in run.rglob("*") if p.is_file()}


def assert_same(run: Path, other: Path) -> None:
    assert committed_iterations(run) == committed_iterations(other) == [0, 1, 2]
    assert_bit_equal(load_state(run, 2).state, load_state(other, 2).state)


def test_a_run_of_relative_paths_goes_on_from_any_working_folder_and_where_it_was_moved(
    project, uninterrupted, tmp_path, monkeypatch
):
    (tmp_path / "elsewhere").mkdir()
    moved = tmp_path / "elsewhere" / "renamed"
    shutil.move(project, moved)
    monkeypatch.chdir(tmp_path / "elsewhere")
    run = moved / "jobs" / "run"
    assert resume(run)["iterations"] == 2
    assert_same(run, uninterrupted)
    # What was suspended is found again, too; and the next segment names what it found.
    assert resume(run, changes={"alignment": "none"})["iterations"] == 3
    assert resume(run, changes={"alignment": "local", "iterations": 1})["iterations"] == 4
    settings = load_settings(run / "settings.toml")
    for name in ("particles", "reference_mask"):
        assert Path(settings[name]).is_relative_to(moved)
    assert Path(settings["reference"][0]) == moved / "data" / "reference.mrc"


def test_what_moved_along_is_preferred_to_what_stayed_and_is_compared_with_what_it_was(
    project, tmp_path, capsys
):
    # The run knows the folder that it was begun in, which is still there.
    other = project / "data" / "reference.mrc"
    content = bytearray(other.read_bytes())
    content[-5] ^= 1
    other.write_bytes(content)
    with refused("inputs have changed", str(other)):
        resume(project / "jobs" / "run")
    lost = tmp_path / "lost"
    shutil.move(project / "data", lost)
    shutil.move(project / "jobs" / "run", tmp_path / "run")
    # Its inputs did not move along: the old place has them still.
    with pytest.raises(SystemExit) as stop:
        main(["resume", str(tmp_path / "run")])
    assert stop.value.code == 0, capsys.readouterr().err


@pytest.mark.slow
def test_a_copy_goes_on_while_the_run_stays_and_needs_it_no_more(
    project, uninterrupted, tmp_path, monkeypatch
):
    run, copy = project / "jobs" / "run", tmp_path / "copies" / "copy"
    before = contents(run)
    with pytest.raises(SystemExit) as stop:
        main(["resume", str(run), "--output", str(copy)])
    assert stop.value.code == 0
    assert contents(run) == before
    assert_same(copy, uninterrupted)
    done = cr.open_run(copy)
    assert [i.number for i in done.iterations] == [1, 2]
    assert (copy / "report.html").exists()
    shutil.move(run, tmp_path / "gone")
    monkeypatch.chdir(tmp_path)
    assert resume(copy, changes={"alignment": "none"})["iterations"] == 3
    events = (copy / "events.jsonl").read_text().splitlines()
    assert len(events) > len(before["events.jsonl"].splitlines())
    assert len({json.loads(line)["kind"] for line in events}) > 3


def test_objects_of_a_run_go_along_into_its_copy(tmp_path):
    made = cr.simulate(
        "phantom",
        output=tmp_path / "set",
        particles=24,
        box_px=24,
        pixel_angstrom=7.0,
        snr=1.0,
        diameter_angstrom=110,
    )
    run, copy = tmp_path / "run", tmp_path / "copy"
    options = {"alignment": "none", "threads": 1}
    cr.refine(made.true_particles, symmetry="c1", output=run, **options)
    before = contents(run)
    everywhere = cr.Volume(made.true_map.data * 0 + 1, 7.0)
    done = cr.open_run(run).resume(fsc_criterion=0.5, mask=everywhere, output=copy)
    assert contents(run) == before
    assert done.number == 2
    shutil.move(run, tmp_path / "gone")
    assert cr.open_run(copy).resume(mask=None, dropout=None).number == 3
    assert cr.open_run(copy).settings.particles.is_relative_to(copy)


def test_a_copy_that_is_refused_leaves_nothing(project, tmp_path):
    run, copy = project / "jobs" / "run", tmp_path / "copy"
    before = contents(run)
    with refused("--dropout"):
        resume(run, changes={"dropout": 3}, target=copy)
    with refused("no such"):
        resume(run, changes={"mask": tmp_path / "gone.mrc"}, target=copy)
    assert not copy.exists()
    for wrong in (run, run / "inside", project):
        with refused("folder of the run"):
            resume(run, target=wrong)
    with locked(run), refused("works in the folder"):
        resume(run, target=copy)
    assert not copy.exists()
    copy.mkdir()
    (copy / "note.txt").write_text("mine")
    with refused("not empty"):
        resume(run, target=copy)
    assert [p.name for p in copy.iterdir()] == ["note.txt"]
    assert contents(run) == before


def test_a_copy_replaces_a_run_only_where_that_is_said(project, tmp_path):
    run, copy = project / "jobs" / "run", tmp_path / "copy"
    shutil.copytree(run, copy)
    with refused("holds a run already", "--overwrite"):
        resume(run, target=copy)
    assert resume(run, target=copy, overwrite=True)["iterations"] == 2
    with pytest.raises(SystemExit) as stop:
        main(["resume", str(run), "--overwrite"])
    assert stop.value.code == 2
