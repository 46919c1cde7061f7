"""Blocks worked on by worker processes of this machine.

Images are shared by the system's cache of files, references and all that a task holds by shared
memory. A worker that ends before its block is done, killed by whomever, is replaced, and the
block done again.
"""

import subprocess
import sys
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, Pipe, wait
from typing import Any, TypeVar, cast

from cryorefine.engine.blocks import Block
from cryorefine.engine.protocol import Done, Task, nothing_done
from cryorefine.engine.transfer import Parcel, pack, unpack

__all__ = ["ProcessEngine", "WorkersLost"]

Result = TypeVar("Result")

_MAX_LOSSES = 3
"""Times that a block is begun before it is taken for what ends its workers: another program that
takes the memory, or an operator, hits one block so often only by intent."""

_PATIENCE_S = 5.0
"""A worker that was told to end does so in milliseconds, unless it is within a kernel."""


class WorkersLost(Exception):
    """Worker processes ended again and again in the same block."""


@dataclass(eq=False)
class _Worker:
    """A process, the connection to it, and what it does."""

    process: subprocess.Popen[bytes]
    connection: Connection
    has_task: bool = False
    block: int | None = None
    counted: int = 0
    """Particles of the block that it has told of."""


@dataclass(eq=False)
class _Work:
    """The state of one map."""

    parcel: Parcel
    blocks: Sequence[Block]
    waiting: deque[int]
    results: list[Any]
    done: Done
    losses: dict[int, int] = field(default_factory=dict)
    remaining: int = 0


class ProcessEngine:
    """Several processes, started when first needed, that stay until :meth:`close`.

    Parameters
    ----------
    workers
        How many.
    threads
        In all: each process has its share of them for the inner loops.
    """

    def __init__(self, workers: int, *, threads: int) -> None:
        self.n_workers = workers
        self._threads = max(1, threads // workers)
        self._workers: list[_Worker] = []

    def map(
        self, task: Task[Result], blocks: Sequence[Block], done: Done | None = None
    ) -> list[Result]:
        """Return the results in the order of the blocks.

        Raises
        ------
        WorkersLost
            If three workers end in the same block.
        """
        if not blocks:
            return []
        sent = pack(task)
        work = _Work(
            parcel=sent.parcel,
            blocks=blocks,
            waiting=deque(range(len(blocks))),
            results=[None] * len(blocks),
            done=done or nothing_done,
            remaining=len(blocks),
        )
        try:
            while len(self._workers) < min(self.n_workers, len(blocks)):
                self._workers.append(self._start())
            for worker in list(self._workers):
                worker.has_task = False
                self._hand_over(worker, work)
            while work.remaining:
                self._listen(work)
        except BaseException:
            # What workers would still send belongs to nothing.
            self.close(patience_s=0.0)
            raise
        finally:
            sent.close()
        return work.results

    def _start(self) -> _Worker:
        here, there = Pipe()
        # -P: a file in the working folder must not take the place of a module.
        command = [sys.executable, "-P", "-m", "cryorefine.engine.worker"]
        process = subprocess.Popen(
            [*command, str(there.fileno()), str(self._threads)],
            pass_fds=[there.fileno()],
            stdin=subprocess.DEVNULL,
        )
        there.close()
        return _Worker(process, cast(Connection, here))

    def _hand_over(self, worker: _Worker, work: _Work) -> None:
        """Give a worker its next block, or nothing if none waits."""
        if not work.waiting:
            return
        i = work.waiting.popleft()
        worker.block, worker.counted = i, 0
        try:
            if not worker.has_task:
                worker.connection.send(("task", work.parcel))
                worker.has_task = True
            worker.connection.send(("block", i, work.blocks[i]))
        except OSError:
            self._replace(worker, work)

    def _listen(self, work: _Work) -> None:
        """Take what workers have to say."""
        by_connection = {w.connection: w for w in self._workers if w.block is not None}
        for connection in wait(list(by_connection)):
            worker = by_connection[cast(Connection, connection)]
            try:
                kind, *content = worker.connection.recv()
                result = unpack(content[1]) if kind == "result" else None
            except (EOFError, OSError):
                self._replace(worker, work)
                continue
            if kind == "error":
                _, error, text = content
                error.add_note(f"in a worker process:\n{text}")
                raise error
            if kind == "done":
                worker.counted += content[0]
                work.done(content[0])
                continue
            work.results[content[0]] = result
            work.remaining -= 1
            worker.block = None
            self._hand_over(worker, work)

    def _replace(self, worker: _Worker, work: _Work) -> None:
        """Start another worker in the place of one that has ended, with its block."""
        i = worker.block
        _end(worker, patience_s=0.0)
        self._workers.remove(worker)
        if i is None:
            return
        work.losses[i] = work.losses.get(i, 0) + 1
        work.done(-worker.counted)
        if work.losses[i] >= _MAX_LOSSES:
            raise WorkersLost(
                f"{_MAX_LOSSES} worker processes ended while they worked on the same particles "
                f"(the last with exit code {worker.process.returncode}; -9 is what too little "
                "memory, or another program, does): end other programs, or give fewer --workers"
            )
        work.waiting.appendleft(i)
        fresh = self._start()
        self._workers.append(fresh)
        self._hand_over(fresh, work)

    def close(self, patience_s: float = _PATIENCE_S) -> None:
        """End all workers."""
        workers, self._workers = self._workers, []
        for worker in workers:
            _end(worker, patience_s=patience_s)


def _end(worker: _Worker, *, patience_s: float) -> None:
    """Let a worker end, or end it after some time."""
    with suppress(OSError):
        worker.connection.send(("end",))
    worker.connection.close()
    try:
        worker.process.wait(patience_s)
    except subprocess.TimeoutExpired:
        worker.process.kill()
        worker.process.wait()
