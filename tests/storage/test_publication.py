"""The top of a run folder shows one iteration, whenever the process that copies it is killed."""

import json
import shutil
from contextlib import suppress
from pathlib import Path

import pytest

from cryorefine.storage.layout import RESULTS
from cryorefine.storage.lock import locked
from cryorefine.storage.publication import publish, repair, repair_if_free, unlike_iteration
from tests.crash_points import assert_whole, full_disk_at, killed_at

ALWAYS = ("map.mrc", "half1.mrc", "half2.mrc", "fsc.star", "particles.star", "summary.json")


def add_iteration(run: Path, number: int, *more: str) -> None:
    folder = run / f"iteration_{number:03d}"
    folder.mkdir(parents=True)
    for name in (*ALWAYS, *more):
        (folder / name).write_text(f"{name} of iteration {number}, and all of one length")
    (folder / "state.npz").write_text("x")
    (folder / "reference1.mrc").write_text("x")


def make_run(run: Path) -> Path:
    """A run whose second iteration is committed and not yet published."""
    add_iteration(run, 1, "undecided_poses.star", "rejected_particles.star")
    publish(run, 1)
    add_iteration(run, 2, "map_processed.mrc")
    return run


def test_what_is_published_is_of_one_iteration_and_of_no_other(tmp_path):
    run = make_run(tmp_path / "run")
    assert unlike_iteration(run) == ["published.json"]
    publish(run, 2)
    assert_whole(run)
    assert unlike_iteration(run) == []
    assert not (run / "undecided_poses.star").exists()
    assert json.loads((run / "published.json").read_text())["iteration"] == 2


def points(tmp_path: Path) -> int:
    run = make_run(tmp_path / "counted")
    with killed_at(0) as count:
        publish(run, 2)
    return count.n


def test_a_kill_at_any_point_of_publishing_is_seen_and_put_right(tmp_path):
    n = points(tmp_path)
    assert n > 40
    for point in range(1, n + 1):
        run = make_run(tmp_path / "run")
        with killed_at(point) as count:
            publish(run, 2)
        assert count.name
        # Again within putting it right, at a point that depends on the first.
        with killed_at(1 + point * 7 % n):
            repair(run)
        is_whole = not unlike_iteration(run)
        wrong = repair(run)
        assert bool(wrong) != is_whole
        assert_whole(run)
        shutil.rmtree(run)


def test_a_full_disk_at_any_point_of_publishing_is_seen_and_put_right(tmp_path):
    for point in range(1, points(tmp_path) + 1, 3):
        run = make_run(tmp_path / "run")
        with full_disk_at(point), suppress(OSError):
            publish(run, 2)
        repair(run)
        assert_whole(run)
        shutil.rmtree(run)


@pytest.mark.parametrize("name", ALWAYS)
def test_one_file_of_another_iteration_is_found_and_replaced(tmp_path, name):
    run = make_run(tmp_path / "run")
    publish(run, 2)
    shutil.copyfile(run / "iteration_001" / name, run / name)
    assert unlike_iteration(run) == [name]
    repair_if_free(run)
    assert_whole(run)


def test_a_file_that_no_iteration_has_is_found_and_removed(tmp_path):
    run = make_run(tmp_path / "run")
    publish(run, 2)
    (run / "undecided_poses.star").write_text("x")
    (run / "notes.txt").write_text("mine")
    assert repair(run) == ["undecided_poses.star"]
    assert_whole(run)
    assert (run / "notes.txt").read_text() == "mine"


def test_a_copied_folder_whose_times_are_new_is_whole(tmp_path):
    run = make_run(tmp_path / "run")
    publish(run, 2)
    shutil.copytree(run, tmp_path / "copy", copy_function=shutil.copyfile)
    assert unlike_iteration(tmp_path / "copy") == []


@pytest.mark.parametrize(
    "text", ["", "[]", '{"iteration": 2, "is_whole": true, "files": {"a": 1}}']
)
def test_a_damaged_record_is_made_anew(tmp_path, text):
    run = make_run(tmp_path / "run")
    publish(run, 2)
    (run / "published.json").write_text(text)
    assert unlike_iteration(run) == ["published.json"]
    repair(run)
    assert_whole(run)


def test_someone_who_reads_changes_nothing_while_a_process_works_in_the_folder(tmp_path):
    run = make_run(tmp_path / "run")
    with locked(run):
        repair_if_free(run)
    assert unlike_iteration(run) == ["published.json"]


def test_what_a_killed_process_left_half_done_is_removed_and_nothing_else(tmp_path):
    run = make_run(tmp_path / "run")
    publish(run, 2)
    for name in (".map.mrc.abcd1234.part", ".settings_leg002.toml.abcd1234.part"):
        (run / name).write_text("half")
    for name in (".iteration_003.part", ".leg_002.part"):
        (run / name).mkdir()
        (run / name / ".reference1.mrc.abcd1234.part").write_text("half")
        (run / name / "state.npz").write_text("half")
    mine = (".notes.part", ".thesis.txt.abcd1234.part", ".iteration_plan.part")
    for name in mine:
        (run / name).write_text("mine")
    (run / ".iteration_004.part").mkdir()
    (run / ".iteration_004.part" / "ideas.txt").write_text("mine")
    repair(run)
    hidden = sorted(p.name for p in run.iterdir() if p.name.startswith("."))
    assert hidden == sorted([*mine, ".iteration_004.part"])
    assert (run / ".iteration_004.part" / "ideas.txt").exists()


def test_a_list_of_an_earlier_version_that_only_the_top_has_is_kept(tmp_path):
    add_iteration(tmp_path, 1)
    (tmp_path / "rejected_particles.star").write_text("of an earlier version")
    repair(tmp_path)
    assert (tmp_path / "rejected_particles.star").exists()
    assert unlike_iteration(tmp_path) == []
    add_iteration(tmp_path, 2)
    publish(tmp_path, 2)
    assert not (tmp_path / "rejected_particles.star").exists()
    assert set(ALWAYS) < set(RESULTS)
