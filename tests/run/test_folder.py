import os
import shutil

import pytest

from cryorefine.run.checkpoint import save_state
from cryorefine.run.folder import check_inputs_stay, check_output_folder
from cryorefine.settings import make_settings
from cryorefine.storage.layout import RESULTS, RUN_FILES, committed_iterations
from cryorefine.storage.removal import clear_run
from tests.builders import make_checkpoint, make_state, refused


def make_run(folder):
    """Make a folder that looks like a finished run, with one cut-off iteration."""
    for name in ("iteration_000", "iteration_001", ".iteration_002.part"):
        (folder / name).mkdir(parents=True)
        (folder / name / "state.npz").write_text("x")
    for name in (*RESULTS, *RUN_FILES):
        (folder / name).write_text("x")
    return folder


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_new_or_empty_folder_is_accepted_and_left_as_it_is(tmp_path, overwrite):
    check_output_folder(tmp_path / "new" / "deep", overwrite=overwrite)
    assert list(tmp_path.iterdir()) == []
    check_output_folder(tmp_path, overwrite=overwrite)


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_file_is_refused(tmp_path, overwrite):
    (tmp_path / "a").write_text("x")
    with refused(f"{tmp_path / 'a'}: is a file", "--output"):
        check_output_folder(tmp_path / "a", overwrite=overwrite)


def test_a_folder_below_a_file_is_refused(tmp_path):
    (tmp_path / "a").write_text("x")
    with refused(f"{tmp_path / 'a'}: is a file"):
        check_output_folder(tmp_path / "a" / "b" / "c", overwrite=False)


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("name", ["notes.txt", ".hidden", "map.mrc"])
def test_a_folder_that_holds_something_else_is_refused(tmp_path, name, overwrite):
    (tmp_path / name).write_text("x")
    with refused(f"{tmp_path}: ", "holds no cryorefine run"):
        check_output_folder(tmp_path, overwrite=overwrite)


def test_an_existing_run_is_refused_unless_it_may_be_overwritten(tmp_path):
    run = make_run(tmp_path / "run")
    with refused(f"{run}: the folder holds a run already", "resume", "--overwrite"):
        check_output_folder(run, overwrite=False)
    check_output_folder(run, overwrite=True)
    assert (run / "map.mrc").exists()


def test_a_run_that_has_only_iterations_left_counts_as_one(tmp_path):
    (tmp_path / "iteration_000").mkdir()
    with refused("holds no cryorefine run"):  # anyone may name a folder so
        check_output_folder(tmp_path, overwrite=True)
    (tmp_path / "iteration_000" / "state.npz").write_text("x")
    check_output_folder(tmp_path, overwrite=True)
    with refused("holds a run already"):
        check_output_folder(tmp_path, overwrite=False)


@pytest.mark.parametrize(
    "left", [".cryorefine.lock", ".manifest.json.abcd1234.part", "inputs/", ".iteration_000.part/"]
)
def test_a_folder_of_a_process_that_was_killed_before_it_began_counts_as_empty(tmp_path, left):
    (tmp_path / left).mkdir() if left.endswith("/") else (tmp_path / left).touch()
    check_output_folder(tmp_path, overwrite=False)


def test_a_folder_that_was_being_filled_is_accepted_for_overwriting_only(tmp_path):
    run = make_run(tmp_path / "run")
    (run / "manifest.json").write_text('{"is_being_filled": true}')
    with refused("stopped before its first iteration", "--overwrite"):
        check_output_folder(run, overwrite=False)
    check_output_folder(run, overwrite=True)


LINKS = ("map.mrc", "events.jsonl", "iteration_001", "iteration_001/reference1.mrc", "legs.json")


@pytest.mark.parametrize("name", [*LINKS, ".iteration_002.part", ".cryorefine.lock"])
def test_a_link_in_place_of_a_file_of_the_run_is_refused(tmp_path, name):
    run, elsewhere = make_run(tmp_path / "run"), tmp_path / "elsewhere"
    shutil.move(run / name, elsewhere) if (run / name).exists() else elsewhere.write_text("x")
    (run / name).symlink_to(elsewhere)
    with refused(f"{run / name}: is a link to {elsewhere}", "Put the file"):
        check_output_folder(run, overwrite=True)
    (run / name).unlink()
    (run / "latest").symlink_to(elsewhere)  # a name of the user's own
    check_output_folder(run, overwrite=True)


@pytest.mark.parametrize("exists", [False, True])
def test_a_folder_that_may_not_be_written_to_is_refused(tmp_path, monkeypatch, exists):
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    folder = tmp_path if exists else tmp_path / "new"
    with refused(f"{tmp_path}: may not be written to"):
        check_output_folder(folder, overwrite=False)


def test_clearing_removes_the_files_of_a_run_and_nothing_else(tmp_path):
    run = make_run(tmp_path / "run")
    (run / "notes.txt").write_text("mine")
    (run / "iteration_plan").mkdir()
    (run / "iteration_plan" / "ideas.txt").write_text("mine")
    (run / "iteration_001.txt").write_text("mine")
    (run / "figures").mkdir()
    mine = ("iteration_1234/raw.mrc", "leg_1234/raw.mrc", "leg_2_old/state.npz")
    mine += ("iteration_001/raw.mrc", ".iteration_x.part/raw.mrc", "iteration_12/state.npz")
    # Of names that this program writes, in folders that it has not written or not so.
    mine += ("iteration_1234/map.mrc", "leg_1234/settings.toml", ".iteration_x.part/state.npz")
    mine += ("iteration_0012/map.mrc", "iteration_001/.notes.txt.abcdefgh.part")
    for name in mine:
        (run / name).parent.mkdir(exist_ok=True)
        (run / name).write_text("mine")
    (run / "settings_legacy.toml").write_text("mine")
    (run / ".notes.txt.abcdefgh.part").write_text("mine")
    (run / "iteration_999").mkdir()
    clear_run(run)
    left = sorted(str(p.relative_to(run)) for p in run.rglob("*"))
    folders = {name.partition("/")[0] for name in mine}
    assert left == sorted(
        [
            *mine,
            *folders,
            "settings_legacy.toml",
            ".notes.txt.abcdefgh.part",
            "iteration_999",
            "figures",
            "iteration_001.txt",
            "iteration_plan",
            "iteration_plan/ideas.txt",
            "manifest.json",  # by it the folder is still known as one that may be overwritten
            "notes.txt",
        ]
    )
    check_output_folder(run, overwrite=True)


@pytest.mark.parametrize(
    ("option", "name"),
    [
        ("particles", "particles.star"),
        ("reference", "map.mrc"),
        ("mask", "mask.mrc"),
        ("compare_to", "iteration_001/map.mrc"),
        ("post_mask", "iteration_001/../start.mrc"),
        ("mask", "rejected_particles.star"),
    ],
)
def test_an_input_among_the_results_that_would_be_replaced_is_refused(tmp_path, option, name):
    run = make_run(tmp_path / "run")
    path = tmp_path / "here" / ".." / "run" / name  # however it is written
    values = {"particles": "p.star", "reference": ["m.mrc"]}
    values[option] = [path] if option == "reference" else path
    with refused(f"{path}: an input lies among the results", "copy the file"):
        check_inputs_stay(run, make_settings(values), ())
    check_inputs_stay(tmp_path / "other", make_settings(values), ())


def test_inputs_beside_the_results_are_accepted_and_stay(tmp_path):
    run = make_run(tmp_path / "run")
    inputs = [run / "particles" / "map.mrc", run / "start.mrc", run / "stack.mrcs"]
    inputs[0].parent.mkdir()
    for path in inputs:
        path.write_text("x")
    settings = make_settings({"particles": inputs[0], "reference": [inputs[1]]})
    check_inputs_stay(run, settings, (inputs[2],))
    clear_run(run)
    assert all(path.exists() for path in inputs)
    stack = run / "half1.mrc"
    with refused(f"{stack}: an input"):
        check_inputs_stay(run, settings, (stack,))


def test_clearing_an_empty_folder_does_nothing(tmp_path):
    clear_run(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_an_iteration_takes_the_place_of_an_empty_folder_and_of_no_other(tmp_path):
    (tmp_path / "iteration_001").mkdir()  # its last file was removed when the process was killed
    save_state(tmp_path, make_checkpoint(make_state(1)), lambda folder: None)
    assert committed_iterations(tmp_path) == [1]
    (tmp_path / "iteration_002").mkdir()
    (tmp_path / "iteration_002" / "raw.txt").write_text("mine")
    with refused("iteration_002: is in the way"):
        save_state(tmp_path, make_checkpoint(make_state(2)), lambda folder: None)
    assert [path.name for path in (tmp_path / "iteration_002").iterdir()] == ["raw.txt"]
