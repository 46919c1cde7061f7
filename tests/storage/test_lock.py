"""One process at a time works in a run folder, and a dead one is in nobody's way."""

import errno
import fcntl
import json
import multiprocessing
import os
import signal
import socket
import subprocess
import sys

import pytest

from cryorefine.errors import InputError
from cryorefine.storage import lock as lock_module
from cryorefine.storage.layout import LOCK
from cryorefine.storage.lock import FolderInUse, locked

HOLD = """
import sys, time
sys.argv = ["cryorefine", "resume", "run"]
from pathlib import Path
from cryorefine.storage import lock
if {without}:
    import errno, fcntl
    def none(*args): raise OSError(errno.ENOSYS, "no locks")
    fcntl.flock = none
with lock.locked(Path({run!r})):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture(params=[False, True], ids=["locks", "no locks"])
def without(request, monkeypatch) -> bool:
    """Whether the file system has no locks."""

    def none(*args):
        raise OSError(errno.ENOSYS, "no locks")

    if request.param:
        monkeypatch.setattr(fcntl, "flock", none)
    return request.param


def holder(run, without: bool) -> subprocess.Popen:
    """Start another process that holds a folder, and wait until it does."""
    code = HOLD.format(run=str(run), without=without)
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_another_process_is_refused_and_told_who_holds_it_until_that_is_killed(tmp_path, without):
    with holder(tmp_path, without) as process:
        with pytest.raises(FolderInUse) as caught, locked(tmp_path):
            pass
        for part in (f"process {process.pid} on {socket.gethostname()}", "'cryorefine resume run'"):
            assert part in str(caught.value)
        process.send_signal(signal.SIGKILL)
    assert (tmp_path / LOCK).exists()
    with locked(tmp_path):
        assert json.loads((tmp_path / LOCK).read_text())["pid"] == os.getpid()
    assert list(tmp_path.iterdir()) == []


def test_another_thread_of_this_process_is_refused(tmp_path, without):
    with (
        locked(tmp_path),
        pytest.raises(FolderInUse, match=f"process {os.getpid()}"),
        locked(tmp_path),
    ):
        pass
    with locked(tmp_path):
        pass


def test_an_error_lets_the_folder_go(tmp_path, without):
    with pytest.raises(KeyboardInterrupt), locked(tmp_path):
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_without_locks_a_process_of_another_machine_is_not_judged(tmp_path, monkeypatch):
    def none(*args):
        raise OSError(errno.ENOLCK, "no locks")

    monkeypatch.setattr(fcntl, "flock", none)
    text = json.dumps({"host": "elsewhere", "pid": 1, "begun": "", "command": ["cryorefine"]})
    (tmp_path / LOCK).write_text(text)
    with (
        pytest.raises(FolderInUse, match=f"on elsewhere .*emove {tmp_path / LOCK}"),
        locked(tmp_path),
    ):
        pass
    assert (tmp_path / LOCK).read_text() == text
    (tmp_path / LOCK).unlink()
    with locked(tmp_path):
        pass


def test_without_locks_a_number_given_anew_is_no_living_holder(tmp_path, monkeypatch):
    def none(*args):
        raise OSError(errno.ENOSYS, "no locks")

    monkeypatch.setattr(fcntl, "flock", none)
    entry = {"host": socket.gethostname(), "pid": os.getpid(), "begun": "before"}
    (tmp_path / LOCK).write_text(json.dumps(entry))
    with locked(tmp_path):
        pass


def test_other_troubles_of_a_lock_are_not_hidden(tmp_path, monkeypatch):
    def broken(*args):
        raise OSError(errno.EIO, "broken")

    monkeypatch.setattr(fcntl, "flock", broken)
    with pytest.raises(OSError, match="broken"), locked(tmp_path):
        pass


def test_a_lock_that_is_a_link_is_refused_and_its_target_left_alone(tmp_path):
    target = tmp_path / "precious.txt"
    target.write_text("precious")
    run = tmp_path / "run"
    run.mkdir()
    (run / LOCK).symlink_to(target)
    with pytest.raises(InputError, match="is a link"), locked(run):
        pass
    assert target.read_text() == "precious"


def count_in_turn(run, counter, tries: int) -> None:
    """Count up in a file, as only one at a time can do without losing a count."""
    done = 0
    while done < tries:
        try:
            with locked(run):
                n = int(counter.read_text())
                counter.write_text(str(n + 1))
                done += 1
        except FolderInUse:
            pass


def test_of_many_processes_that_take_turns_only_one_at_a_time_is_within(tmp_path):
    run, counter = tmp_path / "run", tmp_path / "counter"
    run.mkdir()
    counter.write_text("0")
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=count_in_turn, args=(run, counter, 25)) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert counter.read_text() == "75"
    assert lock_module._begun(os.getpid()) or not os.path.exists("/proc/self/stat")
