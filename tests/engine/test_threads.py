import os
from threading import Barrier, Thread
from time import sleep

import pytest
import torch

from cryorefine.compiled import in_threads, kernel_threads, use_kernel_threads
from cryorefine.engine import threads
from cryorefine.engine.threads import available_cpus, begin_worker, use_threads


@pytest.fixture(autouse=True)
def numbers_as_they_were():
    before = torch.get_num_threads(), kernel_threads()
    yield
    torch.set_num_threads(before[0])
    use_kernel_threads(before[1])


def test_the_cpus_are_those_that_this_process_may_use_not_those_of_the_machine(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {3, 5, 6}, raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    assert available_cpus() == 3


def test_where_the_system_does_not_tell_all_cpus_of_the_machine_are_used(monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    assert available_cpus() == 6
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert available_cpus() == 1


@pytest.mark.parametrize("count", [1, 2, 99])
def test_the_kernels_get_the_threads_and_torch_one(count):
    assert use_threads(count) == count
    assert (kernel_threads(), torch.get_num_threads()) == (count, 1)


def test_without_a_number_there_is_a_thread_for_each_cpu(monkeypatch):
    monkeypatch.setattr(threads, "available_cpus", lambda: 3)
    assert use_threads(None) == kernel_threads() == 3


def test_each_thread_has_a_number_of_its_own():
    use_threads(5)
    found = []

    def look():
        begin_worker(2)
        found.append((kernel_threads(), torch.get_num_threads()))

    thread = Thread(target=look)
    thread.start()
    thread.join()
    assert found == [(2, 1)]
    assert kernel_threads() == 5


def test_callers_at_once_each_have_their_own_share_of_threads():
    # Both wait for all four parts: two callers of two threads each.
    meeting = Barrier(4, timeout=20)

    def call():
        begin_worker(2)
        in_threads(lambda begin, end: meeting.wait() if begin < 2 else None, 2)

    callers = [Thread(target=call) for _ in range(2)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert not meeting.broken


def test_an_error_in_a_part_is_raised_when_no_other_part_runs_any_more():
    use_kernel_threads(3)
    running, ended = [], []

    def kernel(begin, end):
        running.append(begin)
        if begin == 4:
            raise ValueError("part 4")
        sleep(0.01)
        ended.append(begin)

    with pytest.raises(ValueError, match="part 4"):
        in_threads(kernel, 12)
    assert set(running) - {4} == set(ended)
