"""The segments of a run: each continues the one before with other settings or other particles.

``legs.json`` lists them (an older word, which run folders keep), and is what makes a segment begin:
what it starts from is written before that under a name of its own, and ``settings.toml`` is brought
up to date after it. A process killed in between leaves either the old segment or the new one, and
the next one to look puts the rest right.
"""

import json
import math
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from cryorefine.errors import InputError
from cryorefine.io.atomic import write_text
from cryorefine.refine.schedule import next_plan
from cryorefine.settings import RefineSettings, load_settings
from cryorefine.state.plan import Geometry, IterationPlan, IterationRecord
from cryorefine.storage.json_record import read_json
from cryorefine.storage.layout import segment_folder

__all__ = [
    "Segment",
    "current_settings",
    "plan_of_segment",
    "read_segments",
    "settings_within_run",
    "switch_segment",
    "timestamp",
    "write_first_segment",
]

_SEARCH_ONE_IN_THREE = 0.1  # so many seem to have jumped: no longer few, not yet many


@dataclass(frozen=True)
class Segment:
    """A part of a run that has one set of settings and particles.

    Attributes
    ----------
    first_iteration
        Its first.
    counts_from
        Iteration that its schedule and ``iterations`` count from: the first one, or that of an
        earlier segment which was interrupted and is brought to its end.
    settings
        What was given, by the settings' names: for the first segment all, later what is new.
    suspended
        Settings of the segments before that this one has no use for; they come back in the next.
    search
        Whom the first iteration of an automatic schedule searches for everywhere beside those it
        would anyway: nobody, those without a pose, or all.
    keep_above_percentile
        Lower limit of the particles' quality that was given; None if none was.
    started
        When.
    n_particles, n_used
        In the file, and of them in use.
    """

    first_iteration: int
    counts_from: int
    settings: dict[str, Any]
    suspended: dict[str, Any] = field(default_factory=dict)
    search: Literal["nobody", "new", "all"] = "nobody"
    keep_above_percentile: float | None = None
    started: str = ""
    n_particles: int = 0
    n_used: int = 0


def timestamp() -> str:
    """Return the time now, as the list of segments has it."""
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")


def read_segments(run: Path) -> list[Segment]:
    """Return a run's segments; a run without a list has one.

    Raises
    ------
    InputError
        If the list is damaged.
    """
    path = run / "legs.json"
    try:
        segments = [Segment(**entry) for entry in read_json(path)]
        _require_sound(segments)
    except FileNotFoundError:
        return [Segment(1, 1, {})]
    except (OSError, ValueError, TypeError) as error:
        raise InputError(
            f"the list of legs cannot be read ({error})", where=str(path), do="restore the file"
        ) from None
    return segments or [Segment(1, 1, {})]


def _require_sound(segments: list[Segment]) -> None:
    """Refuse segments that cannot follow on each other; raises ValueError or TypeError."""
    before = 0
    for number, segment in enumerate(segments, 1):
        first, counts_from = segment.first_iteration, segment.counts_from
        if type(first) is not int or first < max(before, 1) or (number == 1 and first != 1):
            raise ValueError(
                f"leg {number}: first_iteration should follow on that of the one before"
            )
        if type(counts_from) is not int or not 1 <= counts_from <= first:
            raise ValueError(f"leg {number}: counts_from should be 1 to first_iteration")
        if not (isinstance(segment.settings, dict) and isinstance(segment.suspended, dict)):
            raise TypeError(f"leg {number}: settings and suspended should be tables")
        if segment.search not in ("nobody", "new", "all"):
            raise ValueError(f"leg {number}: search should be nobody, new or all")
        limit = segment.keep_above_percentile
        if limit is not None and not (isinstance(limit, int | float) and 0 <= limit <= 100):
            raise ValueError(f"leg {number}: keep_above_percentile should be 0 to 100, or null")
        before = first


def _write_segments(run: Path, segments: list[Segment]) -> None:
    write_text(
        run / "legs.json", json.dumps([asdict(segment) for segment in segments], indent=2) + "\n"
    )


def write_first_segment(run: Path, segment: Segment) -> None:
    """Begin the list."""
    _write_segments(run, [segment])


def switch_segment(run: Path, segments: list[Segment]) -> None:
    """Make the last of these segments, whose folder is there, the run's current one."""
    _keep_settings(run, len(segments) - 1)
    _write_segments(run, segments)
    current_settings(run, segments)


def _kept(run: Path, number: int) -> Path:
    return run / f"settings_leg{number:03d}.toml"


def _keep_settings(run: Path, number: int) -> None:
    """Keep the settings of the segment that ends under a name of their own."""
    text = (run / "settings.toml").read_text(encoding="utf-8")
    write_text(_kept(run, number), text)


def current_settings(run: Path, segments: list[Segment]) -> dict[str, Any]:
    """Return the values of ``settings.toml``, brought up to date with the list of segments.

    Raises
    ------
    InputError
        If the file cannot be read.
    """
    path, before = run / "settings.toml", _kept(run, len(segments) - 1)
    if len(segments) > 1:
        # Still those of the segment before: the process was killed between the list and this file.
        with suppress(FileNotFoundError):
            if path.read_bytes() == before.read_bytes():
                source = segment_folder(run, len(segments)) / "settings.toml"
                load_settings(source)
                write_text(path, source.read_text(encoding="utf-8"))
    return load_settings(path)


def settings_within_run(settings: RefineSettings, segment: Segment) -> RefineSettings:
    """Return a segment's settings as the whole run sees them.

    An automatic alignment that the data drive looks at the whole history: its largest number of
    iterations counts from the beginning of the run.
    """
    done = segment.counts_from - 1
    if not (settings.is_data_driven and done):
        return settings
    return settings.model_copy(update={"iterations": done + settings.max_iterations})


def plan_of_segment(
    settings: RefineSettings,
    geometry: Geometry,
    history: list[IterationRecord],
    segment: Segment,
    *,
    start_A: float = math.nan,
) -> IterationPlan | None:
    """Return what to do next, or None if the segment is complete.

    Parameters
    ----------
    settings
        As :func:`settings_within_run` returns them.
    history
        Of the whole run.
    start_A
        Resolution that the poses which the run was given support; NaN where it was not measured.
    """
    done = segment.counts_from - 1
    earlier, own = history[:done], history[done:]
    if not earlier:
        return next_plan(settings, geometry, history, start_A=start_A)
    if not settings.is_data_driven:
        plan = next_plan(settings, geometry, own, before=earlier[-1])
    else:
        judged = _unsettled(earlier, segment, is_first=not own)
        plan = next_plan(settings, geometry, [*judged, *own])
    if plan is None:
        return None
    share = plan.share
    if settings.is_data_driven:
        share = max(share, earlier[-1].share)  # references are no longer as coarse as at first
    return replace(plan, iteration=len(history) + 1, share=share)


def _unsettled(
    earlier: list[IterationRecord], segment: Segment, *, is_first: bool
) -> list[IterationRecord]:
    """Return earlier segments' records such that only this one's own tell when it has converged.

    Resolutions of another mask, criterion or set of particles cannot be compared: they tell where
    the segment starts, and nothing more.
    """
    records = [replace(record, median_turn_deg=math.inf) for record in earlier]
    if not is_first:
        return [replace(record, resolution_A=math.inf, mean_fsc=0.0) for record in records]
    if segment.search != "nobody":
        jumped = 1.0 if segment.search == "all" else _SEARCH_ONE_IN_THREE
        records[-1] = replace(
            records[-1], mode="global", jumped_fraction=jumped, jumped_at_least=jumped
        )
    return records
