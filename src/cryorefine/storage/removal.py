"""Remove what a run has written, and nothing else: users' own files and folders within it stay."""

import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from cryorefine.io.atomic import sync_directory
from cryorefine.storage.layout import (
    INPUTS,
    ITERATION_FILES,
    MANIFEST,
    SEGMENT_FILES,
    committed_iterations,
    is_leftover,
    is_object,
    is_object_leftover,
    is_run_file,
    iteration_folder,
    segment_folders,
)

__all__ = ["clear_run", "paths_of_run", "remove_folder", "settings_texts", "sweep", "sweep_inputs"]


def paths_of_run(run: Path) -> list[Path]:
    """Return the files and folders that :func:`clear_run` removes."""
    if not os.path.isdir(run):
        return []
    found = _top_files(run)
    for folder, names in _folders(run):
        found += [folder, *(folder / name for name in names if os.path.lexists(folder / name))]
    return found


def clear_run(run: Path) -> None:
    """Remove an earlier run's files but its manifest; anything else in the folder stays.

    The manifest is the next run's already, and says that the folder is being filled.
    """
    for path in _top_files(run):
        _remove(path)
    for folder, names in _folders(run):
        remove_folder(folder, names)
    sweep(run)
    sync_directory(run)


def remove_folder(folder: Path, names: Iterable[str] = ITERATION_FILES) -> None:
    """Remove files of these names from a folder, then the folder unless it holds others.

    The last of the names goes last: by it the folder is known as one of a run's, and whoever is
    stopped here can begin again.
    """
    with suppress(FileNotFoundError):
        for path in folder.iterdir():
            if is_leftover(path.name):
                _remove(path)
    for name in names:
        _remove(folder / name)
    with suppress(OSError):
        folder.rmdir()


def sweep(run: Path) -> None:
    """Remove what a process that was killed has left half done at the top of a run folder.

    Only for the one that holds the folder's lock: what another is writing looks the same.
    """
    for path in sorted(run.iterdir()):
        if not is_leftover(path.name):
            continue
        if path.is_dir() and not path.is_symlink():
            remove_folder(path, (*SEGMENT_FILES, *ITERATION_FILES))
        else:
            _remove(path)


def sweep_inputs(run: Path) -> None:
    """Remove objects from the folder for inputs that no settings of the run name, or half written.

    Calls that were killed have left them, or runs that were overwritten. Only for the one that
    holds the folder's lock, when its own settings are written. What cannot be removed does no harm.
    """
    folder = run / INPUTS
    if folder.is_symlink() or not folder.is_dir():
        return
    with suppress(OSError):
        used = settings_texts(run)
        for path in folder.iterdir():
            if is_object_leftover(path.name) or (is_object(path.name) and path.name not in used):
                _remove(path)
        folder.rmdir()  # unless something is left in it


def settings_texts(run: Path) -> str:
    """Return all that the settings of a run's segments say."""
    files = [*run.glob("settings*.toml"), *run.glob("*/settings.toml")]
    return "\n".join(p.read_text(encoding="utf-8", errors="replace") for p in files if p.is_file())


def _top_files(run: Path) -> list[Path]:
    return [p for p in sorted(run.iterdir()) if is_run_file(p.name) and p.name != MANIFEST]


def _folders(run: Path) -> list[tuple[Path, tuple[str, ...]]]:
    """Return the folders of a run with the names of their files."""
    whole = [iteration_folder(run, number) for number in committed_iterations(run)]
    return [
        *((folder, ITERATION_FILES) for folder in whole),
        *((folder, SEGMENT_FILES) for folder in segment_folders(run)),
    ]


def _remove(path: Path) -> None:
    with suppress(FileNotFoundError):
        path.unlink()
