"""Show events as they come: a bar on a terminal, one plain line an iteration elsewhere."""

import math
import sys

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from cryorefine.errors import shown
from cryorefine.events import (
    DeviceMemoryPlanned,
    Event,
    HalvesRestored,
    IterationDone,
    MemoryPlanned,
    ParticlesMatched,
    RunResumed,
    RunStarted,
    StartResolutionMeasured,
    WarningGiven,
    WorkAdvanced,
)
from cryorefine.state.counts import counts_from_values
from cryorefine.state.helix import HelixRecord, helix_from_values

__all__ = ["ProgressDisplay", "iteration_line"]


def iteration_line(event: IterationDone) -> str:
    """Return one line that says what an iteration reached."""
    is_known = not math.isnan(event.resolution_A)
    parts = [
        f"iteration {event.iteration:3d}",
        f"{event.mode:6s}",
        f"resolution {event.resolution_A:6.2f} Å" if is_known else "no signal",
    ]
    if event.resolution_unmasked_A is not None:
        parts.append(f"(unmasked {event.resolution_unmasked_A:.2f} Å)")
    if not math.isnan(event.median_turn_deg):
        parts.append(f"poses turned {event.median_turn_deg:.2f}°")
    helix = helix_from_values(event.helix)
    if helix is not None:
        parts.append(helix_words(helix))
    counts = counts_from_values(event.counts)
    if counts is not None and counts.n_used < counts.n_in_use:
        parts.append(f"{counts.n_used} of {counts.n_in_use} particles in the maps")
    parts.append(f"{event.cpu_s:.0f} s CPU")
    return "  ".join(parts)


def helix_words(helix: HelixRecord) -> str:
    """Return twist and rise with their uncertainties, where they were found."""
    if helix.twist_uncertainty_deg is None or helix.rise_uncertainty_A is None:
        return f"helix {helix.twist_deg:.3f}°, {helix.rise_A:.3f} Å"
    return (
        f"helix {helix.twist_deg:.3f} ± {helix.twist_uncertainty_deg:.3f}°, "
        f"{helix.rise_A:.3f} ± {helix.rise_uncertainty_A:.3f} Å"
    )


class ProgressDisplay:
    """Listens to a run's events; use as a context manager.

    Results go to standard output; the bar and warnings to standard error.
    """

    def __init__(self):
        self._errors = Console(stderr=True)
        self._live = self._errors.is_terminal
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=self._errors,
            transient=True,
            disable=not self._live,
        )
        self._task = None

    def __enter__(self) -> "ProgressDisplay":
        self._progress.start()
        return self

    def __exit__(self, *details: object) -> None:
        self._progress.stop()

    def __call__(self, event: Event) -> None:
        """Show one event."""
        if isinstance(event, WorkAdvanced):
            self._advance(event)
        elif isinstance(event, WarningGiven):
            print(f"warning: {shown(event.message)}", file=sys.stderr, flush=True)
        else:
            text = _line_of(event)
            if text:
                print(text, flush=True)

    def _advance(self, event: WorkAdvanced) -> None:
        if not self._live:
            return
        if self._task is None:
            self._task = self._progress.add_task(event.stage, total=event.total)
        self._progress.update(
            self._task, description=event.stage, completed=event.done, total=event.total
        )


def _line_of(event: Event) -> str:
    """Return one line that says what happened; empty if it is not for people."""
    match event:
        case RunStarted():
            return (
                f"{event.n_used} of {event.n_particles} particles, box {event.box_px} px, "
                f"{event.voxel_A:.3f} Å/px, symmetry {event.symmetry}, particle radius "
                f"{event.radius_A:.0f} Å, halves {event.n_half1} + {event.n_half2}, "
                f"{event.threads} threads, device {event.device}"
            )
        case MemoryPlanned():  # also a GPU's own
            where = "on the GPU " if isinstance(event, DeviceMemoryPlanned) else ""
            return (
                f"predicted peak {where}{event.predicted_peak_bytes / 1e9:.1f} GB of "
                f"{event.free_bytes / 1e9:.0f} GB free"
            )
        case StartResolutionMeasured(resolution_A=float(resolution_A)):
            return f"the given poses support {resolution_A:.2f} Å"
        case HalvesRestored():
            return restored_line(event)
        case RunResumed():
            return f"resuming after iteration {event.iteration}"
        case ParticlesMatched() if event.n_new or event.n_dropped or event.n_returned:
            return (
                f"particles: {event.n_kept} kept, {event.n_new} new, "
                f"{event.n_returned} back, {event.n_dropped} left out"
            )
        case IterationDone():
            return iteration_line(event)
    return ""


def restored_line(event: HalvesRestored) -> str:
    """Return what was done to the half maps, and by how much one was moved."""
    said = []
    for step in event.steps:
        facts = step["facts"]
        text = step["title"]
        if facts.get("unchanged_because"):
            text += f" (unchanged: {facts['unchanged_because']})"
        elif step["name"] == "align":
            turn = math.hypot(*(facts[f"rotation_{axis}_deg"] for axis in "xyz"))
            shift = math.hypot(*(facts[f"shift_{axis}_A"] for axis in "xyz"))
            text += f" (half 2 turned by {turn:.2f}° and moved by {shift:.2f} Å)"
        said.append(text)
    return f"processed maps: {'; '.join(said)}"
