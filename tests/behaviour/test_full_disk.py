"""Real limits to what may be written, at many sizes: a line that says which file, a code, no loss.

The limit is that of the system to the size of a file. Unlike a disk that only claims to be full
(``test_kill_points.py``) it strikes within a write, wherever that is.
"""

import contextlib
import io
import resource
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from cryorefine.cli.main import main
from cryorefine.storage.layout import committed_iterations
from tests.crash_points import assert_whole

from .canned import Canned, make_canned
from .test_kill_points import again, assert_same

N_SIZES = 12


@pytest.fixture(scope="module")
def canned(tmp_path_factory) -> Canned:
    return make_canned(tmp_path_factory.mktemp("canned"))


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


def assert_stopped(code: int, line: str, folder: Path) -> None:
    """Check that a run stopped for want of space by the documented code, and names a file."""
    assert code == 3, line
    assert "File too large" in line, line
    assert str(folder) in line.split(": File too large")[0], line
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
