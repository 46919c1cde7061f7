"""Copy a run to a new folder, complete in itself: the old one may go away afterwards."""

import os
import shutil
from pathlib import Path

from cryorefine.io.atomic import sync_directory
from cryorefine.storage.input_places import found_again, is_moved, place_of
from cryorefine.storage.json_record import read_record, write_record
from cryorefine.storage.layout import INPUTS, MANIFEST, segment_folders
from cryorefine.storage.removal import clear_run, paths_of_run

__all__ = ["copy_run", "remove_copy"]


def copy_run(run: Path, copy: Path) -> None:
    """Copy all files of a run into a folder; inputs that lie within it go along.

    The copy's manifest comes first and says that it is being filled: a copy that was cut short is
    no run that can be resumed.
    """
    manifest = read_record(run / MANIFEST) or {}
    write_record(copy / MANIFEST, {**manifest, "is_being_filled": True})
    clear_run(copy)
    inputs = run / INPUTS
    own = [] if inputs.is_symlink() else [p for p in inputs.glob("*") if p.is_file()]
    for path in [*paths_of_run(run), *own]:
        if path.is_dir():
            (copy / path.relative_to(run)).mkdir(exist_ok=True)
            continue
        target = copy / path.relative_to(run)
        target.parent.mkdir(exist_ok=True)
        shutil.copy2(path, target)
    for folder in segment_folders(copy):
        _place_inputs(folder, run, copy)
        sync_directory(folder)
    sync_directory(copy)
    _place_inputs(copy, run, copy)


def remove_copy(copy: Path) -> None:
    """Remove the files of a copy again, and its folder if nothing else is in it."""
    clear_run(copy)
    (copy / MANIFEST).unlink(missing_ok=True)


def _place_inputs(folder: Path, run: Path, copy: Path) -> None:
    """Write where inputs are as seen from the copy: within it for those that were in the run."""
    manifest = read_record(folder / MANIFEST)
    if manifest is None:
        return
    was_moved, known = is_moved(run, manifest), manifest.get("inputs")
    inputs = {} if not isinstance(known, dict) else known
    old = os.path.realpath(run)
    for name, entry in inputs.items():
        if not isinstance(entry, dict):
            continue
        now = found_again(Path(name), entry, run, is_moved=was_moved)
        parent = os.path.realpath(now.parent)
        if os.path.commonpath([parent, old]) == old:
            now = copy / os.path.relpath(os.path.join(parent, now.name), old)
        inputs[name] = {**entry, **place_of(now, copy)}
    manifest["run_folder"] = os.path.realpath(copy)
    manifest.pop("is_being_filled", None)
    write_record(folder / MANIFEST, manifest)
