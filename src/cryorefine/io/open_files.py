"""Files that stay open for reading at chosen places, in any number of threads.

A file is read, not mapped into memory: that of a mapped file which another program cuts short, or
whose disk is lost, ends the process by a signal; a read fails with an error.
"""

import os
import weakref
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from threading import Lock

__all__ = ["OpenFile", "OpenFiles"]

_MAX_OPEN = 64
"""Files that are open in this process at a time: systems allow 256 or more."""

_MAX_PIECES = 1024
"""Of one read: what POSIX systems in use allow (IOV_MAX)."""


class OpenFile:
    """A file that is open until nobody refers to it any more.

    Raises
    ------
    OSError
        If it cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self._descriptor = -1
        self._descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
        self._lock = Lock()

    def __del__(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)

    @property
    def size_bytes(self) -> int:
        """Its size by now."""
        return os.fstat(self._descriptor).st_size

    def read_into(self, pieces: Sequence[memoryview], offset_bytes: int) -> None:
        """Fill pieces of memory, one after the other, with what follows a place of the file.

        Parameters
        ----------
        pieces
            Contiguous, of bytes.

        Raises
        ------
        EOFError
            If the file ends before.
        OSError
            If it cannot be read.
        """
        left = list(reversed(pieces))
        while left:
            n = self._read_some(left[: -_MAX_PIECES - 1 : -1], offset_bytes)
            if n == 0:
                raise EOFError
            offset_bytes += n
            while left and n >= len(left[-1]):
                n -= len(left.pop())
            if n:
                left[-1] = left[-1][n:]

    def _read_some(self, pieces: list[memoryview], offset_bytes: int) -> int:
        if hasattr(os, "preadv"):
            return os.preadv(self._descriptor, pieces, offset_bytes)
        with self._lock:  # where there is one position for all threads
            os.lseek(self._descriptor, offset_bytes, os.SEEK_SET)
            content = os.read(self._descriptor, len(pieces[0]))
        pieces[0][: len(content)] = content
        return len(content)


class OpenFiles:
    """Some of the files that its owner reads, open until it is gone.

    All such objects of a process together keep a bounded number of files open: the ones that were
    read least recently are closed, when no thread reads them any more, and opened again by path.
    """

    def __init__(self) -> None:
        self._files: dict[Path, OpenFile] = {}

    def opened(self, path: Path) -> OpenFile:
        """Return a file that is open.

        Raises
        ------
        OSError
            If it cannot be opened.
        """
        with _recent.lock:
            file = self._files.get(path)
            if file is None:
                file = self._files[path] = OpenFile(path)
            for owner, old in _recent.used(self, path):
                owner._files.pop(old, None)
            return file


class _Recent:
    """Which files of the process were read last. Owners that are gone have closed theirs."""

    def __init__(self) -> None:
        self.lock = Lock()
        self._order: OrderedDict[tuple[weakref.ref[OpenFiles], Path], None] = OrderedDict()

    def used(self, owner: OpenFiles, path: Path) -> list[tuple[OpenFiles, Path]]:
        """Note that a file is used; return those to close."""
        key = (weakref.ref(owner), path)
        self._order[key] = None
        self._order.move_to_end(key)
        closing = []
        while len(self._order) > _MAX_OPEN:
            (reference, old), _ = self._order.popitem(last=False)
            other = reference()
            if other is not None:
                closing.append((other, old))
        return closing

    def after_fork(self) -> None:
        """Let a child not wait for a thread that it does not have."""
        self.lock = Lock()


_recent = _Recent()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_recent.after_fork)
