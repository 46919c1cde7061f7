"""One owner for all thread pools."""

import os

import torch
from numba import config, set_num_threads

__all__ = ["available_cpus", "use_threads"]


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
