"""Turn what stops a run from outside into one message that says what is safe."""

import errno
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from cryorefine.engine.processes import WorkersLost
from cryorefine.errors import StoppedEarly

__all__ = ["interruptible"]

_GPU_IS_FULL = ("CUDA error: out of memory", "_STATUS_ALLOC_FAILED", "CUFFT_ALLOC_FAILED")
_MACHINE_IS_FULL = ("DefaultCPUAllocator", "not enough memory", "bad_alloc", "allocate memory")
"""What libraries say whose errors are no MemoryError: torch, its libraries, the C++ library."""

_DISK_TROUBLE = (
    errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EIO, errno.ESTALE
)  # fmt: skip


@contextmanager
def interruptible(safe: str | Callable[[], str]) -> Iterator[None]:
    """Turn Ctrl-C and signals to stop, a full or lost disk and too little memory into a clean stop.

    It says what is safe: a text, or what a function returns that is called then.
    """

    def stopped(message: str) -> StoppedEarly:
        return StoppedEarly(f"{message}; {safe if isinstance(safe, str) else safe()}")

    try:
        yield
    except KeyboardInterrupt as stop:  # of a signal, it says of which
        raise stopped(f"stopped by {str(stop) or 'the user'}") from None
    except (MemoryError, RuntimeError, OSError) as error:
        message = _what_is_full(error)
        if message:
            message = f"{message}, or extract the particles in a smaller box"
        elif isinstance(error, OSError) and error.errno in _DISK_TROUBLE:
            message = f"{error.filename or 'writing'}: {error.strerror}"
        else:
            raise
        raise stopped(message) from None
    except WorkersLost as lost:
        raise stopped(str(lost)) from None


def _what_is_full(error: Exception) -> str:
    """Return which memory an error tells the lack of, and what to do; empty if of none."""
    text = str(error)
    if isinstance(error, torch.OutOfMemoryError) or any(part in text for part in _GPU_IS_FULL):
        return "the GPU's memory is full: end other programs on it, say --device cpu"
    lacks = isinstance(error, MemoryError) or getattr(error, "errno", None) == errno.ENOMEM
    if lacks or any(part in text for part in _MACHINE_IS_FULL):
        return "the machine's memory is full: end other programs, raise the job's limit"
    return ""
