"""One block after the other, in the thread that asks."""

from collections.abc import Sequence
from typing import TypeVar

from cryorefine.engine.blocks import Block
from cryorefine.engine.freed_memory import release_memory
from cryorefine.engine.protocol import Done, Task, nothing_done

__all__ = ["SerialEngine"]

Result = TypeVar("Result")


class SerialEngine:
    """The reference that all other engines agree with; it also serves a GPU."""

    n_workers = 1

    def map(
        self, task: Task[Result], blocks: Sequence[Block], done: Done | None = None
    ) -> list[Result]:
        """Return the results in the order of the blocks."""
        results = [task.run(block, done or nothing_done) for block in blocks]
        release_memory()
        return results

    def close(self) -> None:
        """Nothing runs on."""
