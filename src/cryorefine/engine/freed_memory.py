"""What becomes of memory that is freed: whether the process keeps it, and when it gives it back.

Volumes come and go with every step. The system clears each page that it hands out, which took a
sixth of a run's CPU time at 192 px; what is kept is used again as it is.
"""

import ctypes
from functools import lru_cache
from typing import Any

__all__ = ["keep_freed_memory", "release_memory"]

_KEPT_BYTES = 512 << 20
"""Freed memory that may be kept: what a run of 128 px has between its steps. More is given back,
or what lies between arrays in use piles up to as much again as these take."""

_LARGE_BYTES = 512 << 20
"""Arrays from here on, volumes of 512 px and more, come from the system each time: a hole that one
of them leaves in the heap is too large to lie idle."""

_GROWTH_BYTES = 64 << 20
"""What the heap grows by: a few volumes of 128 px, so that it seldom has to."""

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -2, -3, -8
"""Numbers of glibc's options, from its ``malloc.h``."""

_kept_bytes = 0


class _HeapCounts(ctypes.Structure):
    """glibc's ``struct mallinfo2``."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in (
            "arena", "ordblks", "smblks", "hblks", "hblkhd",
            "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost",
        )
    ]  # fmt: skip


def keep_freed_memory() -> None:
    """Let this process keep half a gigabyte of what it frees, where the C library is glibc.

    For a program's own process, before it starts threads. Without this, each thread has a heap of
    its own, each with holes, and large arrays come from the system every time; with it, all but the
    largest arrays come from one heap.
    """
    global _kept_bytes
    library = _c_library()
    if not hasattr(library, "mallopt") or not hasattr(library, "mallinfo2"):
        return
    is_set = [
        library.mallopt(_ARENA_MAX, 1),
        library.mallopt(_MMAP_THRESHOLD, _LARGE_BYTES),
        library.mallopt(_TRIM_THRESHOLD, _KEPT_BYTES),
        library.mallopt(_TOP_PAD, _GROWTH_BYTES),
    ]
    if all(is_set):
        _kept_bytes = _KEPT_BYTES


def release_memory(kept_bytes: int | None = None) -> None:
    """Give freed memory back to the system, where the C library can, if more is free than is kept.

    Arrays of many sizes come and go; without this what lies between them piles up to as much
    again as is in use.

    Parameters
    ----------
    kept_bytes
        Free memory that stays; None: as much as this process lets itself keep.
    """
    library = _c_library()
    if not hasattr(library, "malloc_trim"):
        return
    kept_bytes = _kept_bytes if kept_bytes is None else kept_bytes
    if kept_bytes and library.mallinfo2().fordblks <= kept_bytes:
        return
    library.malloc_trim(0)


@lru_cache(maxsize=1)
def _c_library() -> Any:
    """Return the library's functions by name, None where there is none."""
    try:
        library = ctypes.CDLL(None)
    except (OSError, TypeError):  # not a system that has one to offer
        return None
    if hasattr(library, "mallinfo2"):
        library.mallinfo2.restype = _HeapCounts
    return library
