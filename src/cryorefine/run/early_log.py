"""The log of a run that has no folder yet."""

from pathlib import Path
from typing import Any

from cryorefine.events import EventLog, Listener

__all__ = ["EarlyLog"]


class EarlyLog(EventLog):
    """Tells listeners at once, and keeps what happens before there is a folder to write to."""

    def __init__(self, listeners: tuple[Listener, ...]) -> None:
        super().__init__()
        self._held: list[dict[str, Any]] = []
        self._outer = listeners
        for listener in (self._held.append, *listeners):
            self.subscribe(listener)

    def continued(self, output: Path) -> EventLog:
        """Return the log of a run folder, which has been told of all before."""
        events = EventLog(output / "events.jsonl")
        for event in self._held:
            if event["kind"] != "progress":
                data = {k: v for k, v in event.items() if k not in ("kind", "time")}
                events.emit(event["kind"], **data)
        for listener in self._outer:
            events.subscribe(listener)
        return events
