"""How much memory a run will need, how much there is, and what to do with less."""

import math
import os
import resource
import sys
from dataclasses import dataclass
from pathlib import Path

from cryorefine.events import EventLog
from cryorefine.kernels.grid import HALO, OVERSAMPLING, grid_layout
from cryorefine.particles.images import MAPPED_BYTES

__all__ = [
    "MemoryPlan",
    "batch_size",
    "emit_memory",
    "free_bytes",
    "grid_bytes",
    "held_bytes",
    "image_bytes",
    "peak_bytes",
    "plan_memory",
]

# Threads with private sums at most: each costs grids of memory. Not measured.
_MAX_COPIES = 4
# Not measured. Sums depend on it in their last bits: it changes only where memory is short.
_BATCH_BYTES = 32 << 20
# A run that would need smaller batches is not made to fit. Not measured.
_MIN_BATCH_BYTES = 2 << 20
# Images of a batch at most (not measured); bytes that a coefficient of a batch counts for.
_LARGEST_BATCH, _POINT_BYTES = 128, 32
# Measured: the peak above what is in use when the images have been screened, in half grids of
# complex numbers up to Nyquist; what is kept of a batch, in its own size; what a search keeps.
_GRIDS, _GRIDS_SYMMETRIC, _GRIDS_PER_COPY = 8.0, 12.0, 1.5
# Measured as above (docs/decisions.md, memory is predicted before the first iteration).
_BATCHES = 4.0
# Measured as above: what every run holds, what a search keeps, what each particle's values take.
_ALWAYS_BYTES, _SEARCH_BYTES, _PARTICLE_BYTES = 48 << 20, 20 << 20, 4096
_TABLE_BYTES = 90 << 20  # while a search is prepared, when there are no sums yet
# Share of the free memory that a plan may use: the rest is for errors of the prediction.
_SPARE = 0.9


@dataclass(frozen=True)
class MemoryPlan:
    """What a run may use.

    Attributes
    ----------
    copies
        Private grids that threads insert slices into.
    batch_bytes, largest_batch
        Size of a batch of images, and the most images in one.
    peak_bytes
        The predicted peak: of the whole process, or of its share of a GPU.
    free_bytes
        What the process may use at most: what it holds already and what is free.
    """

    copies: int
    batch_bytes: int
    largest_batch: int
    peak_bytes: int
    free_bytes: int


def plan_memory(
    *,
    size_px: int,
    oversampling: float = OVERSAMPLING,
    is_symmetric: bool,
    searches: bool,
    n_particles: int,
    stored_bytes: int,
    threads: int,
    used_bytes: int,
    free_bytes: int,
) -> MemoryPlan:
    """Predict the peak of a run; take fewer copies, then smaller batches where it would not fit.

    The peak is reached when the second half's sums are folded, symmetrised and solved in the last
    iteration, which fills them up to Nyquist. Below nine tenths of what is free nothing is cut, so
    that a run gives the same result whatever else the machine does.

    Parameters
    ----------
    size_px, oversampling
        Box of the maps; grid points per Fourier coefficient.
    is_symmetric
        Whether there is a point group to apply: it needs room for turned grids.
    searches
        Whether orientations are searched everywhere.
    stored_bytes
        Size of the image stacks: pages of them count while they are mapped.
    used_bytes
        What the process holds before the first iteration: libraries, inputs.
    """

    def plan(copies: int, batch_bytes: int) -> MemoryPlan:
        grids = (_GRIDS_SYMMETRIC if is_symmetric else _GRIDS) + _GRIDS_PER_COPY * copies
        images = image_bytes(size_px) * min(_LARGEST_BATCH, n_particles // 2)
        batches = _BATCHES * min(batch_bytes, images)
        volumes = max(grids * grid_bytes(size_px, oversampling), _TABLE_BYTES if searches else 0)
        peak = fixed_bytes + round(volumes + batches)
        return MemoryPlan(copies, batch_bytes, _LARGEST_BATCH, peak, free_bytes)

    fixed_bytes = used_bytes + min(stored_bytes, MAPPED_BYTES) + _ALWAYS_BYTES
    fixed_bytes += _PARTICLE_BYTES * n_particles + (_SEARCH_BYTES if searches else 0)

    chosen = plan(min(_MAX_COPIES, threads), _BATCH_BYTES)
    while chosen.peak_bytes > _SPARE * free_bytes:
        if chosen.copies > 1:
            chosen = plan(chosen.copies - 1, chosen.batch_bytes)
        elif chosen.batch_bytes > _MIN_BATCH_BYTES:
            chosen = plan(1, chosen.batch_bytes // 2)
        else:
            break
    return chosen


def grid_bytes(size_px: int, oversampling: float) -> int:
    """Return the size of a half grid of complex numbers up to Nyquist."""
    _, _, half = grid_layout(size_px, size_px / 2, oversampling)
    return 8 * (2 * half + 1) ** 2 * (half + 1 + HALO)


def image_bytes(size_px: int) -> int:
    """Return what an image of a batch counts for."""
    return _POINT_BYTES * round(math.pi / 8 * size_px**2)


def batch_size(plan: MemoryPlan, n_points: int) -> int:
    """Return how many images with so many coefficients to work on at a time."""
    return max(1, min(plan.largest_batch, plan.batch_bytes // (_POINT_BYTES * n_points)))


def emit_memory(events: EventLog, plan: MemoryPlan, *, on_gpu: bool = False) -> None:
    """Record the plan, of the machine's memory or of a GPU's own; warn if it does not fit."""
    events.emit(
        "device_memory" if on_gpu else "memory",
        predicted_peak_bytes=plan.peak_bytes,
        free_bytes=plan.free_bytes,
        copies=plan.copies,
        batch_bytes=plan.batch_bytes,
    )
    if plan.peak_bytes > plan.free_bytes:
        what, remedy = (
            ("the GPU's memory", "end other programs on it, say --device cpu")
            if on_gpu
            else ("memory", "end other programs, raise the job's memory limit")
        )
        events.warn(
            f"the run may need {plan.peak_bytes / 1e9:.1f} GB of {what} and "
            f"{plan.free_bytes / 1e9:.1f} GB are free: {remedy}, or extract the particles in a "
            "smaller box or with larger pixels"
        )


def peak_bytes() -> int:
    """Return the most memory that this process has held so far."""
    status = Path("/proc/self/status")
    if status.exists():  # Linux: ``ru_maxrss`` counts what the program that started this one held
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return 1024 * int(line.split()[1])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * (1 if sys.platform == "darwin" else 1024)


def free_bytes(root: Path = Path("/")) -> int:
    """Return what this process may hold at most: its share, what is free, and within all limits.

    On Linux the least of what the kernel says is available and what the process's control groups
    (versions 1 and 2: containers, batch systems) leave; elsewhere the machine's memory.
    """
    available = _named_value(root / "proc/meminfo", "MemAvailable:")
    if available is None:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    left = [available * 1024, *_left_in_groups(root)]
    return min(left) + (_held_bytes(root) or 0)


def held_bytes() -> int:
    """Return the memory that this process holds now; where that is not known, at most so far."""
    return _held_bytes(Path("/")) or peak_bytes()


def _held_bytes(root: Path) -> int | None:
    value = _named_value(root / "proc/self/status", "VmRSS:")
    return None if value is None else value * 1024


def _left_in_groups(root: Path) -> list[int]:
    """Return what each of the process's control groups with a limit still allows."""
    left = []
    for line in _text(root / "proc/self/cgroup").splitlines():
        number, controllers, path = line.split(":", 2)
        if number == "0":
            base, names = root / "sys/fs/cgroup", ("memory.max", "memory.current")
        elif "memory" in controllers.split(","):
            base = root / "sys/fs/cgroup/memory"
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes")
        else:
            continue
        folder = base / path.lstrip("/")
        # Inside a container the path may be the host's: its own group is then the base.
        while folder.is_relative_to(base):
            limit, used = (_text(folder / name).strip() for name in names)
            if limit.isdigit() and used.isdigit():
                # File pages not in use count as used, and go when memory is asked for.
                cached = _named_value(folder / "memory.stat", "inactive_file") or 0
                left.append(max(0, int(limit) - int(used) + cached))
            folder = folder.parent
    return left


def _named_value(path: Path, name: str) -> int | None:
    for line in _text(path).splitlines():
        words = line.split()
        if words and words[0] == name:
            return int(words[1])
    return None


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
