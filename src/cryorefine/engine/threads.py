"""One owner for all threads.

torch works in one thread everywhere: its sums, products and transforms give other bits for
other numbers of threads, and a run must not depend on that. What is done at once are blocks of
particles (:mod:`cryorefine.engine.threaded`), the two halves (:func:`side_by_side`), and parts of
the range of a kernel, whose results do not depend on how it is cut
(:func:`cryorefine.compiled.in_threads`).
"""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from threading import Thread
from typing import Any, TypeVar

import torch

from cryorefine.compiled import kernel_threads, use_kernel_threads

__all__ = [
    "MAX_AT_ONCE",
    "SharedThreads",
    "available_cpus",
    "begin_worker",
    "side_by_side",
    "threads_of",
    "use_threads",
]

MAX_AT_ONCE = 1 << 26
"""Voxels of maps of which both halves are worked on at once: beyond 400 a side it takes gigabytes,
and transforms use all threads by themselves. It changes no bit."""

Item = TypeVar("Item")
Result = TypeVar("Result")


def available_cpus() -> int:
    """Return how many CPUs this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def threads_of(count: int | None) -> int:
    """Return how many threads a run uses: what the user says, or one for each CPU."""
    return count or available_cpus()


def use_threads(count: int | None) -> int:
    """Give the kernels so many threads, None for all CPUs, and torch one. Returns the number."""
    number = threads_of(count)
    begin_worker(number)
    return number


def begin_worker(threads: int | Callable[[], int]) -> None:
    """Prepare the thread that calls: kernels may use so many threads in it, torch only this one.

    torch keeps the number for each thread by itself.
    """
    torch.set_num_threads(1)
    use_kernel_threads(threads)


class SharedThreads:
    """Threads that workers have equal shares of; those of who is done go to who is still at work.

    Parameters
    ----------
    threads, workers
        Numbers of both.
    """

    def __init__(self, threads: int, workers: int) -> None:
        self._threads, self._at_work = threads, set(range(workers))

    @contextmanager
    def worker(self, number: int) -> Iterator[None]:
        """Make the thread that calls one of the workers, from 0, within the context."""
        begin_worker(lambda: max(1, self._threads // max(1, len(self._at_work))))
        try:
            yield
        finally:
            self._at_work.discard(number)


def side_by_side(
    function: Callable[[Item], Result], items: Sequence[Item], *, at_once: bool = True
) -> list[Result]:
    """Return what a function makes of each of a few things, all at once if there are threads.

    Parameters
    ----------
    at_once
        False where the memory does not allow it: one after the other then.
    """
    threads = kernel_threads()
    if threads < len(items) or not at_once or len(items) < 2:
        return [function(item) for item in items]
    shared = SharedThreads(threads, len(items))
    out: list[Any] = [None] * len(items)
    errors: list[BaseException] = []

    def work(i: int) -> None:
        with shared.worker(i):
            try:
                out[i] = function(items[i])
            except BaseException as error:
                errors.append(error)

    workers = [Thread(target=work, args=(i,), daemon=True) for i in range(len(items))]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    if errors:
        raise errors[0]
    return out
