"""Tell of work on particles as it advances."""

from cryorefine.engine.protocol import Done
from cryorefine.events import EventLog, WorkAdvanced

__all__ = ["told_as"]


def told_as(stage: str, events: EventLog, total: int) -> Done:
    """Return what counts particles that are done, of so many, and emits the count."""
    counted = 0

    def done(count: int) -> None:
        nonlocal counted
        counted += count
        events.emit(WorkAdvanced(stage=stage, done=counted, total=total))

    return done
