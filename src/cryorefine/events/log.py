"""Write events to a file, each once, and tell listeners of them."""

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from threading import RLock

from cryorefine.events.kinds import WarningGiven
from cryorefine.events.record import Event

__all__ = ["EarlyEventLog", "EventLog", "Listener"]

Listener = Callable[[Event], None]


class EventLog:
    """Appends events to a JSON-lines file and tells listeners, one event at a time.

    Events may come from several threads, and listeners are told in those.

    Parameters
    ----------
    path
        File to append to; None keeps nothing.
    listeners
        Are called with every event.
    """

    def __init__(self, path: Path | None = None, listeners: Iterable[Listener] = ()):
        self._path = path
        self._listeners: list[Listener] = list(listeners)
        self._lock = RLock()
        if path is not None and path.exists():
            _end_last_line(path)

    def subscribe(self, listener: Listener) -> None:
        """Call ``listener`` with every later event."""
        self._listeners.append(listener)

    def emit(self, event: Event) -> None:
        """Record an event, unless its kind is for listeners only, and tell the listeners."""
        with self._lock:
            if event.IS_RECORDED:
                self._record(event)
            for listener in self._listeners:
                listener(event)

    def warn(self, message: str) -> None:
        """Record something that the user should know."""
        self.emit(WarningGiven(message=message))

    def _record(self, event: Event) -> None:
        if self._path is not None:
            try:
                with open(self._path, "a", encoding="utf-8", opener=_open_no_link) as file:
                    file.write(event.line() + "\n")
            except OSError as error:
                error.filename = str(self._path)  # of a full disk, the system does not say it
                raise


class EarlyEventLog(EventLog):
    """The log of a run that has no folder yet: it keeps events until there is a file for them.

    Listeners are told at once, and only then.
    """

    def __init__(self, listeners: Iterable[Listener] = ()) -> None:
        super().__init__(None, listeners)
        self._held: list[Event] = []

    def continue_in(self, path: Path) -> None:
        """Write what has been kept, with the times at which it happened, and all later events."""
        if path.exists():
            _end_last_line(path)
        self._path = path
        for event in self._held:
            super()._record(event)
        self._held.clear()

    def _record(self, event: Event) -> None:
        if self._path is None:
            self._held.append(event)
        else:
            super()._record(event)


def _open_no_link(path: str, flags: int) -> int:
    """Open a file, but not one that a link leads to: it may be anyone's."""
    return os.open(path, flags | os.O_NOFOLLOW, 0o666)


def _end_last_line(path: Path) -> None:
    """Set a line cut short by a crash apart from those to come."""
    with open(path, "rb+", opener=_open_no_link) as file:
        if file.seek(0, os.SEEK_END) > 0:
            file.seek(-1, os.SEEK_END)
            if file.read() != b"\n":
                file.write(b"\n")
