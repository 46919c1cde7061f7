"""Loops compiled by numba, dealt to threads here and not by numba.

numba's own parallel loops take several times as long to compile as the same loops without, and the
first refinement after an installation waits for that. A kernel is therefore a plain function of
``begin`` and ``end`` that releases the interpreter's lock; :func:`in_threads` calls it for parts
of the range at once. Give kernels arguments of one type each, always: every other combination of
types is compiled anew.
"""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numba import njit
from torch import Tensor

__all__ = ["array_of", "compiled", "in_threads"]

_PARTS_A_THREAD = 4


def compiled(
    function: Callable[..., Any] | None = None, *, fastmath: bool = False, inner: bool = False
) -> Any:
    """Compile a function when it is first called, and keep the code on disk where that can be.

    Where neither the package's folder nor the user's cache can be written to, every process
    compiles for itself. ``inner`` functions can only be called by compiled ones: numba then does
    not write, for each, what takes apart the arguments of a call from Python.
    """
    if function is None:
        return lambda f: compiled(f, fastmath=fastmath, inner=inner)
    options = {"nogil": True, "fastmath": fastmath, "error_model": "numpy"}
    if inner:
        options |= {"no_cpython_wrapper": True, "no_cfunc_wrapper": True}
    try:
        return njit(cache=True, **options)(function)
    except RuntimeError:  # numba says at once that it has no place for a cache
        return njit(**options)(function)


def array_of(tensor: Tensor, dtype: torch.dtype) -> np.ndarray:
    """Return a tensor as the one kind of array that a kernel takes; a copy only if it must be."""
    return tensor.detach().to(dtype).contiguous().numpy()


def in_threads(kernel: Callable[..., Any], count: int, *arguments: object) -> None:
    """Call ``kernel(begin, end, *arguments)`` for parts of ``range(count)``, several at once.

    As many threads as torch uses; what the kernel does at one index may not depend on another.
    """
    threads = min(torch.get_num_threads(), count)
    if threads <= 1:
        kernel(0, count, *arguments)
        return
    # More parts than threads: who is done early takes another.
    parts = min(count, threads * _PARTS_A_THREAD)
    edges = [count * part // parts for part in range(parts + 1)]
    jobs = [
        _pool(os.getpid(), threads).submit(kernel, begin, end, *arguments)
        for begin, end in pairwise(edges)
    ]
    for job in jobs:
        job.result()


@lru_cache(maxsize=2)
def _pool(process: int, threads: int) -> ThreadPoolExecutor:
    """Return the threads of a process: those of its parent do not live on in a forked one."""
    return ThreadPoolExecutor(threads, thread_name_prefix="kernel")
