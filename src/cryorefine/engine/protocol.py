"""What a task, its results and an engine are."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar, runtime_checkable

from cryorefine.engine.blocks import Block

__all__ = ["Done", "Engine", "Mergeable", "Task", "merged", "nothing_done"]

Done = Callable[[int], None]
"""Told of so many more particles done; raises when the work is to be given up."""

Result_co = TypeVar("Result_co", covariant=True)
Result = TypeVar("Result")


@runtime_checkable
class Task(Protocol[Result_co]):
    """A pure function of a block, with all that it needs; it can be pickled."""

    def run(self, block: Block, done: Done) -> Result_co:
        """Return what was found. It depends on the task and the block alone."""
        ...


@runtime_checkable
class Mergeable(Protocol):
    """Partial sums."""

    def merge(self, other: Any) -> Any:
        """Return the sum of both; either may be used up."""
        ...


@runtime_checkable
class Engine(Protocol):
    """Does tasks on blocks.

    Results are the same bits whatever the engine: it decides where and in which order blocks are
    worked on, and nothing else.
    """

    @property
    def n_workers(self) -> int:
        """How many blocks are worked on at a time."""
        ...

    def map(
        self, task: Task[Result], blocks: Sequence[Block], done: Done | None = None
    ) -> list[Result]:
        """Return the results in the order of the blocks."""
        ...

    def close(self) -> None:
        """End all workers."""
        ...


def merged(parts: Sequence[Mergeable]) -> Any:
    """Return the sum of partial sums by a fixed tree: neighbours first, then their sums.

    Raises
    ------
    ValueError
        If there is none.
    """
    if not parts:
        raise ValueError("there is nothing to merge")
    level = list(parts)
    while len(level) > 1:
        pairs = [level[i : i + 2] for i in range(0, len(level), 2)]
        level = [pair[0].merge(pair[1]) if len(pair) == 2 else pair[0] for pair in pairs]
    return level[0]


def nothing_done(count: int) -> None:
    """Tell nobody of progress."""
