"""Show the files of one iteration at the top of a run folder, and find out whether that is so.

An iteration is committed in one step, but its files are copied to the top one by one. The record
``published.json`` says which iteration they are of, with their sizes and hashes: it is written
before the first of them as one that is not whole, and whole after the last. Whoever opens the
folder compares, and copies again if something does not match: what a killed process has left
half done does not stay.
"""

import os
import shutil
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path
from typing import Any

from cryorefine.compiled import for_each
from cryorefine.errors import InputError
from cryorefine.io.atomic import atomic_path
from cryorefine.storage.digest import difference, file_digest
from cryorefine.storage.json_record import read_record, write_record
from cryorefine.storage.layout import (
    PUBLISHED,
    RESULTS,
    check_no_links,
    committed_iterations,
    iteration_folder,
)
from cryorefine.storage.lock import locked
from cryorefine.storage.removal import sweep

__all__ = ["publish", "repair", "repair_if_free", "unlike_iteration"]

_REJECTED = "rejected_particles.star"
"""Which earlier versions wrote at the top only."""


def publish(run: Path, iteration: int, kept: Collection[Path] = ()) -> None:
    """Show an iteration's files, and no other's, at the top of the run folder.

    Not every iteration has what those before it had: particles that are not decided, a processed
    map, particles that were left out.

    Parameters
    ----------
    kept
        Files that are inputs of the run: they are no results, and stay.
    """
    source = iteration_folder(run, iteration)
    spared = {path.resolve() for path in kept}
    if read_record(run / PUBLISHED) is None and not (source / _REJECTED).exists():
        spared.add((run / _REJECTED).resolve())
    write_record(run / PUBLISHED, {"iteration": iteration, "is_whole": False})

    def shown_digest(name: str) -> dict[str, Any] | None:
        shown = run / name
        if (source / name).exists():
            with atomic_path(shown) as temporary:
                shutil.copyfile(source / name, temporary)
        elif shown.resolve() not in spared:
            shown.unlink(missing_ok=True)
        return _whole_digest(shown) if shown.exists() else None

    digests = zip(RESULTS, for_each(shown_digest, RESULTS), strict=True)
    files = {name: digest for name, digest in digests if digest is not None}
    write_record(run / PUBLISHED, {"iteration": iteration, "is_whole": True, "files": files})


def unlike_iteration(run: Path) -> list[str]:
    """Return which files at the top are not those of the newest iteration.

    ``published.json`` is one of them if it names another iteration, or none.
    """
    done = committed_iterations(run)
    if not done:
        return []
    record = read_record(run / PUBLISHED)
    if record is None or record.get("iteration") != done[-1] or not record.get("is_whole"):
        return [PUBLISHED]
    files = record.get("files")
    if not isinstance(files, dict) or not all(isinstance(f, dict) for f in files.values()):
        return [PUBLISHED]
    if not files.keys() <= set(RESULTS):  # nothing else is looked at, wherever it may lead
        return [PUBLISHED]
    wrong = [name for name in files if difference(run / name, files[name])]
    return wrong + [name for name in RESULTS if name not in files and os.path.lexists(run / name)]


def repair(run: Path, kept: Collection[Path] = ()) -> list[str]:
    """Make the top of a held folder show the newest iteration, and nothing half done.

    Returns
    -------
    What did not match, as :func:`unlike_iteration` returns it.
    """
    sweep(run)
    wrong = unlike_iteration(run)
    if wrong:
        publish(run, committed_iterations(run)[-1], kept)
    return wrong


def repair_if_free(run: Path, kept: Collection[Path] = ()) -> None:
    """Do the same for someone who reads; not while a process works in the folder.

    Nor if it cannot be written to, or holds links.
    """
    if not unlike_iteration(run):
        return
    with suppress(InputError, OSError), locked(run):
        check_no_links(run)
        repair(run, kept)


def _whole_digest(path: Path) -> dict[str, Any]:
    return file_digest(path, "all")
