"""What a run can be traced back to: versions, machine, command, and hashes of its inputs.

The manifest is the first file of a run folder, and says that the folder is being filled until the
run can be resumed.
"""

import os
import platform
import sys
import time
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from cryorefine.errors import InputError
from cryorefine.storage.digest import difference, file_digest
from cryorefine.storage.input_places import found_again, is_moved, place_of
from cryorefine.storage.json_record import read_record, write_record
from cryorefine.storage.layout import MANIFEST

__all__ = [
    "changed_inputs",
    "check_is_filled",
    "is_being_filled",
    "mark_as_filled",
    "write_manifest",
]

_PACKAGES = ("torch", "numpy", "scipy", "numba", "mrcfile", "finufft", "pydantic")


def write_manifest(
    folder: Path,
    inputs: Iterable[Path],
    *,
    run: Path,
    seed: int,
    device: str,
    beside: Iterable[Path] = (),
    is_being_filled: bool = False,
) -> None:
    """Write the manifest of a run or of one of its later segments.

    Parameters
    ----------
    inputs
        All files that the run reads.
    run
        Its folder: that of the manifest, or the one that the segment's is in.
    device
        What it computes on, in words.
    beside
        Those of the inputs that are read because they lie beside another, and named by no setting.
    is_being_filled
        Whether the folder lacks, until :func:`mark_as_filled`, what resuming needs.
    """
    manifest: dict[str, Any] = {
        "cryorefine": version("cryorefine"),
        "python": platform.python_version(),
        "packages": {name: version(name) for name in _PACKAGES},
        "machine": {
            "system": platform.platform(),
            "processor": platform.machine(),
            "cpus": os.cpu_count(),
            "device": device,
        },
        "command": sys.argv,
        "seed": seed,
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "run_folder": os.path.realpath(run),
        "inputs": {str(p): {**file_digest(p), **place_of(p, run)} for p in inputs},
    }
    for path in beside:
        manifest["inputs"][str(path)]["is_beside"] = True
    if is_being_filled:
        manifest["is_being_filled"] = True
    write_record(folder / MANIFEST, manifest)


def mark_as_filled(run: Path) -> None:
    """Say that a folder now holds a run that can be resumed."""
    manifest = read_record(run / MANIFEST) or {}
    manifest.pop("is_being_filled", None)
    write_record(run / MANIFEST, manifest)


def is_being_filled(run: Path) -> bool:
    """Tell whether a folder holds a run that was not yet, or is no longer, one to be resumed."""
    return bool((read_record(run / MANIFEST) or {}).get("is_being_filled"))


def check_is_filled(run: Path) -> None:
    """Refuse a folder that was being filled when the process ended.

    Raises
    ------
    InputError
        If it is one.
    """
    if is_being_filled(run):
        raise InputError(
            "the run was stopped before its first iteration began, and there is none to resume",
            where=str(run),
            do="give its command 'cryorefine refine' again with --overwrite",
        )


def changed_inputs(
    folder: Path,
    run: Path,
    paths: Iterable[Path] | None = None,
    beside: Iterable[Path] | None = None,
) -> list[str] | None:
    """Return which inputs are no longer those of a folder's manifest, and how, in words.

    Parameters
    ----------
    folder, run
        Of the manifest, and of the run that it is of.
    paths
        Those to look at; one that the manifest does not name is new, and not listed. None: all.
    beside
        Files that are read because they lie beside an input: one that the manifest does not name
        was not there, and is listed, and so is one that the manifest has as such and that is gone
        or has changed. None: they are others than the manifest's, and are not looked at.

    Returns
    -------
    None if there is no record of what they were.
    """
    manifest = read_record(folder / MANIFEST) or {}
    known, was_moved = manifest.get("inputs"), is_moved(run, manifest)
    if not isinstance(known, dict):
        return None
    wanted = None if paths is None else {os.path.realpath(path) for path in paths}
    found, recorded = dict[Path, str](), set[str]()
    for name, entry in known.items():
        if isinstance(entry, dict):
            now = found_again(Path(name), entry, run, is_moved=was_moved)
            recorded.add(os.path.realpath(now))
            is_kept = beside is not None and entry.get("is_beside") is True
            if wanted is None or is_kept or os.path.realpath(now) in wanted:
                found[now] = difference(now, entry)
    for path in beside or ():
        if os.path.realpath(path) not in recorded:
            found[path] = "is read now, and was not there"
    return [f"{now} {what}" for now, what in found.items() if what]
