"""Read the events of a run from its file, also those that other versions wrote."""

import json
import math
import types
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

from cryorefine.events.kinds import KINDS
from cryorefine.events.record import Event, UnknownEvent

__all__ = ["read_events"]

_LAST_S = 1e11
"""Latest time that is taken for one, in the year 5138: calendars of some systems end soon after."""

_LARGEST = 2**63
"""Whole numbers from here on are no counts: they fit into no counter."""


def read_events(path: Path) -> list[Event]:
    """Read an event file, oldest first; a line cut short by a crash is left out.

    Lines of kinds that this version does not know become :class:`UnknownEvent`, and so do lines of
    which a value is of another type than the kind has.
    """
    events = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            values = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(values, dict) and isinstance(values.get("kind"), str):
            events.append(_event_of(values))
    return events


def _event_of(values: dict[str, Any]) -> Event:
    """Return the event that a line tells of."""
    data = {name: value for name, value in values.items() if name not in ("time", "kind")}
    time_s = values.get("time", math.nan)
    time_s = float(time_s) if _is_of(time_s, float) and 0 <= time_s <= _LAST_S else math.nan
    kind = KINDS.get(values["kind"])
    if kind is not None:
        present = [entry for entry in fields(kind) if entry.name in data]
        try:
            if all(_is_of(data[entry.name], entry.type) for entry in present):
                return kind(**{entry.name: data[entry.name] for entry in present}, time_s=time_s)
        except TypeError:  # an earlier version did not tell all of this
            pass
    return UnknownEvent(time_s=time_s, name=values["kind"], content=data)


def _is_of(value: Any, annotation: Any) -> bool:
    """Tell whether a value from a file is of the type that a field has."""
    origin = get_origin(annotation)
    if origin in (Union, types.UnionType):
        return any(_is_of(value, kind) for kind in get_args(annotation))
    if origin is Literal:
        return isinstance(value, str) and value in get_args(annotation)
    if annotation is types.NoneType:
        return value is None
    if annotation in (int, float):
        kinds = (int,) if annotation is int else (int, float)
        is_number = isinstance(value, kinds) and not isinstance(value, bool)
        return is_number and (isinstance(value, float) or abs(value) < _LARGEST)
    return isinstance(value, origin or annotation)
