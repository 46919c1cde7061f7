"""Go on in a new folder with a copy of a run, which itself stays as it is."""

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from cryorefine.errors import InputError
from cryorefine.run.folder import check_output_folder
from cryorefine.run.interruption import interruptible
from cryorefine.run.segments import read_segments
from cryorefine.settings import Changes, load_settings, merge_settings
from cryorefine.storage.copy import copy_run, remove_copy
from cryorefine.storage.layout import check_no_links
from cryorefine.storage.lock import locked
from cryorefine.storage.manifest import check_is_filled

__all__ = ["copied_run"]


@contextmanager
def copied_run(
    run: Path, target: Path, requested: Changes, *, overwrite: bool
) -> Iterator[Callable[[], object]]:
    """Copy a run, hold the copy's folder, and yield a function that says it is to be kept.

    The copy is removed again where the function was not called: what was refused leaves nothing.

    Raises
    ------
    InputError
        If the target cannot be filled, the run is at work, or its options cannot be what is
        requested.
    StoppedEarly
        On Ctrl-C, without memory or disk, before the copy is there.
    """
    _check_apart(run, target)
    check_output_folder(target, overwrite=overwrite)
    check_no_links(run)
    check_is_filled(run)
    before = {**load_settings(run / "settings.toml"), **read_segments(run)[-1].suspended}
    merge_settings(before, requested.against(before), where=str(run))
    is_new = not target.exists()
    with ExitStack() as held:
        if os.access(run, os.W_OK):  # else nobody of this user works in it
            held.enter_context(locked(run))
        target.mkdir(parents=True, exist_ok=True)
        if is_new:
            held.callback(_remove_if_empty, target)
        held.enter_context(locked(target))
        check_output_folder(target, overwrite=overwrite)
        undo = held.enter_context(ExitStack())
        undo.callback(remove_copy, target)
        with interruptible("nothing is kept; give the command again"):
            copy_run(run, target)
        yield undo.pop_all


def _check_apart(run: Path, target: Path) -> None:
    """Refuse a copy within the run or about it."""
    paths = [os.path.realpath(path) for path in (run, target)]
    if os.path.commonpath(paths) in paths:
        raise InputError(
            f"is the folder of the run, lies in it, or holds it ({run})",
            where=str(target),
            do="give a new folder beside it",
        )


def _remove_if_empty(folder: Path) -> None:
    with suppress(OSError):
        folder.rmdir()
