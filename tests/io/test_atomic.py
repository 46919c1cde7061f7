import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cryorefine.io.atomic import atomic_path, write_text


@pytest.fixture
def umask_027():
    old = os.umask(0o027)
    yield
    os.umask(old)


def test_the_new_content_appears_when_the_block_has_ended(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with atomic_path(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


@pytest.mark.parametrize("crash", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_a_crash_in_the_block_leaves_the_old_content_and_no_stray_file(tmp_path, crash):
    path = tmp_path / "a.txt"
    path.write_text("old")

    def write():
        with atomic_path(path) as temporary:
            temporary.write_text("half of the n")
            raise crash

    with pytest.raises(crash):
        write()
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_a_crash_before_there_was_a_file_leaves_none(tmp_path):
    with pytest.raises(RuntimeError), atomic_path(tmp_path / "a.txt"):
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_a_block_that_removes_its_own_file_fails_with_the_old_content_in_place(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(FileNotFoundError), atomic_path(path) as temporary:
        temporary.unlink()
    assert path.read_text() == "old"


@pytest.mark.usefixtures("umask_027")
def test_permissions_follow_the_umask(tmp_path):
    write_text(tmp_path / "a.txt", "x")
    assert stat.S_IMODE((tmp_path / "a.txt").stat().st_mode) == 0o640


def test_the_temporary_file_lies_in_the_same_folder_and_is_hidden(tmp_path):
    with atomic_path(tmp_path / "a.txt") as temporary:
        assert temporary.parent == tmp_path
        assert temporary.name.startswith(".")


def test_a_path_relative_to_the_working_folder_is_written_there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_text(Path("a.txt"), "x")
    assert (tmp_path / "a.txt").read_text() == "x"


def test_text_is_written_as_utf8(tmp_path):
    write_text(tmp_path / "a.txt", "1 Å\n")
    assert (tmp_path / "a.txt").read_bytes() == b"1 \xc3\x85\n"


def test_the_mask_of_rights_which_all_threads_share_is_left_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "umask", lambda mask: pytest.fail("changed for a moment"))
    write_text(tmp_path / "a.txt", "x")


def test_threads_write_files_of_a_folder_at_once(tmp_path):
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda k: write_text(tmp_path / f"{k % 20}.txt", f"{k % 20}"), range(200)))
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == {
        f"{k}.txt": f"{k}" for k in range(20)
    }
