import pytest

from cryorefine.run import folder as folder_module
from cryorefine.run.folder import check_output_folder, clear_run
from tests.builders import refused


def make_run(folder):
    """Make a folder that looks like a finished run, with one cut-off iteration."""
    for name in ("iteration_000", "iteration_001", ".iteration_002.part"):
        (folder / name).mkdir(parents=True)
        (folder / name / "state.npz").write_text("x")
    for name in folder_module._RUN_FILES:
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
    check_output_folder(tmp_path, overwrite=True)
    with refused("holds a run already"):
        check_output_folder(tmp_path, overwrite=False)


@pytest.mark.parametrize("exists", [False, True])
def test_a_folder_that_may_not_be_written_to_is_refused(tmp_path, monkeypatch, exists):
    monkeypatch.setattr(folder_module.os, "access", lambda path, mode: False)
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
    clear_run(run)
    left = sorted(str(p.relative_to(run)) for p in run.rglob("*"))
    assert left == [
        "figures",
        "iteration_001.txt",
        "iteration_plan",
        "iteration_plan/ideas.txt",
        "notes.txt",
    ]


def test_clearing_an_empty_folder_does_nothing(tmp_path):
    clear_run(tmp_path)
    assert list(tmp_path.iterdir()) == []
