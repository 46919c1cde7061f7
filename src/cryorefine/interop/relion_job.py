"""A job of RELION's pipeline as files of its folder: how it ended, what it made, when to stop.

RELION starts a job in the background and looks at its folder: one of three empty files says that it
has ended, and how; a table names what later jobs can use. The user's wish to stop is a file, too.
All names below are RELION's.
"""

import os
import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from types import FrameType

from cryorefine.io.atomic import write_text

__all__ = ["ABORT_NOW", "Node", "job_name", "mark_as_failed", "marked_job", "write_output_nodes"]

_SUCCESS, _FAILURE, _ABORTED = (
    "RELION_JOB_EXIT_SUCCESS", "RELION_JOB_EXIT_FAILURE", "RELION_JOB_EXIT_ABORTED"
)  # fmt: skip
_ENDS = (_SUCCESS, _FAILURE, _ABORTED)
ABORT_NOW = "RELION_JOB_ABORT_NOW"
"""Put into the folder by RELION where the user wants the job to stop."""
_OUTPUT_NODES = "RELION_OUTPUT_NODES.star"

_LOOK_EVERY_S = 1.0
"""Time between two looks for the wish to stop: a person does not notice it, nor does a file
server."""


@dataclass(frozen=True)
class Node:
    """A kind of file as RELION's pipeline knows it.

    Attributes
    ----------
    label
        Of RELION 4 and 5.
    number
        Of RELION 3.
    """

    label: str
    number: int


def job_name(folder: Path) -> str:
    """Return a job's name as its nodes begin with it: "External/job012", from the project."""
    return PurePosixPath(os.path.normpath(folder)).as_posix()


def write_output_nodes(folder: Path, nodes: Mapping[str, Node]) -> None:
    """Write the table of what later jobs can use.

    RELION reads it when the job has succeeded. Versions 4 and 5 take the labels, version 3 the
    numbers; each passes over the other's column.

    Parameters
    ----------
    nodes
        Names of files within the job's folder, and what they are.
    """
    import numpy as np

    from cryorefine.io.star import write_star

    columns = {
        "rlnPipeLineNodeName": np.array([f"{job_name(folder)}/{name}" for name in nodes]),
        "rlnPipeLineNodeTypeLabel": np.array([node.label for node in nodes.values()]),
        "rlnPipeLineNodeType": np.array([node.number for node in nodes.values()]),
    }
    write_star(folder / _OUTPUT_NODES, {"output_nodes": columns})


def mark_as_failed(folder: Path) -> None:
    """Say that a job has failed, where it has a folder that can be written to."""
    with suppress(OSError, ValueError):
        if folder.is_dir():
            _mark(folder, _FAILURE)


@contextmanager
def marked_job(folder: Path) -> Iterator[None]:
    """Do a job within the block; say how it ended, and stop it when the user wishes so.

    What a job before has left to say how it ended is removed first. The wish to stop interrupts the
    main thread as Ctrl-C does, and is taken as fulfilled when the block has ended.
    """
    for name in _ENDS:
        (folder / name).unlink(missing_ok=True)
    watch = _AbortWatch(folder)
    try:
        with watch.watching():
            yield
    except BaseException:
        with suppress(OSError):  # the disk may be what stopped it
            _mark(folder, _ABORTED if watch.has_seen else _FAILURE)
            if watch.has_seen:
                (folder / ABORT_NOW).unlink(missing_ok=True)
        raise
    _mark(folder, _SUCCESS)


def _mark(folder: Path, how: str) -> None:
    for name in _ENDS:
        if name != how:
            (folder / name).unlink(missing_ok=True)
    write_text(folder / how, "")


class _AbortWatch:
    """Interrupts the main thread when the file that asks for it appears."""

    def __init__(self, folder: Path) -> None:
        self.has_seen = False
        self._path = folder / ABORT_NOW
        self._is_over = threading.Event()

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Watch while the block is done."""
        # Not Ctrl-C's own signal: shells let what they start in the background ignore that one.
        before = signal.signal(signal.SIGUSR1, self._interrupt)
        thread = threading.Thread(target=self._look, name="abort watch", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._is_over.set()
            thread.join()
            signal.signal(signal.SIGUSR1, before)

    def _look(self) -> None:
        while not os.path.lexists(self._path):
            if self._is_over.wait(_LOOK_EVERY_S):
                return
        main = threading.main_thread().ident
        if main is not None and not self._is_over.is_set():
            signal.pthread_kill(main, signal.SIGUSR1)

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        if not self.has_seen and not self._is_over.is_set():
            self.has_seen = True
            raise KeyboardInterrupt(f"RELION ({ABORT_NOW})")
