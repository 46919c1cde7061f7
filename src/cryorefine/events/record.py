"""What every event has: a kind, a time, and data that can stand in one line of a file."""

import json
import math
import time
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar

__all__ = ["Event", "UnknownEvent"]


@dataclass(frozen=True, kw_only=True)
class Event:
    """Something that happened in a run. Two events are equal if they say the same.

    Attributes
    ----------
    time_s
        When it happened, in seconds since 1970; NaN if a file does not say.
    """

    KIND: ClassVar[str] = ""
    """What the kind is called in ``events.jsonl``."""

    IS_RECORDED: ClassVar[bool] = True
    """Whether it is written to the file, or only told to listeners."""

    time_s: float = field(default_factory=time.time, compare=False)

    @property
    def kind(self) -> str:
        """What the kind is called in ``events.jsonl``."""
        return self.KIND

    def data(self) -> dict[str, Any]:
        """Return all that the event says, but for kind and time, by the names in the file.

        A number that was not measured (NaN, where that is the default) is left out.
        """
        said = {}
        for entry in fields(self):
            value = getattr(self, entry.name)
            if entry.name != "time_s" and not (_is_nan(entry.default) and _is_nan(value)):
                said[entry.name] = value
        return said

    def line(self) -> str:
        """Return the event as one line of JSON, without its end."""
        return json.dumps({"time": self.time_s, "kind": self.kind, **self.data()})


@dataclass(frozen=True, kw_only=True)
class UnknownEvent(Event):
    """A line of a file that this version has no kind for, as it is.

    A line of a known kind that lacks what the kind has, as those of earlier versions may, is one.

    Attributes
    ----------
    name
        Its kind.
    content
        All else, but for the time.
    """

    name: str
    content: dict[str, Any]

    @property
    def kind(self) -> str:
        """What the kind is called in the file."""
        return self.name

    def data(self) -> dict[str, Any]:
        """Return what the line says, but for kind and time."""
        return dict(self.content)


def _is_nan(value: object) -> bool:
    return isinstance(value, float) and math.isnan(value)
