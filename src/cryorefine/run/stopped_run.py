"""A run as its folder holds it: what was last committed, and with which settings."""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryorefine.engine.clock import Clock
from cryorefine.errors import InputError
from cryorefine.records.checkpoint_record import Checkpoint
from cryorefine.run.checkpoint import load_start, load_state, prune_iterations
from cryorefine.run.folder import input_paths
from cryorefine.run.segments import Segment, current_settings, read_segments
from cryorefine.settings import FILE_SETTINGS, RefineSettings, make_settings
from cryorefine.storage.input_places import locate_inputs
from cryorefine.storage.layout import (
    MANIFEST,
    PUBLISHED,
    check_no_links,
    committed_iterations,
    segment_folder,
)
from cryorefine.storage.manifest import changed_inputs, check_is_filled
from cryorefine.storage.publication import repair

__all__ = ["StoppedRun", "changes_of_inputs", "check_is_run", "put_right", "read_stopped_run"]


@dataclass(frozen=True, eq=False)
class StoppedRun:
    """A run that is not going on now, whether it has ended or not.

    Attributes
    ----------
    values_before
        What ``settings.toml`` says, and what was suspended by its last segment; files are named
        where they are now.
    settings
        Of ``settings.toml``, with all defaults; files as above.
    checkpoint
        Its last.
    clock
        Goes on from the time that the run has taken.
    """

    output: Path
    segments: list[Segment]
    values_before: dict[str, Any]
    settings: RefineSettings
    checkpoint: Checkpoint
    clock: Clock


def read_stopped_run(output: Path) -> StoppedRun:
    """Read where a run stands.

    Raises
    ------
    InputError
        If the folder holds no run, or a file of it is damaged.
    """
    check_no_links(output)
    check_is_filled(output)
    done = committed_iterations(output)
    if not done or not (output / "settings.toml").exists():
        raise _no_run(output)
    segments = read_segments(output)
    if segments[-1].first_iteration > done[-1] + 1:
        raise InputError(
            f"lacks iteration {segments[-1].first_iteration - 1}, after which leg "
            f"{len(segments)} of the run began",
            where=str(output),
            do="restore its folder",
        )
    values = _located(output, current_settings(output, segments))
    suspended = _located(output, segments[-1].suspended)
    settings = make_settings(values, where=str(output))
    if len(segments) > 1 and done[-1] < segments[-1].first_iteration:
        checkpoint = load_start(output, len(segments), segments[-1].first_iteration - 1)
    else:
        checkpoint = load_state(output, done[-1])
    clock = Clock(*checkpoint.spent_s)
    return StoppedRun(output, segments, {**values, **suspended}, settings, checkpoint, clock)


def _located(run: Path, values: dict[str, Any]) -> dict[str, Any]:
    """Return settings with their files named where they are now."""
    files = {name: value for name, value in values.items() if name in FILE_SETTINGS}
    listed = (value if isinstance(value, list) else [value] for value in files.values())
    now = locate_inputs(run, {text for texts in listed for text in texts if isinstance(text, str)})

    def located(value: Any) -> Any:
        if isinstance(value, list):
            return [located(v) for v in value]
        return now[value] if isinstance(value, str) else value

    return {**values, **{name: located(value) for name, value in files.items()}}


def check_is_run(output: Path) -> None:
    """Refuse a folder that is no run's, before anything is looked for in it.

    Raises
    ------
    InputError
        If it is none.
    """
    if not (committed_iterations(output) or os.path.exists(output / MANIFEST)):
        raise _no_run(output)


def _no_run(output: Path) -> InputError:
    return InputError(
        "no run to resume", where=str(output), do="start one with 'cryorefine refine'"
    )


def changes_of_inputs(
    stopped: StoppedRun,
    paths: Iterable[Path] | None = None,
    beside: Iterable[Path] | None = None,
) -> list[str] | None:
    """Return :func:`changed_inputs` of the files that a run's last segment began with."""
    run, number = stopped.output, len(stopped.segments)
    return changed_inputs(segment_folder(run, number) if number > 1 else run, run, paths, beside)


def put_right(stopped: StoppedRun) -> str:
    """Do what a killed process has left undone after its last commit, in a folder that is held.

    Returns
    -------
    What the user should know of it; empty if nothing was wrong.
    """
    run, settings = stopped.output, stopped.settings
    has_record = (run / PUBLISHED).exists()  # earlier versions made none
    done = committed_iterations(run)[-1]
    wrong = repair(run, input_paths(settings, ()))
    if settings.intermediate == "remove":
        prune_iterations(run, done, input_paths(settings, ()))
    if not (wrong and has_record):
        return ""
    return (
        f"{run}: the files at the top were not all those of iteration {done} "
        f"({', '.join(wrong)}), and have been copied from its folder"
    )
