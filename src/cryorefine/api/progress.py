"""Show events as they come: a bar on a terminal, one plain line an iteration elsewhere."""

import sys
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

__all__ = ["ProgressDisplay", "iteration_line"]


def iteration_line(event: dict[str, Any]) -> str:
    """Return one line that says what an iteration reached."""
    parts = [
        f"iteration {event['iteration']:3d}",
        f"{event['mode']:6s}",
        f"resolution {event['resolution_A']:6.2f} Å" if "resolution_A" in event else "no signal",
    ]
    if event.get("resolution_unmasked_A") is not None:
        parts.append(f"(unmasked {event['resolution_unmasked_A']:.2f} Å)")
    if "median_turn_deg" in event:
        parts.append(f"poses turned {event['median_turn_deg']:.2f}°")
    parts.append(f"{event['cpu_s']:.0f} s CPU")
    return "  ".join(parts)


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

    def __call__(self, event: dict[str, Any]) -> None:
        """Show one event."""
        kind = event["kind"]
        if kind == "progress":
            self._advance(event)
        elif kind == "start":
            self._print(
                f"{event['n_used']} of {event['n_particles']} particles, box {event['box_px']} px, "
                f"{event['voxel_A']:.3f} Å/px, symmetry {event['symmetry']}, particle radius "
                f"{event['radius_A']:.0f} Å, halves {event['n_half1']} + {event['n_half2']}, "
                f"{event['threads']} threads, device {event['device']}"
            )
        elif kind in ("memory", "device_memory"):
            where = "" if kind == "memory" else "on the GPU "
            self._print(
                f"predicted peak {where}{event['predicted_peak_bytes'] / 1e9:.1f} GB of "
                f"{event['free_bytes'] / 1e9:.0f} GB free"
            )
        elif kind == "start_resolution" and event["resolution_A"] is not None:
            self._print(f"the given poses support {event['resolution_A']:.2f} Å")
        elif kind == "resume":
            self._print(f"resuming after iteration {event['iteration']}")
        elif kind == "particles" and (event["n_new"] or event["n_dropped"] or event["n_returned"]):
            self._print(
                f"particles: {event['n_kept']} kept, {event['n_new']} new, "
                f"{event['n_returned']} back, {event['n_dropped']} left out"
            )
        elif kind == "iteration":
            self._print(iteration_line(event))
        elif kind == "warning":
            print(f"warning: {event['message']}", file=sys.stderr, flush=True)

    def _advance(self, event: dict[str, Any]) -> None:
        if not self._live:
            return
        if self._task is None:
            self._task = self._progress.add_task(event["stage"], total=event["total"])
        self._progress.update(
            self._task, description=event["stage"], completed=event["done"], total=event["total"]
        )

    def _print(self, text: str) -> None:
        print(text, flush=True)
