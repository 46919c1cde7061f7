"""Records of a run folder that are JSON: written whole, and read as far as they can be."""

import json
from pathlib import Path
from typing import Any

from cryorefine.io.atomic import write_text

__all__ = ["read_json", "read_record", "write_record"]

_DEEPEST = 32
"""Lists and objects within each other: records have five, and what handles more recurses."""


def read_json(path: Path) -> Any:
    """Return what a JSON file holds.

    Raises
    ------
    OSError, ValueError
        If it cannot be read, or is no JSON, or nests far deeper than any record.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except RecursionError:
        raise ValueError("lists in lists, far too deep") from None
    level = [found]
    for _ in range(_DEEPEST):
        level = [inner for outer in level for inner in _items(outer)]
    if level:
        raise ValueError("lists in lists, far too deep")
    return found


def _items(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else []


def read_record(path: Path) -> dict[str, Any] | None:
    """Return what a record holds; None if there is none that can be read."""
    try:
        found = read_json(path)
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def write_record(path: Path, record: dict[str, Any]) -> None:
    """Replace a record in one step."""
    write_text(path, json.dumps(record, indent=2) + "\n")
