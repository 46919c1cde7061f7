"""One owner for all thread pools, and for the memory that they leave behind."""

import ctypes
import os
from functools import lru_cache

import torch
from numba import config, set_num_threads

__all__ = ["available_cpus", "release_memory", "use_threads"]


def available_cpus() -> int:
    """Return how many CPUs this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def use_threads(count: int | None) -> int:
    """Give torch and numba the same number of threads; None for all CPUs. Returns the number."""
    number = min(count or available_cpus(), config.NUMBA_NUM_THREADS)  # type: ignore[attr-defined]
    torch.set_num_threads(number)
    set_num_threads(number)
    return number


def release_memory() -> None:
    """Give freed memory back to the system, where the C library can.

    Arrays of many sizes come and go; without this what lies between them piles up to as much
    again as is in use.
    """
    trim = getattr(_c_library(), "malloc_trim", None)
    if trim is not None:
        trim(0)


@lru_cache(maxsize=1)
def _c_library() -> ctypes.CDLL | None:
    try:
        return ctypes.CDLL(None)
    except (OSError, TypeError):  # not a system that has one to offer
        return None
