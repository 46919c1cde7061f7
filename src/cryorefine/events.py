"""The one channel by which anything learns how a run goes."""

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

__all__ = ["EventLog", "Listener", "read_events"]

Listener = Callable[[dict[str, Any]], None]


class EventLog:
    """Appends events to a JSON-lines file and tells listeners.

    Parameters
    ----------
    path
        File to append to; None keeps nothing.
    """

    def __init__(self, path: Path | None = None):
        self._path = path
        self._listeners: list[Listener] = []
        if path is not None and path.exists():
            _end_last_line(path)

    def subscribe(self, listener: Listener) -> None:
        """Call ``listener`` with every later event."""
        self._listeners.append(listener)

    def emit(self, kind: str, **data: Any) -> None:
        """Record an event; ``progress`` events reach listeners only, they would swamp the file."""
        event = {"time": time.time(), "kind": kind, **data}
        if self._path is not None and kind != "progress":
            with open(self._path, "a", encoding="utf-8") as file:
                file.write(json.dumps(event) + "\n")
        for listener in self._listeners:
            listener(event)

    def warn(self, message: str) -> None:
        """Record something that the user should know."""
        self.emit("warning", message=message)


def _end_last_line(path: Path) -> None:
    """Set a line cut short by a crash apart from those to come."""
    with open(path, "rb+") as file:
        if file.seek(0, os.SEEK_END) > 0:
            file.seek(-1, os.SEEK_END)
            if file.read() != b"\n":
                file.write(b"\n")


def read_events(path: Path) -> list[dict[str, Any]]:
    """Read an event file; a line cut short by a crash is left out."""
    events = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            events.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return events
