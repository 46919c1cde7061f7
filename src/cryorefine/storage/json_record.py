"""Records of a run folder that are JSON objects: written whole, and read as far as they can be."""

import json
from pathlib import Path
from typing import Any

from cryorefine.io.atomic import write_text

__all__ = ["read_record", "write_record"]


def read_record(path: Path) -> dict[str, Any] | None:
    """Return what a record holds; None if there is none that can be read."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def write_record(path: Path, record: dict[str, Any]) -> None:
    """Replace a record in one step."""
    write_text(path, json.dumps(record, indent=2) + "\n")
