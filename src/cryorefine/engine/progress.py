"""Emit how far the work on particles is."""

from cryorefine.engine.protocol import Done
from cryorefine.events import EventLog, WorkAdvanced

__all__ = ["progress_of"]


def progress_of(stage: str, events: EventLog, total: int) -> Done:
    """Return what counts particles that are done, of so many, and emits the count."""
    counted = 0

    def done(count: int) -> None:
        nonlocal counted
        counted += count
        events.emit(WorkAdvanced(stage=stage, done=counted, total=total))

    return done
