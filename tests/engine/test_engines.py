import os
import subprocess
import sys
import threading
import time
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import torch

from cryorefine.compiled import kernel_threads, use_kernel_threads
from cryorefine.engine.blocks import Block
from cryorefine.engine.processes import ProcessEngine, WorkersLost
from cryorefine.engine.protocol import Engine, merged
from cryorefine.engine.serial import SerialEngine
from cryorefine.engine.threaded import ThreadEngine
from cryorefine.engine.threads import side_by_side
from tests.engine.tasks import Die, Fail, Scale, Threads

ROOT = Path(__file__).parents[2]


def blocks_of(n: int, size: int = 5) -> list[Block]:
    return [Block(1 + k % 2, k, "", np.arange(k * size, (k + 1) * size)) for k in range(n)]


class Meet:
    """Tells how many threads torch and the kernels have while so many blocks are worked on."""

    def __init__(self, n):
        self.meeting = threading.Barrier(n, timeout=20)

    def run(self, block, done):
        self.meeting.wait()
        found = torch.get_num_threads(), kernel_threads()
        self.meeting.wait()
        return found


@pytest.fixture(autouse=True)
def workers_find_the_tests(monkeypatch):
    """Let worker processes import the tasks of this folder."""
    known = os.environ.get("PYTHONPATH", "")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(ROOT), known])))


@pytest.fixture(scope="module")
def processes():
    """One for all tests: workers start as they are needed, and each takes seconds to load torch."""
    with closing(ProcessEngine(2, threads=6)) as made:
        yield made


@pytest.fixture(params=["serial", "threads", "processes"])
def engine(request, processes):
    made: dict[str, Engine] = {
        "serial": SerialEngine(), "threads": ThreadEngine(3), "processes": processes,
    }  # fmt: skip
    return made[request.param]


def test_results_come_in_the_order_of_the_blocks_and_all_particles_are_told_of(engine):
    values, told = torch.arange(50.0), []
    for factor in (2.0, 3.0):  # another task for the same workers
        found = engine.map(Scale(values, factor), blocks_of(10), told.append)
        torch.testing.assert_close(torch.cat(found), values * factor, rtol=0, atol=0)
    assert sum(told) == 100
    assert engine.map(Scale(values), []) == []
    assert torch.equal(engine.map(Scale(values), blocks_of(1))[0], values[:5] * 2)


def test_an_error_in_a_block_ends_the_others_soon_and_arrives_as_it_is(engine):
    begin = time.monotonic()
    with pytest.raises(ZeroDivisionError, match="block 1"):
        engine.map(Fail(at=1), [b for b in blocks_of(4) if b.geometry in (1, 2, 3)])
    assert time.monotonic() - begin < 60
    assert all(thread.name[:6] != "block-" for thread in threading.enumerate())
    # The engine is still of use.
    assert len(engine.map(Scale(torch.arange(50.0)), blocks_of(3))) == 3


def test_ctrl_c_while_blocks_are_worked_on_stops_them(engine):
    def interrupt(count):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        engine.map(Fail(at=99), blocks_of(3), interrupt)
    assert all(thread.name[:6] != "block-" for thread in threading.enumerate())


@pytest.mark.parametrize(("threads", "n", "share"), [(4, 2, 2), (4, 8, 1), (3, 2, 1), (1, 2, 1)])
def test_threads_that_blocks_do_not_need_go_to_the_kernels(threads, n, share):
    before = kernel_threads(), torch.get_num_threads()
    try:
        use_kernel_threads(threads)
        torch.set_num_threads(1)
        found = ThreadEngine(threads).map(Meet(min(threads, n)), blocks_of(n))
    finally:
        use_kernel_threads(before[0])
        torch.set_num_threads(before[1])
    assert found == [(1, share)] * n


def test_threads_of_who_is_done_go_to_the_block_that_is_left():
    class Last:
        def run(self, block, done):
            if block.geometry == 0:
                return 0
            deadline = time.monotonic() + 20
            while kernel_threads() < 4 and time.monotonic() < deadline:
                time.sleep(0.001)
            return kernel_threads()

    blocks = blocks_of(2)
    assert [block.geometry for block in blocks] == [0, 1]
    assert ThreadEngine(4).map(Last(), blocks) == [0, 4]


def test_worker_processes_share_the_threads_and_have_one_for_torch(processes):
    found = processes.map(Threads(), blocks_of(6))
    assert {(torch_threads, kernels) for torch_threads, kernels, _ in found} == {(1, 3)}
    ids = {process for *_, process in found}
    assert len(ids) == 2
    assert os.getpid() not in ids


@pytest.mark.parametrize("times", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_the_block_of_a_worker_that_is_killed_is_done_by_another(processes, tmp_path, times):
    told = []
    found = processes.map(Die(tmp_path, times), blocks_of(4), told.append)
    assert len(found) == 4
    assert len(list(tmp_path.iterdir())) == times
    assert sum(told) == 20  # what was told of a lost block is taken back


@pytest.mark.slow
def test_a_block_that_ends_every_worker_ends_the_run_with_the_reason(processes, tmp_path):
    with pytest.raises(WorkersLost, match=r"exit code -9.*--workers"):
        processes.map(Die(tmp_path, 100), blocks_of(4))
    assert len(list(tmp_path.iterdir())) == 3


def test_workers_end_when_the_process_that_started_them_is_killed():
    script = (
        "import os, signal, torch\n"
        "from cryorefine.engine.processes import ProcessEngine\n"
        "from tests.engine.tasks import Threads\n"
        "from tests.engine.test_engines import blocks_of\n"
        "engine = ProcessEngine(2, threads=2)\n"
        "print(*{p for *_, p in engine.map(Threads(), blocks_of(4))}, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    workers = [int(word) for word in done.stdout.split()]
    assert len(workers) == 2, done.stderr
    deadline = time.monotonic() + 30
    while any(os.path.exists(f"/proc/{p}/cmdline") for p in workers):
        assert time.monotonic() < deadline
        time.sleep(0.05)


class _Sum:
    def __init__(self, text):
        self.text = text

    def merge(self, other):
        return _Sum(f"({self.text}{other.text})")


@pytest.mark.parametrize(
    ("parts", "tree"), [("a", "a"), ("ab", "(ab)"), ("abc", "((ab)c)"), ("abcde", "(((ab)(cd))e)")]
)
def test_partial_sums_are_added_by_a_tree_that_only_their_number_decides(parts, tree):
    assert merged([_Sum(part) for part in parts]).text == tree


def test_no_partial_sums_have_no_sum():
    with pytest.raises(ValueError, match="nothing to merge"):
        merged([])


@pytest.mark.parametrize("threads", [1, 2, 4])
def test_things_done_side_by_side_come_in_order_and_their_errors_too(threads):
    before = kernel_threads(), torch.get_num_threads()
    try:
        use_kernel_threads(threads)
        assert side_by_side(lambda x: x * x, (2, 3)) == [4, 9]
        assert side_by_side(lambda x: x, ()) == []
        with pytest.raises(ZeroDivisionError):
            side_by_side(lambda x: 1 // x, (0, 1))
        meeting = threading.Barrier(2 if threads > 1 else 1, timeout=20)

        def share(_):
            meeting.wait()
            found = kernel_threads()
            meeting.wait()
            return found

        assert side_by_side(share, (1, 2)) == [max(1, threads // 2)] * 2
        assert side_by_side(lambda _: kernel_threads(), (1, 2), at_once=False) == [threads] * 2
    finally:
        use_kernel_threads(before[0])
        torch.set_num_threads(before[1])
