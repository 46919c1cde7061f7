"""What the command sets in its own process before torch is loaded; a library must not."""

import gc
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager

from cryorefine.engine.freed_memory import keep_freed_memory
from cryorefine.errors import InputError

__all__ = [
    "lack_of_memory",
    "modules_of_a_run",
    "prepare_environment",
    "require_address_space",
]

_LIBRARIES_BYTES = 1_600_000_000
"""Addresses that a small run of two threads takes, libraries and compiled kernels included: 1.6 GB
where torch is built for CPUs. Only a third of it is ever filled."""

_THREAD_BYTES = 48_000_000
"""Addresses of one more thread: 8 MB of stack, and the 32 MB that each OpenBLAS takes for it."""

_FULL = (
    "start new thread", "failed to map segment", "annot allocate memory", "not enough memory",
    "DefaultCPUAllocator", "bad_alloc", "Resource temporarily unavailable", "_ARRAY_API",
)  # fmt: skip
"""What Python, the loader, torch, the C++ library and numpy say where memory ends."""


def prepare_environment() -> None:
    """Set how threads wait and how large arrays are kept, unless the user has set it.

    OpenMP and torch read theirs when torch is first loaded, and threads have heaps of their own as
    soon as they begin: call it before that.
    """
    # Threads that wait for others sleep. Spinning, the default of OpenMP, doubles the CPU time of a
    # run on a busy machine.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # Large arrays come and go with every volume: in pages of 2 MB that costs a third less CPU time.
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    if not any(name.startswith(("MALLOC_", "GLIBC_TUNABLES")) for name in os.environ):
        keep_freed_memory()


@contextmanager
def modules_of_a_run() -> Iterator[None]:
    """Spare Python's collector the modules that are loaded meanwhile, then and later.

    They hold half a million objects that stay until the program ends. Looking through them again
    and again took a second of a run, most of it while they are loaded.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if was_enabled:
            gc.enable()


def require_address_space() -> None:
    """Refuse to begin where a limit leaves too few addresses for the libraries.

    They would end the process somewhere within, without a word or with one of their own.

    Raises
    ------
    InputError
        If so.
    """
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    needed = _LIBRARIES_BYTES + _THREAD_BYTES * (os.cpu_count() or 1)
    if limit != resource.RLIM_INFINITY and limit < needed:
        raise InputError(
            f"the limit on a process's memory, {limit / 1e9:.1f} GB of addresses, is too small: "
            f"the libraries alone take {needed / 1e9:.1f} GB",
            where="ulimit -v",
            do="raise it",
        )


def lack_of_memory(error: BaseException) -> bool:
    """Tell whether an error, of whatever kind, is that of a process without memory."""
    kinds = (ImportError, RuntimeError, OSError, SystemError)
    return isinstance(error, MemoryError) or (
        isinstance(error, kinds) and any(part in str(error) for part in _FULL)
    )
