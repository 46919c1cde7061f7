"""A run as its folder holds it: what was last committed, and with which settings."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryorefine.errors import InputError
from cryorefine.records.checkpoint_record import Checkpoint
from cryorefine.run.checkpoint import committed_iterations, load_start, load_state
from cryorefine.run.folder import Clock
from cryorefine.run.segments import Segment, current_settings, read_segments
from cryorefine.settings import RefineSettings, make_settings

__all__ = ["StoppedRun", "read_stopped_run"]


@dataclass(frozen=True, eq=False)
class StoppedRun:
    """A run that is not going on now, whether it has ended or not.

    Attributes
    ----------
    values, settings
        Of ``settings.toml``: what it says, and with all defaults.
    checkpoint
        Its last.
    clock
        Goes on from the time that the run has taken.
    """

    output: Path
    segments: list[Segment]
    values: dict[str, Any]
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
    done = committed_iterations(output)
    if not done or not (output / "settings.toml").exists():
        raise InputError(
            "no run to resume", where=str(output), do="start one with 'cryorefine refine'"
        )
    segments = read_segments(output)
    values = current_settings(output, segments)
    settings = make_settings(values, where=str(output))
    if len(segments) > 1 and done[-1] < segments[-1].first_iteration:
        checkpoint = load_start(output, len(segments))
    else:
        checkpoint = load_state(output, done[-1])
    clock = Clock(*checkpoint.spent_s)
    return StoppedRun(output, segments, values, settings, checkpoint, clock)
