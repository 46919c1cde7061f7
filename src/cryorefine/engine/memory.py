"""How much memory a run will need, how much there is, and what to do with less."""

import math
import os
import resource
import sys
from dataclasses import dataclass
from pathlib import Path

from cryorefine.events import DeviceMemoryPlanned, EventLog, MemoryPlanned
from cryorefine.kernels.grid import HALO, OVERSAMPLING, grid_layout

__all__ = [
    "MemoryPlan",
    "RunSize",
    "batch_size",
    "emit_memory",
    "free_bytes",
    "grid_bytes",
    "held_bytes",
    "image_bytes",
    "peak_bytes",
    "plan_memory",
]

_PARTIAL_SUMS = 4
"""Blocks of a half that are inserted at once, each into sums of its own: with both halves, work
for eight threads."""

_PARTIAL_SUMS_LARGE, _LARGE_GRID_BYTES = 2, 64 << 20
"""Of grids above this size (boxes above 200 pixels) fewer sums are held: they would take as much
memory as all the rest."""

_BATCH_BYTES = 32 << 20
"""A batch that stays in the cache of a core would be smaller, and its products slower."""

_MIN_BATCH_BYTES = 2 << 20
"""Smaller batches save no memory that counts beside the libraries' own."""

_LARGEST_BATCH, _POINT_BYTES = 128, 32
"""Images of a batch; a coefficient's share of it: image, transfer, model and residual."""

# Measured: the peak above what is in use when the images have been screened, in half grids of
# complex numbers up to Nyquist; what is kept of a batch. Symmetries that take grid points to grid
# points need less room than those whose copies are turned and interpolated.
_GRIDS, _GRIDS_PERMUTED, _GRIDS_TURNED = 9.0, 10.0, 11.0
_GRIDS_BOTH, _GRIDS_BOTH_PERMUTED, _GRIDS_BOTH_TURNED = 12.0, 12.5, 17.0  # both halves at a time
# While images are inserted: what partial sums take, and the references and sums beside them.
_GRIDS_PER_SUM, _GRIDS_BESIDE_SUMS = 1.5, 3.0
_BATCHES = 4.0  # in the size of one, for each thread
# Measured as above: what every run holds, what each particle's values take.
_ALWAYS_BYTES, _PARTICLE_BYTES = 28 << 20, 4096
_TABLE_BYTES = 64 << 20  # of both halves, while poses are searched, when there are no sums yet
_PROCESS_BYTES = 350 << 20  # what the libraries take in each worker process
_SPARE = 0.9
"""Share of the free memory that a run may use as it likes: predictions are 10 % exact."""


@dataclass(frozen=True)
class MemoryPlan:
    """What a run may use.

    Attributes
    ----------
    partial_sums
        Of each half: so many blocks of particles are inserted at once.
    both_halves
        Whether there is room for the sums of both halves, and for what is made of them, at once.
        It decides about time alone.
    batch_bytes, largest_batch
        Size of a batch of images, and the most images in one.
    peak_bytes
        The predicted peak: of the whole process, or of its share of a GPU.
    free_bytes
        What the process may use at most: what it holds already and what is free.
    """

    partial_sums: int
    both_halves: bool
    batch_bytes: int
    largest_batch: int
    peak_bytes: int
    free_bytes: int

    @property
    def smallest_block(self) -> int:
        """Particles of a block, where there are enough, whose batches are at least half full."""
        return self.largest_batch // 2


@dataclass(frozen=True, kw_only=True)
class RunSize:
    """What of a run decides how much memory it takes.

    Attributes
    ----------
    size_px, oversampling
        Box of the maps; grid points per Fourier coefficient.
    is_symmetric, is_turned
        Whether there is a point group to apply; whether it takes some grid points to places between
        others, which needs room for turned grids.
    searches
        Whether orientations are searched everywhere.
    n_particles
        In the file.
    threads
        That work on batches at once.
    processes
        Worker processes; 0 where threads of this one do the work.
    """

    size_px: int
    oversampling: float = OVERSAMPLING
    is_symmetric: bool
    is_turned: bool
    searches: bool
    n_particles: int
    threads: int
    processes: int = 0


def plan_memory(run: RunSize, *, used_bytes: int, free_bytes: int) -> MemoryPlan:
    """Predict the peak of a run; take half after half, then fewer sums, then smaller batches.

    The peak is reached when sums are folded, symmetrised and solved in the last iteration, which
    fills them up to Nyquist. Below nine tenths of what is free nothing is cut. Whether both halves
    are worked on at once changes no result; the number of sums and the size of batches do, in the
    last bits, and depend on the run alone unless memory is scarce.

    Parameters
    ----------
    used_bytes
        What the process holds before the first iteration: libraries, inputs.
    free_bytes
        What it may hold at most.
    """
    grid = grid_bytes(run.size_px, run.oversampling)

    def plan(partial_sums: int, both_halves: bool, batch_bytes: int) -> MemoryPlan:
        # One thread takes half after half, whether there is room for both or not.
        is_at_once = both_halves and run.threads > 1
        if is_at_once:
            kinds = _GRIDS_BOTH, _GRIDS_BOTH_PERMUTED, _GRIDS_BOTH_TURNED
        else:
            kinds = _GRIDS, _GRIDS_PERMUTED, _GRIDS_TURNED
        solving = kinds[2 if run.is_turned else 1 if run.is_symmetric else 0]
        at_once = partial_sums * (2 if is_at_once else 1)
        grids = max(solving, _GRIDS_PER_SUM * at_once + _GRIDS_BESIDE_SUMS)
        images = image_bytes(run.size_px) * min(_LARGEST_BATCH, run.n_particles // 2)
        batches = _BATCHES * min(batch_bytes, images) * run.threads
        volumes = max(grids * grid, _TABLE_BYTES if run.searches else 0)
        peak = fixed_bytes + round(volumes + batches)
        return MemoryPlan(partial_sums, both_halves, batch_bytes, _LARGEST_BATCH, peak, free_bytes)

    fixed_bytes = used_bytes + _ALWAYS_BYTES + _PARTICLE_BYTES * run.n_particles
    fixed_bytes += _PROCESS_BYTES * run.processes

    most = _PARTIAL_SUMS if grid <= _LARGE_GRID_BYTES else _PARTIAL_SUMS_LARGE
    chosen = plan(most, True, _BATCH_BYTES)
    while chosen.peak_bytes > _SPARE * free_bytes:
        if chosen.both_halves:
            chosen = plan(chosen.partial_sums, False, chosen.batch_bytes)
        elif chosen.partial_sums > 1:
            chosen = plan(chosen.partial_sums // 2, False, chosen.batch_bytes)
        elif chosen.batch_bytes > _MIN_BATCH_BYTES:
            chosen = plan(1, False, chosen.batch_bytes // 2)
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
    kind = DeviceMemoryPlanned if on_gpu else MemoryPlanned
    events.emit(
        kind(
            predicted_peak_bytes=plan.peak_bytes,
            free_bytes=plan.free_bytes,
            partial_sums=plan.partial_sums,
            both_halves=plan.both_halves,
            batch_bytes=plan.batch_bytes,
        )
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
