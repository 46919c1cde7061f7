"""How much of a GPU's memory a run will need, and what to do with less."""

import torch

from cryorefine.engine.memory import MemoryPlan, grid_bytes, image_bytes
from cryorefine.kernels.grid import OVERSAMPLING

__all__ = ["device_free_bytes", "device_peak_bytes", "plan_device_memory"]

# What a batch may hold, and the least that is worth a launch. Not measured on a GPU.
_BATCH_BYTES, _MIN_BATCH_BYTES = 256 << 20, 4 << 20
# Images of a batch at most. Not measured on a GPU.
_LARGEST_BATCH = 1024
# Counted on a run's tensors (tests/engine/test_device_memory.py), and a little for what torch's
# allocator and transforms keep: half grids up to Nyquist; what is kept of a batch while images are
# compared with their models, and while they are searched; what a search keeps beside.
_GRIDS = 11.0
# Counted as above: 4.8 batches were found (docs/decisions.md, memory of a GPU).
_BATCHES, _BATCHES_SEARCHING, _SEARCH_BYTES = 4.5, 2.2, 1700 << 20
# Share of the free memory that a plan may use: the rest is for errors of the prediction.
_SPARE = 0.9


def plan_device_memory(
    *,
    size_px: int,
    oversampling: float = OVERSAMPLING,
    searches: bool,
    n_particles: int,
    free_bytes: int,
) -> MemoryPlan:
    """Predict the peak of a run on a GPU; take smaller batches where it would not fit.

    The peak is reached in the last iteration: in a half's symmetry or solution for large boxes,
    with a full batch for small ones.

    Parameters
    ----------
    size_px, oversampling
        Box of the maps; grid points per Fourier coefficient.
    searches
        Whether orientations are searched everywhere.
    free_bytes
        What the run may use of the device.
    """

    def plan(batch_bytes: int) -> MemoryPlan:
        image = image_bytes(size_px)
        batch = max(image, min(batch_bytes, image * min(_LARGEST_BATCH, n_particles // 2)))
        peak = _BATCHES * batch
        if searches:
            peak = max(peak, _BATCHES_SEARCHING * batch + _SEARCH_BYTES)
        peak = round(_GRIDS * grid_bytes(size_px, oversampling) + peak)
        return MemoryPlan(1, False, batch_bytes, _LARGEST_BATCH, peak, free_bytes)

    chosen = plan(_BATCH_BYTES)
    while chosen.peak_bytes > _SPARE * free_bytes and chosen.batch_bytes > _MIN_BATCH_BYTES:
        chosen = plan(chosen.batch_bytes // 2)
    return chosen


def device_free_bytes(device: torch.device) -> int:
    """Return what this process may hold at most of a GPU: its share, and what is free."""
    free, _ = torch.cuda.mem_get_info(device)
    return free + torch.cuda.memory_reserved(device)


def device_peak_bytes(device: torch.device) -> int | None:
    """Return the most that this process has held of a GPU; None for a device that is none."""
    return torch.cuda.max_memory_reserved(device) if device.type == "cuda" else None
