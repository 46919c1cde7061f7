"""Where the inputs of a run are: recorded from the root and from the run folder, and found again.

A run goes on from any working folder, and after it was moved together with its inputs.
"""

import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from cryorefine.storage.json_record import read_record
from cryorefine.storage.layout import MANIFEST, segment_folders

__all__ = ["found_again", "is_moved", "locate_inputs", "place_of"]


def place_of(path: Path, run: Path) -> dict[str, str]:
    """Return what a manifest records of where an input is."""
    parent, name = os.path.split(os.path.abspath(path))
    from_run = os.path.relpath(os.path.join(os.path.realpath(parent), name), os.path.realpath(run))
    return {"absolute": os.path.join(parent, name), "from_run_folder": from_run}


def locate_inputs(run: Path, paths: Iterable[str]) -> dict[str, str]:
    """Return where files that a run's settings name are now.

    Parameters
    ----------
    paths
        As the settings have them. One that is in no manifest stays as it is.
    """
    known: dict[str, tuple[dict[str, Any], bool]] = {}
    for folder in (run, *segment_folders(run)):
        manifest = read_record(folder / MANIFEST) or {}
        inputs, was_moved = manifest.get("inputs"), is_moved(run, manifest)
        if isinstance(inputs, dict):
            known |= {name: (e, was_moved) for name, e in inputs.items() if isinstance(e, dict)}
    now = {}
    for text in paths:
        path = Path(text)
        entry, was_moved = known.get(str(path), ({}, False))
        found = found_again(path, entry, run, is_moved=was_moved)
        now[text] = text if found == path else str(found)
    return now


def is_moved(run: Path, manifest: dict[str, Any]) -> bool:
    """Tell whether a run folder is elsewhere than when a manifest of it was written."""
    return manifest.get("run_folder") not in (None, os.path.realpath(run))


def found_again(path: Path, entry: dict[str, Any], run: Path, *, is_moved: bool) -> Path:
    """Return where an input of a manifest is now.

    In a folder that was moved the inputs that moved along are preferred: what is still at the old
    place may be on its way to be removed. A path that leads there from the working folder stays
    as it is, and so does one of which nothing was recorded.
    """
    absolute, from_run = entry.get("absolute"), entry.get("from_run_folder")
    if not (isinstance(absolute, str) and isinstance(from_run, str)):
        return path
    places = [Path(absolute), Path(os.path.normpath(os.path.realpath(run) + os.sep + from_run))]
    if is_moved:
        places.reverse()
    found = next((place for place in places if os.path.exists(place)), None)
    if found is None:
        return path if os.path.exists(path) else Path(absolute)
    with suppress(OSError):
        if os.path.samefile(found, path):
            return path
    return found
