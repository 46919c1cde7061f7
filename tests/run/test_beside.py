import threading

import pytest

from cryorefine.compiled import kernel_threads
from cryorefine.run.beside import Beside


def test_a_job_is_done_while_the_run_goes_on_and_the_next_waits_for_it():
    may_end, order = threading.Event(), []

    def first():
        assert may_end.wait(20)
        order.append("first")
        return 1

    def second():
        order.append("second")
        return 2

    beside = Beside(at_once=True)
    beside.begin(first)
    assert order == []
    may_end.set()
    beside.begin(second)
    assert order[0] == "first"
    assert beside.wait() == 2
    assert order == ["first", "second"]


def test_without_a_thread_to_spare_a_job_is_done_where_it_begins():
    beside = Beside(at_once=False)
    beside.begin(threading.current_thread)
    assert beside.wait() is threading.current_thread()


@pytest.mark.parametrize("end", ["wait", "begin"])
def test_what_a_job_ends_with_is_raised_once_in_the_thread_of_the_run(end):
    def fail():
        raise KeyboardInterrupt

    beside = Beside(at_once=True)
    beside.begin(fail)
    with pytest.raises(KeyboardInterrupt):
        beside.wait() if end == "wait" else beside.begin(fail)
    assert beside.wait() is None


def test_nothing_is_waited_for_where_nothing_began():
    assert Beside(at_once=True).wait() is None


@pytest.mark.parametrize("threads", [1, 3])
def test_a_job_may_use_as_many_threads_as_it_is_given(threads):
    beside = Beside(at_once=True)
    beside.begin(kernel_threads, threads=threads)
    assert beside.wait() == threads
