"""The legs of a run: each continues the one before with other settings or other particles.

``legs.json`` lists them, and is what makes a leg begin: what a leg starts from is written before
it under a name of its own, and ``settings.toml`` is brought up to date after it. A process killed
in between leaves either the old leg or the new one, and the next one to look puts the rest right.
"""

import json
import math
import shutil
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from cryorefine.errors import InputError
from cryorefine.io.atomic import write_text
from cryorefine.refine.plan import Geometry, IterationPlan, IterationRecord
from cryorefine.refine.schedule import next_plan
from cryorefine.refine.settings import RefineSettings, load_settings
from cryorefine.run.checkpoint import leg_folder

__all__ = [
    "Leg",
    "clear_legs",
    "current_settings",
    "plan_of_leg",
    "read_legs",
    "settings_within_run",
    "switch_leg",
    "write_first_leg",
]

_SEARCH_ONE_IN_THREE = 0.1  # so many seem to have jumped: no longer few, not yet many


@dataclass(frozen=True)
class Leg:
    """A part of a run that has one set of settings and particles.

    Attributes
    ----------
    first_iteration
        Its first.
    counts_from
        Iteration that its schedule and ``iterations`` count from: the first one, or that of an
        earlier leg which was interrupted and is brought to its end.
    settings
        What was given, by the settings' names: for the first leg all, later what is new.
    suspended
        Settings of the legs before that this one has no use for; they come back in the next.
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


def read_legs(run: Path) -> list[Leg]:
    """Return a run's legs; a run without a list has one.

    Raises
    ------
    InputError
        If the list is damaged.
    """
    path = run / "legs.json"
    try:
        legs = [Leg(**entry) for entry in json.loads(path.read_text(encoding="utf-8"))]
    except FileNotFoundError:
        return [Leg(1, 1, {})]
    except (OSError, ValueError, TypeError) as error:
        raise InputError(
            f"the list of legs cannot be read ({error})", where=str(path), do="restore the file"
        ) from None
    return legs or [Leg(1, 1, {})]


def _write_legs(run: Path, legs: list[Leg]) -> None:
    write_text(run / "legs.json", json.dumps([asdict(leg) for leg in legs], indent=2) + "\n")


def write_first_leg(run: Path, leg: Leg) -> None:
    """Begin the list."""
    _write_legs(run, [leg])


def switch_leg(run: Path, legs: list[Leg]) -> None:
    """Make the last of these legs, whose folder is there, the run's current one."""
    _keep_settings(run, len(legs) - 1)
    _write_legs(run, legs)
    current_settings(run, legs)


def _kept(run: Path, number: int) -> Path:
    return run / f"settings_leg{number:03d}.toml"


def _keep_settings(run: Path, number: int) -> None:
    """Keep the settings of the leg that ends under a name of their own."""
    text = (run / "settings.toml").read_text(encoding="utf-8")
    write_text(_kept(run, number), text)


def current_settings(run: Path, legs: list[Leg]) -> dict[str, Any]:
    """Return the values of ``settings.toml``, after bringing it up to date with the list of legs.

    Raises
    ------
    InputError
        If the file cannot be read.
    """
    path, before = run / "settings.toml", _kept(run, len(legs) - 1)
    if len(legs) > 1:
        # Still those of the leg before: the process was killed between the list and this file.
        with suppress(FileNotFoundError):
            if path.read_bytes() == before.read_bytes():
                source = leg_folder(run, len(legs)) / "settings.toml"
                write_text(path, source.read_text(encoding="utf-8"))
    return load_settings(path)


def clear_legs(run: Path) -> None:
    """Remove all that legs have left in a folder."""
    files = [run / "legs.json", *run.glob("settings_leg*.toml")]
    for path in files:
        path.unlink(missing_ok=True)
    for folder in [*run.glob("leg_[0-9]*"), *run.glob(".leg_*.part")]:
        shutil.rmtree(folder, ignore_errors=True)


def settings_within_run(settings: RefineSettings, leg: Leg) -> RefineSettings:
    """Return a leg's settings as the whole run sees them.

    An automatic alignment that the data drive looks at the whole history: its largest number of
    iterations counts from the beginning of the run.
    """
    done = leg.counts_from - 1
    if not (settings.is_data_driven and done):
        return settings
    return settings.model_copy(update={"iterations": done + settings.max_iterations})


def plan_of_leg(
    settings: RefineSettings,
    geometry: Geometry,
    history: list[IterationRecord],
    leg: Leg,
    *,
    start_A: float = math.nan,
) -> IterationPlan | None:
    """Return what to do next, or None if the leg is complete.

    Parameters
    ----------
    settings
        As :func:`settings_within_run` returns them.
    history
        Of the whole run.
    start_A
        Resolution that the poses which the run was given support; NaN where it was not measured.
    """
    done = leg.counts_from - 1
    earlier, own = history[:done], history[done:]
    if not earlier:
        return next_plan(settings, geometry, history, start_A=start_A)
    if not settings.is_data_driven:
        plan = next_plan(settings, geometry, own, before=earlier[-1])
    else:
        judged = _unsettled(earlier, leg, is_first=not own)
        plan = next_plan(settings, geometry, [*judged, *own])
    if plan is None:
        return None
    share = plan.share
    if settings.is_data_driven:
        share = max(share, earlier[-1].share)  # references are no longer as coarse as at first
    return replace(plan, iteration=len(history) + 1, share=share)


def _unsettled(
    earlier: list[IterationRecord], leg: Leg, *, is_first: bool
) -> list[IterationRecord]:
    """Return earlier legs' records such that only this leg's own tell when it has converged.

    Resolutions of another mask, criterion or set of particles cannot be compared: they tell where
    the leg starts, and nothing more.
    """
    records = [replace(record, median_turn_deg=math.inf) for record in earlier]
    if not is_first:
        return [replace(record, resolution_A=math.inf) for record in records]
    if leg.search != "nobody":
        jumped = 1.0 if leg.search == "all" else _SEARCH_ONE_IN_THREE
        records[-1] = replace(records[-1], mode="global", jumped_fraction=jumped)
    return records
