"""Blocks worked on by threads of this process: they share all memory, and start at once."""

from collections.abc import Sequence
from itertools import count
from queue import SimpleQueue
from threading import Event, Thread
from typing import Any, TypeVar

from cryorefine.engine.blocks import Block
from cryorefine.engine.freed_memory import release_memory
from cryorefine.engine.protocol import Done, Task
from cryorefine.engine.serial import SerialEngine
from cryorefine.engine.threads import SharedThreads

__all__ = ["ThreadEngine"]

Result = TypeVar("Result")


class _GivenUp(BaseException):
    """Ends a block whose result nobody waits for any more."""


class ThreadEngine:
    """Several threads, each with a block of its own.

    Parameters
    ----------
    threads
        In all. Where there are fewer blocks, or none left to begin, several work on the inner
        loops of each.
    """

    def __init__(self, threads: int) -> None:
        self.n_workers = threads

    def map(
        self, task: Task[Result], blocks: Sequence[Block], done: Done | None = None
    ) -> list[Result]:
        """Return the results in the order of the blocks.

        ``done`` is called in the thread that called this. An exception in a block, or one that
        ends the waiting (Ctrl-C), stops all others at their next batch, and is raised here.
        """
        n = min(self.n_workers, len(blocks))
        if n <= 1:
            return SerialEngine().map(task, blocks, done)
        messages: SimpleQueue[tuple[int | None, Any]] = SimpleQueue()
        stop, following = Event(), count()
        results: list[Any] = [None] * len(blocks)

        def tell(particles: int) -> None:
            if stop.is_set():
                raise _GivenUp
            messages.put((None, particles))

        shared = SharedThreads(self.n_workers, n)

        def work(worker: int) -> None:
            with shared.worker(worker):
                # ``next`` on a counter is one step of the interpreter: no two get one number.
                for i in iter(lambda: next(following), None):
                    if i >= len(blocks) or stop.is_set():
                        break
                    try:
                        results[i] = task.run(blocks[i], tell)
                        messages.put((i, None))
                    except _GivenUp:
                        break
                    except BaseException as error:
                        messages.put((i, error))
                        break

        names = [f"block-{k}" for k in range(n)]
        threads = [Thread(target=work, name=s, args=(k,), daemon=True) for k, s in enumerate(names)]
        for thread in threads:
            thread.start()
        try:
            remaining = len(blocks)
            while remaining:
                block, content = messages.get()
                if block is None:
                    if done is not None:
                        done(content)
                elif content is not None:
                    raise content
                else:
                    remaining -= 1
        finally:
            stop.set()
            for thread in threads:
                thread.join()
        release_memory()
        return results

    def close(self) -> None:
        """Nothing runs on: threads end with their map."""
