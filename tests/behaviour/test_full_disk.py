"""Real limits to what may be written, at many sizes: a line that says which file, a code, no loss.

The limit is that of the system to the size of a file. Unlike a disk that only claims to be full
(``test_kill_points.py``) it strikes within a write, wherever that is.
"""

import contextlib
import errno
import io
import os
import resource
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from cryorefine.cli import run_display
from cryorefine.cli.main import main
from cryorefine.run.checkpoint import load_state
from cryorefine.storage.layout import committed_iterations
from tests.builders import optics_columns, particle_columns, write_mrc, write_particle_star
from tests.crash_points import assert_whole
from tests.run.test_checkpoint import assert_bit_equal

from .canned import Canned
from .test_kill_points import REPRODUCED, again, assert_same

N_SIZES = 12
TOO_LARGE, NO_SPACE = os.strerror(errno.EFBIG), os.strerror(errno.ENOSPC)
"""What the system answers where a file may not grow, and where a disk is full."""


def sizes_of(folder: Path) -> list[int]:
    """Return limits from a few bytes to a byte less than the largest file that a run must write.

    A report that cannot be written does not end a run.
    """
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != "report.html"]
    largest = max(path.stat().st_size for path in files)
    return np.geomspace(20, largest - 1, N_SIZES).astype(int).tolist()


@contextlib.contextmanager
def limited(size_bytes: int) -> Iterator[None]:
    """Let no file of this process grow beyond a size."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def command(size_bytes: int, *arguments: object) -> tuple[int, str]:
    """Run the command line under a limit; return its code and the last line that it complains in.

    A command that fails says so in one line that names a file, and what to do.
    """
    error = io.StringIO()
    with (
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(error),
        pytest.raises(SystemExit) as stop,
        limited(size_bytes),
    ):
        main([str(a) for a in arguments])
    lines = [line for line in error.getvalue().splitlines() if line.startswith("cryorefine: ")]
    code = stop.value.code if isinstance(stop.value.code, int) else 0
    assert len(lines) == (code != 0), error.getvalue()
    assert "Traceback" not in error.getvalue()
    return code, lines[-1] if lines else ""


def arguments_of(canned: Canned, run: Path) -> list[object]:
    settings = canned.settings
    return [
        "refine", settings.particles, "--reference", settings.reference[0], "--output", run,
        "--alignment", "global", "--iterations", 2, "--threads", 1,
    ]  # fmt: skip


def assert_stopped(code: int, line: str, folder: Path, lack: str = TOO_LARGE) -> None:
    """Check that a run stopped for want of space by the documented code, and names a file."""
    assert code == 3, line
    assert lack in line, line
    assert str(folder) in line.split(f": {lack}")[0], line
    assert "resume" in line or "--overwrite" in line or "nothing has been written" in line, line


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:report.html could not be written:RuntimeWarning")
@pytest.mark.parametrize("overwrites", [False, True])
def test_a_run_that_finds_no_room_says_which_file_and_goes_on_when_there_is(
    canned, tmp_path, overwrites
):
    codes = []
    with canned.in_use():
        for size in sizes_of(canned.folder):
            run = tmp_path / f"run_{size}"
            if overwrites:
                shutil.copytree(canned.folder, run)
            more = ["--overwrite"] if overwrites else []
            code, line = command(size, *arguments_of(canned, run), *more)
            codes.append(code)
            assert_stopped(code, line, run)
            again(run, canned)
            assert_same(run, canned)
    assert len(codes) == N_SIZES


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:report.html could not be written:RuntimeWarning")
def test_a_reconstruction_that_finds_no_room_says_which_file_and_goes_on_when_there_is(
    given_poses, tmp_path
):
    with given_poses.in_use():
        for size in sizes_of(given_poses.folder):
            run = tmp_path / f"run_{size}"
            code, line = command(size, *reconstruct(given_poses, run))
            assert_stopped(code, line, run)
            again(run, given_poses)
            assert_reconstructed(run, given_poses)


def reconstruct(given_poses: Canned, run: Path) -> list[object]:
    return ["reconstruct", given_poses.settings.particles, "--output", run, "--threads", 1]


def assert_reconstructed(run: Path, given_poses: Canned) -> None:
    """Check that a folder is whole, and that its result is that of a run nobody stopped."""
    assert_whole(run)
    expected, found = (load_state(folder, 1).state for folder in (given_poses.folder, run))
    assert_bit_equal(found, expected)
    for name in REPRODUCED:
        assert (run / name).read_bytes() == (given_poses.folder / name).read_bytes()


CONVERTED = ("p.star", "p.cs", "p.csg", "p.xmd", "poses.pkl")
N_CONVERTED = 2000
"""Particles: enough for files of many pages of memory, by which a small disk counts."""


@pytest.fixture(scope="module")
def many(tmp_path_factory) -> Path:
    """A particle file of two thousand poses."""
    folder = tmp_path_factory.mktemp("many")
    images = np.random.default_rng(1).normal(size=(N_CONVERTED, 8, 8)).astype(np.float32)
    write_mrc(folder / "stack.mrcs", images)
    angles = {f"rlnAngle{name}": 30.0 for name in ("Rot", "Tilt", "Psi")}
    columns = particle_columns(N_CONVERTED, **angles, rlnOriginXAngst=1.0, rlnOriginYAngst=2.0)
    optics = optics_columns(1, rlnImageSize=8)
    return write_particle_star(folder / "particles.star", columns, optics)


@pytest.mark.parametrize("name", CONVERTED)
def test_a_conversion_that_finds_no_room_leaves_nothing_and_works_when_there_is(
    many, tmp_path, name
):
    whole, target = tmp_path / "whole" / name, tmp_path / "limited" / name
    for path in (whole, target):
        path.parent.mkdir()
    assert command(10**9, "convert", many, whole) == (0, "")
    largest = max(path.stat().st_size for path in whole.parent.iterdir())
    for size in np.unique(np.geomspace(20, largest - 1, N_SIZES).astype(int)).tolist():
        code, line = command(size, "convert", many, target)
        assert (code, TOO_LARGE in line, str(target.parent) in line) == (2, True, True), line
        assert not list(target.parent.iterdir())
    assert command(10**9, "convert", many, target) == (0, "")
    assert sorted(p.name for p in target.parent.iterdir()) == sorted(
        p.name for p in whole.parent.iterdir()
    )


class SmallDisk:
    """A file system of its own, which is as large as is said."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self._mounted("tmpfs", "-t", "tmpfs")

    def leave(self, free_bytes: int | None) -> None:
        """Leave so much room, to the page; None: plenty."""
        status, page = os.statvfs(self.place), os.sysconf("SC_PAGE_SIZE")
        used = (status.f_blocks - status.f_bfree) * status.f_bsize
        size = 2**28 if free_bytes is None else used + max(page, free_bytes)
        self._mounted("tmpfs", "-o", f"remount,size={size}")

    def close(self) -> None:
        subprocess.run(["umount", self.place], check=True)

    def _mounted(self, *arguments: str) -> None:
        subprocess.run(["mount", *arguments, self.place], check=True, capture_output=True)


@pytest.fixture
def disk(tmp_path, monkeypatch) -> Iterator[SmallDisk]:
    monkeypatch.setattr(run_display, "write_report", lambda run: None)
    (tmp_path / "disk").mkdir()
    try:
        small = SmallDisk(tmp_path / "disk")
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"only a user who may mount file systems can make a small one: {error}")
    try:
        yield small
    finally:
        small.close()


def tried_at_all_sizes(
    disk: SmallDisk, whole: Canned, prepare: Callable[[Path], list[object]],
    check: Callable[[Path, Canned], None],
) -> None:  # fmt: skip
    """Run a command where the disk has room for a part of what it writes, and go on with more.

    But for the report, whose lack ends no run.
    """
    run, sizes = disk.place / "run", []
    arguments = prepare(run)
    before = os.statvfs(disk.place).f_bfree
    with whole.in_use():
        assert command(10**9, *arguments) == (0, "")
    status = os.statvfs(disk.place)
    needed = (before - status.f_bfree) * status.f_bsize
    shutil.rmtree(run)
    for free_bytes in np.geomspace(4096, 0.9 * needed, N_SIZES).astype(int).tolist():
        arguments = prepare(run)
        disk.leave(free_bytes)
        with whole.in_use():
            code, line = command(10**9, *arguments)
            assert_stopped(code, line, run, NO_SPACE)
            disk.leave(None)
            again(run, whole)
            check(run, whole)
        sizes.append(free_bytes)
        shutil.rmtree(run)
    assert len(sizes) == N_SIZES


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:report.html could not be written:RuntimeWarning")
@pytest.mark.parametrize("kind", ["refine", "resume"])
def test_a_run_on_a_small_disk_stops_cleanly_and_goes_on_when_there_is_room(canned, disk, kind):
    def prepare(run: Path) -> list[object]:
        if kind == "refine":
            return arguments_of(canned, run)
        shutil.copytree(canned.folder, run)
        shutil.rmtree(run / "iteration_002")
        return ["resume", run]

    tried_at_all_sizes(disk, canned, prepare, assert_same)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:report.html could not be written:RuntimeWarning")
def test_a_reconstruction_on_a_small_disk_stops_cleanly_and_goes_on(given_poses, disk):
    tried_at_all_sizes(
        disk, given_poses, lambda run: reconstruct(given_poses, run), assert_reconstructed
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", CONVERTED)
def test_a_conversion_on_a_small_disk_leaves_nothing_where_there_is_no_room(many, disk, name):
    target = disk.place / name
    assert command(10**9, "convert", many, target) == (0, "")
    largest = max(path.stat().st_size for path in disk.place.iterdir())
    for path in disk.place.iterdir():
        path.unlink()
    (disk.place / "mine").write_bytes(b"x" * 100_000)
    limits = np.unique(np.geomspace(4096, largest - 4096, N_SIZES).astype(int)).tolist()
    assert len(limits) == N_SIZES
    for free_bytes in limits:
        disk.leave(free_bytes)
        code, line = command(10**9, "convert", many, target)
        assert (code, NO_SPACE in line) == (2, True), line
        assert [path.name for path in disk.place.iterdir()] == ["mine"]
    disk.leave(None)
    assert command(10**9, "convert", many, target) == (0, "")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:report.html could not be written:RuntimeWarning")
def test_a_run_that_finds_no_room_when_it_is_resumed_keeps_what_was_committed(canned, tmp_path):
    for size in sizes_of(canned.folder / "iteration_002"):
        run = tmp_path / f"run_{size}"
        shutil.copytree(canned.folder, run)
        shutil.rmtree(run / "iteration_002")
        with canned.in_use():
            code, line = command(size, "resume", run)
            assert_stopped(code, line, run)
            assert committed_iterations(run)[:2] == [0, 1]
            again(run, canned)
        assert_same(run, canned)


def test_a_finished_run_that_finds_no_room_for_its_last_event_stops_as_one_that_can_be_resumed(
    canned, tmp_path
):
    run = tmp_path / "run"
    shutil.copytree(canned.folder, run)
    with canned.in_use():
        code, line = command((run / "events.jsonl").stat().st_size + 1, "resume", run)
        assert_stopped(code, line, run)
        assert "2 iterations are safe" in line or "as it was" in line
        assert command(10**9, "resume", run) == (0, "")
    assert_whole(run)


@pytest.mark.slow
def test_a_report_that_finds_no_room_says_so_and_leaves_the_old_one(canned, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(canned.folder, run)
    assert command(10**9, "report", run) == (0, "")
    before = (run / "report.html").read_bytes()
    for size in np.geomspace(20, len(before) - 5000, N_SIZES).astype(int).tolist():
        code, line = command(size, "report", run)
        assert (code, "report.html: File too large" in line) == (2, True), line
        assert (run / "report.html").read_bytes() == before
    assert not list(run.glob(".*.part"))
