"""Read the events of a run from its file, also those that other versions wrote."""

import json
import math
from dataclasses import fields
from pathlib import Path
from typing import Any

from cryorefine.events.kinds import KINDS
from cryorefine.events.record import Event, UnknownEvent

__all__ = ["read_events"]


def read_events(path: Path) -> list[Event]:
    """Read an event file, oldest first; a line cut short by a crash is left out.

    Lines of kinds that this version does not know become :class:`UnknownEvent`.
    """
    events = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            values = json.loads(line)
        except json.JSONDecodeError:
            continue
        if isinstance(values, dict) and isinstance(values.get("kind"), str):
            events.append(_event_of(values))
    return events


def _event_of(values: dict[str, Any]) -> Event:
    """Return the event that a line tells of."""
    data = {name: value for name, value in values.items() if name not in ("time", "kind")}
    time_s = values.get("time")
    time_s = float(time_s) if isinstance(time_s, int | float) else math.nan
    kind = KINDS.get(values["kind"])
    if kind is not None:
        known = {entry.name: data[entry.name] for entry in fields(kind) if entry.name in data}
        try:
            return kind(**{**known, "time_s": time_s})
        except TypeError:  # an earlier version did not tell all of this
            pass
    return UnknownEvent(time_s=time_s, name=values["kind"], content=data)
