"""What stops a run from outside is told in one message, and errors of the program are not."""

import errno

import pytest
import torch

from cryorefine.errors import StoppedEarly
from cryorefine.run.interruption import interruptible

GPU, MACHINE = "GPU's memory is full.*--device cpu", "machine's memory is full"


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (torch.OutOfMemoryError("CUDA out of memory."), GPU),
        (RuntimeError("CUDA error: out of memory"), GPU),
        (RuntimeError("cuFFT error: CUFFT_ALLOC_FAILED"), GPU),
        (RuntimeError("CUBLAS_STATUS_ALLOC_FAILED when calling"), GPU),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), MACHINE),
        (MemoryError("Unable to allocate"), MACHINE),
        (RuntimeError("[enforce fail] not enough memory: you tried"), MACHINE),
        (RuntimeError("std::bad_alloc"), MACHINE),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), MACHINE),
        (OSError(errno.ENOSPC, "No space left on device", "map.mrc"), "map.mrc: No space left"),
        (KeyboardInterrupt("SIGTERM"), "stopped by SIGTERM"),
        (KeyboardInterrupt(), "stopped by the user"),
    ],
)
def test_what_stops_a_run_is_told_with_what_is_safe(error, message):
    told = f"{message}.*; iteration 3 is safe"
    with pytest.raises(StoppedEarly, match=told), interruptible(lambda: "iteration 3 is safe"):
        raise error


@pytest.mark.parametrize(
    "error", [RuntimeError("shapes do not match"), OSError(errno.ENOENT, "no"), KeyError("a")]
)
def test_other_errors_stay_what_they_are(error):
    with pytest.raises(type(error)) as caught, interruptible("nothing is safe"):
        raise error
    assert caught.value is error
