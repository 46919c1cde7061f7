"""Reading at places of open files: whole, in any number of threads, and no more files than few."""

import gc
import os
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cryorefine.io import open_files
from cryorefine.io.open_files import OpenFile, OpenFiles

on_linux = pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="needs /proc/self/fd")


@pytest.fixture(scope="module")
def numbered(tmp_path_factory) -> list[Path]:
    """A hundred files of four kilobytes, each full of its own number."""
    folder = tmp_path_factory.mktemp("numbered")
    for i in range(100):
        (folder / str(i)).write_bytes(bytes([i]) * 4096)
    return [folder / str(i) for i in range(100)]


@pytest.fixture(scope="module")
def content(tmp_path_factory) -> tuple[Path, bytes]:
    path = tmp_path_factory.mktemp("content") / "file"
    path.write_bytes(np.random.default_rng(0).bytes(5000))
    return path, path.read_bytes()


def open_among(paths: list[Path]) -> int:
    """Return how many descriptors of this process lead to some files."""
    names = {str(path) for path in paths}
    found = 0
    for entry in os.listdir("/proc/self/fd"):
        try:
            found += os.readlink(f"/proc/self/fd/{entry}") in names
        except OSError:
            continue  # that of the listing itself
    return found


def pieces_of(buffer: np.ndarray, lengths: list[int]) -> list[memoryview]:
    ends = np.cumsum([0, *lengths]).tolist()
    return [buffer.data[a:b] for a, b in pairwise(ends)]


lengths_within = st.lists(st.integers(1, 300), min_size=1, max_size=10)


@given(lengths=lengths_within, offset=st.integers(0, 1500), most=st.integers(1, 700))
def test_pieces_are_filled_whole_however_little_comes_at_a_time(content, lengths, offset, most):
    path, expected = content
    buffer = np.zeros(sum(lengths), np.uint8)

    def slow(descriptor: int, pieces: list[memoryview], place: int) -> int:
        found = os.pread(descriptor, min(most, sum(map(len, pieces))), place)
        left = found
        for piece in pieces:
            piece[: len(left)] = left[: len(piece)]
            left = left[len(piece) :]
        return len(found)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "preadv", slow, raising=False)
        OpenFile(path).read_into(pieces_of(buffer, lengths), offset)
    assert buffer.tobytes() == expected[offset : offset + len(buffer)]


def test_a_system_without_positioned_reads_reads_the_same_in_threads(content, monkeypatch):
    monkeypatch.delattr(os, "preadv", raising=False)
    path, expected = content
    file = OpenFile(path)

    def read(offset: int) -> bytes:
        buffer = np.zeros(700, np.uint8)
        file.read_into(pieces_of(buffer, [1, 399, 300]), offset)
        return buffer.tobytes()

    offsets = list(range(0, 4300, 7))
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(read, offsets))
    assert found == [expected[o : o + 700] for o in offsets]


def test_more_pieces_than_a_system_call_takes_are_filled(content):
    path, expected = content
    buffer = np.zeros(4000, np.uint8)
    OpenFile(path).read_into(pieces_of(buffer, [1] * 4000), 3)
    assert buffer.tobytes() == expected[3:4003]


@pytest.mark.parametrize("has_preadv", [True, False])
def test_a_file_that_ends_too_early_is_an_error(content, monkeypatch, has_preadv):
    if not has_preadv:
        monkeypatch.delattr(os, "preadv", raising=False)
    path, expected = content
    buffer = np.zeros(100, np.uint8)
    with pytest.raises(EOFError):
        OpenFile(path).read_into([buffer.data], len(expected) - 99)
    OpenFile(path).read_into([buffer.data], len(expected) - 100)
    assert buffer.tobytes() == expected[-100:]


def test_a_file_that_is_not_there_leaves_nothing_open(tmp_path):
    with pytest.raises(FileNotFoundError):
        OpenFiles().opened(tmp_path / "gone")


@on_linux
def test_all_owners_together_keep_few_files_open_and_none_when_they_are_gone(numbered):
    owners = [OpenFiles() for _ in range(3)]
    buffer = np.zeros(1, np.uint8)
    for k in range(3):
        for i, path in enumerate(numbered):
            owners[k].opened(path).read_into([buffer.data], i)
            assert buffer[0] == i
            assert open_among(numbered) <= open_files._MAX_OPEN
    assert open_among(numbered) == open_files._MAX_OPEN
    owners.clear()
    gc.collect()
    assert open_among(numbered) == 0


@on_linux
def test_a_file_that_a_thread_reads_stays_open_for_it(numbered, monkeypatch):
    monkeypatch.setattr(open_files, "_MAX_OPEN", 1)
    files, buffer = OpenFiles(), np.zeros(1, np.uint8)
    first = files.opened(numbered[1])
    files.opened(numbered[2])
    first.read_into([buffer.data], 0)
    assert buffer[0] == 1
    del first
    assert open_among(numbered) == 1


def test_threads_that_read_more_files_than_may_be_open_each_read_their_own(numbered, monkeypatch):
    monkeypatch.setattr(open_files, "_MAX_OPEN", 2)
    files = OpenFiles()

    def read(i: int) -> int:
        buffer = np.zeros(64, np.uint8)
        files.opened(numbered[i % 100]).read_into(pieces_of(buffer, [32, 32]), i % 4000)
        return int(buffer[0]) if (buffer == buffer[0]).all() else -1

    with ThreadPoolExecutor(16) as pool:
        assert list(pool.map(read, range(5000))) == [i % 100 for i in range(5000)]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_forked_process_reads_on_even_if_a_thread_held_the_lock(numbered):
    files, buffer = OpenFiles(), np.zeros(1, np.uint8)
    files.opened(numbered[3])
    with open_files._recent.lock:
        child = os.fork()
        if child == 0:
            code = 1
            try:
                for i in (3, 4):
                    files.opened(numbered[i]).read_into([buffer.data], 0)
                    code = 0 if buffer[0] == i else 1
            finally:
                os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    files.opened(numbered[3]).read_into([buffer.data], 0)
    assert buffer[0] == 3
