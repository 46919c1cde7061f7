"""The kinds of events, one record each; their fields are the names in ``events.jsonl``.

The names there are older than this file and stay: run folders are read for years.
"""

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from cryorefine.events.record import Event

__all__ = [
    "KINDS",
    "CovarianceCalibrated",
    "DeviceMemoryPlanned",
    "GreyScaleFound",
    "HalvesRestored",
    "IterationBegun",
    "IterationDone",
    "MemoryPlanned",
    "ParticlesMatched",
    "RadiusMeasured",
    "RunEnded",
    "RunResumed",
    "RunStarted",
    "RunStopped",
    "SearchTried",
    "SegmentBegun",
    "StartResolutionMeasured",
    "WarningGiven",
    "WorkAdvanced",
]


@dataclass(frozen=True, kw_only=True)
class WarningGiven(Event):
    """There is something that the user should know."""

    KIND: ClassVar[str] = "warning"

    message: str


@dataclass(frozen=True, kw_only=True)
class WorkAdvanced(Event):
    """Some of a stage's particles are done; not recorded, for it would swamp the file."""

    KIND: ClassVar[str] = "progress"
    IS_RECORDED: ClassVar[bool] = False

    stage: str
    done: int
    total: int


@dataclass(frozen=True, kw_only=True)
class RunStarted(Event):
    """A run, or a segment of it, knows what it works on.

    Attributes
    ----------
    n_particles, n_used
        In the file, and of them in use.
    box_px, voxel_A
        Of the volumes.
    symmetry
        The point group's name.
    radius_A
        Of the particle.
    workers
        Processes that share the work; None chose none.
    """

    KIND: ClassVar[str] = "start"

    n_particles: int
    n_used: int
    box_px: int
    voxel_A: float
    symmetry: str
    radius_A: float
    n_half1: int
    n_half2: int
    threads: int
    workers: int | None
    device: str


@dataclass(frozen=True, kw_only=True)
class MemoryPlanned(Event):
    """How the machine's memory is to be used.

    Attributes
    ----------
    predicted_peak_bytes, free_bytes
        Most that is expected to be held, and what is free.
    partial_sums
        Volumes that threads add images to side by side.
    both_halves
        Whether both half sets are worked on at a time.
    batch_bytes
        For the images that are worked on at a time.
    """

    KIND: ClassVar[str] = "memory"

    predicted_peak_bytes: int
    free_bytes: int
    partial_sums: int
    both_halves: bool
    batch_bytes: int


@dataclass(frozen=True, kw_only=True)
class DeviceMemoryPlanned(MemoryPlanned):
    """How a GPU's own memory is to be used."""

    KIND: ClassVar[str] = "device_memory"


@dataclass(frozen=True, kw_only=True)
class RunResumed(Event):
    """A run goes on after its last whole iteration, which is named."""

    KIND: ClassVar[str] = "resume"

    iteration: int


@dataclass(frozen=True, kw_only=True)
class SegmentBegun(Event):
    """A segment of a run begins (``leg`` in the file, an older word).

    Attributes
    ----------
    number
        Counted from 1.
    first_iteration, counts_from, settings, suspended, search, keep_above_percentile, started
        As in :class:`~cryorefine.run.segments.Segment`.
    n_particles, n_used
        In the file, and of them in use.
    """

    KIND: ClassVar[str] = "leg"

    number: int
    first_iteration: int
    counts_from: int
    settings: dict[str, Any]
    suspended: dict[str, Any]
    search: str
    keep_above_percentile: float | None
    started: str
    n_particles: int
    n_used: int


@dataclass(frozen=True, kw_only=True)
class ParticlesMatched(Event):
    """The particles of a new segment were found among those of the run.

    Attributes
    ----------
    n_kept, n_returned, n_new, n_dropped
        In use before and now; known and in use again; not seen before; no longer in use.
    """

    KIND: ClassVar[str] = "particles"

    n_kept: int
    n_returned: int
    n_new: int
    n_dropped: int


@dataclass(frozen=True, kw_only=True)
class RadiusMeasured(Event):
    """The radius of the particle was measured on the initial map."""

    KIND: ClassVar[str] = "radius"

    radius_A: float


@dataclass(frozen=True, kw_only=True)
class StartResolutionMeasured(Event):
    """The poses that a run was given support this resolution; None if half maps share nothing."""

    KIND: ClassVar[str] = "start_resolution"

    resolution_A: float | None


@dataclass(frozen=True, kw_only=True)
class GreyScaleFound(Event):
    """The references were brought to the images' grey scale by these factors, one a half."""

    KIND: ClassVar[str] = "grey_scale"

    half1: float
    half2: float


@dataclass(frozen=True, kw_only=True)
class IterationBegun(Event):
    """An iteration begins; what it is to do, as in its plan.

    Attributes
    ----------
    iteration
        Its number, counted from 1.
    mode
        How poses are assigned.
    align_resolution_A, search_finer, rescues, reconstruct_resolution_A, search_every, guard_every,
    share, subset, is_last, searches_doubtful
        As in :class:`~cryorefine.state.plan.IterationPlan`.
    """

    KIND: ClassVar[str] = "iteration_start"

    iteration: int
    mode: Literal["global", "local", "none"]
    align_resolution_A: float
    search_finer: float
    rescues: bool
    reconstruct_resolution_A: float
    search_every: int
    guard_every: int
    share: float
    subset: int | None
    is_last: bool
    searches_doubtful: bool = False


@dataclass(frozen=True, kw_only=True)
class SearchTried(Event):
    """A search over all orientations was planned and tried on planted images.

    Attributes
    ----------
    half, optics_group
        Whose particles are searched.
    resolution_A
        Finest detail that poses are compared at.
    step_deg, orientations, shifts
        Step of the grid of orientations, and sizes of both grids.
    terms, points
        Of the table that images are compared with: its slices, and coefficients of each.
    most_candidates, thinned, expected_candidates
        Poses that may be kept of each image, whether near ones are left out, and how many are
        expected.
    expected_recall, decidable
        Shares of the particles that are expected to be found, and that can be at all.
    operations
        Of an image.
    planted, planted_found, planted_missed
        Numbers of planted images.
    """

    KIND: ClassVar[str] = "search"

    half: int
    optics_group: str
    resolution_A: float
    step_deg: float
    orientations: int
    shifts: int
    terms: int
    points: int
    most_candidates: int
    thinned: bool
    expected_candidates: float
    expected_recall: float
    decidable: float
    operations: float
    planted: int
    planted_found: int
    planted_missed: int


@dataclass(frozen=True, kw_only=True)
class CovarianceCalibrated(Event):
    """Covariances of poses were multiplied by a factor measured on the particles.

    Attributes
    ----------
    variance_factor
        The factor.
    lag
        What the last iteration's steps add to it.
    """

    KIND: ClassVar[str] = "calibration"

    variance_factor: float
    lag: float


@dataclass(frozen=True, kw_only=True)
class IterationDone(Event):
    """An iteration is whole and on the disk; numbers that do not exist are NaN.

    Attributes
    ----------
    iteration, mode, resolution_A, align_resolution_A, reconstruct_resolution_A, median_turn_deg,
    jumped_fraction, median_sigma_rotation_deg, share, missed_fraction, unsearched_fraction,
    undecided_fraction, jumped_at_least, mean_fsc, subset, counts, helix
        As in :class:`~cryorefine.state.plan.IterationRecord`.
    resolution_unmasked_A
        From the unmasked FSC; None if the half maps share nothing.
    cpu_s, wall_s
        CPU time and time since the run began, without the time between its parts.
    """

    KIND: ClassVar[str] = "iteration"

    iteration: int
    mode: Literal["global", "local", "none"]
    resolution_A: float = math.nan
    align_resolution_A: float = math.nan
    reconstruct_resolution_A: float = math.nan
    median_turn_deg: float = math.nan
    jumped_fraction: float = math.nan
    median_sigma_rotation_deg: float = math.nan
    share: float = math.nan
    missed_fraction: float = math.nan
    unsearched_fraction: float = math.nan
    undecided_fraction: float = math.nan
    jumped_at_least: float = math.nan
    mean_fsc: float = math.nan
    subset: int | None = None
    counts: dict[str, Any] | None = None
    helix: dict[str, Any] | None = None
    resolution_unmasked_A: float | None = math.nan
    cpu_s: float = math.nan
    wall_s: float = math.nan


@dataclass(frozen=True, kw_only=True)
class HalvesRestored(Event):
    """The half maps of the last iteration were processed; the raw ones are as they were.

    Attributes
    ----------
    steps
        What was done, in order: ``name``, ``title``, ``mixes_halves`` and ``facts`` of each, such
        as by how much a half was moved.
    mixes_halves
        Whether the processed halves depend on each other.
    """

    KIND: ClassVar[str] = "restored"

    steps: list[dict[str, Any]]
    mixes_halves: bool


@dataclass(frozen=True, kw_only=True)
class RunStopped(Event):
    """A run was stopped, by its user or for lack of memory or disk; the message says why."""

    KIND: ClassVar[str] = "stopped"

    message: str


@dataclass(frozen=True, kw_only=True)
class RunEnded(Event):
    """A run is finished; the numbers of its summary, None where they do not exist.

    Attributes
    ----------
    resolution_A, resolution_unmasked_A, resolution_worst_A
        From the corrected and the unmasked FSC, and in the worst direction.
    n_particles, n_used, n_rejected, n_half1, n_half2, n_used_half1, n_used_half2
        Particles in the file, in the half maps, set aside; in each half set, and in each half map.
    n_aligned, n_not_drawn, n_left_out, set_aside, left_out
        Of the last iteration, as in :class:`~cryorefine.state.counts.ParticleCounts`.
    n_without_pose, n_pose_of_file, n_at_tilt_limit, n_outside_tilts, n_fit_nothing, n_undecided
        Particles without a pose, with that of the file, with one at or outside the tilt limits;
        those that fit nothing, and those that fit several poses alike.
    iterations, converged, finished
        How many there were; whether nothing gained any more; whether all were made.
    median_turn_deg, jumped_fraction, median_sigma_rotation_deg
        Of the last iteration.
    coverage
        Of directions, 1 if even.
    symmetry_gain_nats, asymmetric_share
        Whether images contradict the symmetry; see ``docs/symmetry.md``. None where not measured.
    helix
        That of the half maps, as :class:`~cryorefine.state.helix.HelixRecord`; None without one.
    wall_s, cpu_s
        Time and CPU time of all parts of the run.
    predicted_peak_bytes, peak_rss_bytes, device_predicted_peak_bytes, device_peak_bytes
        Memory that was expected to be held at most and was, also on a GPU.
    """

    KIND: ClassVar[str] = "end"

    resolution_A: float | None
    resolution_unmasked_A: float | None
    resolution_worst_A: float | None
    n_particles: int
    n_used: int
    n_rejected: int
    n_half1: int
    n_half2: int
    n_used_half1: int
    n_used_half2: int
    n_aligned: int
    n_not_drawn: int
    n_left_out: int
    set_aside: dict[str, int]
    left_out: dict[str, int]
    n_without_pose: int
    n_pose_of_file: int
    n_at_tilt_limit: int
    n_outside_tilts: int
    n_fit_nothing: int
    n_undecided: int
    iterations: int
    converged: bool
    finished: bool
    median_turn_deg: float | None
    jumped_fraction: float | None
    median_sigma_rotation_deg: float | None
    coverage: float | None
    symmetry: str
    symmetry_gain_nats: float | None = None
    asymmetric_share: float | None = None
    helix: dict[str, Any] | None
    voxel_A: float
    box_px: int
    particle_radius_px: float
    device: str
    wall_s: float
    cpu_s: float
    predicted_peak_bytes: int
    peak_rss_bytes: int
    device_predicted_peak_bytes: int | None
    device_peak_bytes: int | None


KINDS: dict[str, type[Event]] = {
    kind.KIND: kind
    for kind in (
        CovarianceCalibrated,
        DeviceMemoryPlanned,
        GreyScaleFound,
        HalvesRestored,
        IterationBegun,
        IterationDone,
        MemoryPlanned,
        ParticlesMatched,
        RadiusMeasured,
        RunEnded,
        RunResumed,
        RunStarted,
        RunStopped,
        SearchTried,
        SegmentBegun,
        StartResolutionMeasured,
        WarningGiven,
        WorkAdvanced,
    )
}
"""By their names in the file."""
