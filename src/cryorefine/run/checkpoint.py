"""Commit an iteration in one step, and read it back; the same for where a segment begins.

A folder is written under a temporary name and renamed when it is whole: a run that is killed at
any moment leaves only whole iterations behind.
"""

import os
from collections.abc import Callable, Collection
from contextlib import suppress
from pathlib import Path

from cryorefine.errors import InputError
from cryorefine.io.atomic import sync_directory
from cryorefine.records.checkpoint_fields import (
    read_checkpoint,
    read_measurements,
    write_checkpoint,
    write_volumes,
)
from cryorefine.records.checkpoint_record import Checkpoint
from cryorefine.state.plan import IterationRecord
from cryorefine.state.state import Evaluation
from cryorefine.storage.layout import (
    INTERMEDIATE,
    ITERATION_FILES,
    SEGMENT_FILES,
    committed_iterations,
    is_of_a_run,
    iteration_folder,
    segment_folder,
)
from cryorefine.storage.removal import remove_folder

__all__ = [
    "load_measurements",
    "load_start",
    "load_state",
    "prune_iterations",
    "save_start",
    "save_state",
]


def save_state(run: Path, checkpoint: Checkpoint, fill: Callable[[Path], None]) -> Path:
    """Write the folder of a checkpoint's iteration and commit it.

    Parameters
    ----------
    fill
        Called with the folder before it is committed, to add files to it.

    Returns
    -------
    The committed folder.
    """
    final = iteration_folder(run, checkpoint.state.iteration)
    part = _new_part(final)
    write_volumes(part, checkpoint)
    write_checkpoint(part, checkpoint)
    fill(part)
    return _committed(part, final)


def save_start(
    run: Path,
    number: int,
    checkpoint: Checkpoint,
    fill: Callable[[Path], None],
    *,
    has_volumes: bool = False,
) -> Path:
    """Write what a segment begins with: volumes only if they are not those of the last iteration.

    It counts for nothing until the list of segments names it.

    Parameters
    ----------
    number
        Of the segment, from 2.
    fill
        As for :func:`save_state`.
    has_volumes
        Whether the checkpoint has volumes of its own.
    """
    final = segment_folder(run, number)
    part = _new_part(final)
    if has_volumes:
        write_volumes(part, checkpoint)
    write_checkpoint(part, checkpoint)
    fill(part)
    return _committed(part, final)


def _new_part(final: Path) -> Path:
    part = final.with_name(f".{final.name}.part")
    remove_folder(part, (*SEGMENT_FILES, *ITERATION_FILES))
    part.mkdir(exist_ok=True)
    return part


def _committed(part: Path, final: Path) -> Path:
    sync_directory(part)
    if is_of_a_run(final):  # what a segment that never began has left
        remove_folder(final, (*ITERATION_FILES, *SEGMENT_FILES))
    with suppress(OSError):
        final.rmdir()  # empty: whoever was to remove it was killed before
    if os.path.lexists(final):
        raise InputError(
            "is in the way, and is not of this run",
            where=str(final),
            do="give it another name and resume the run",
        )
    os.replace(part, final)
    sync_directory(final.parent)
    return final


def prune_iterations(run: Path, iteration: int, kept: Collection[Path] = ()) -> None:
    """Remove maps, references and sums of iterations before the last two, but not tables.

    Parameters
    ----------
    kept
        Files that are inputs of the run: they stay.
    """
    spared = {path.resolve() for path in kept}
    for old in committed_iterations(run):
        if old < iteration - 1:
            for name in INTERMEDIATE:
                path = iteration_folder(run, old) / name
                if path.resolve() not in spared:
                    path.unlink(missing_ok=True)


def load_state(run: Path, iteration: int) -> Checkpoint:
    """Read a committed iteration.

    Raises
    ------
    InputError
        If the folder is damaged, or of a version that this one cannot read.
    """
    folder = iteration_folder(run, iteration)
    do = "remove this iteration's folder to resume from the one before"
    checkpoint = read_checkpoint(folder, lambda _: folder, do=do)
    if checkpoint.state.iteration != iteration:
        raise _of_another(folder, checkpoint.state.iteration, do)
    return checkpoint


def load_measurements(run: Path, iteration: int) -> tuple[list[IterationRecord], Evaluation | None]:
    """Read a run's history up to a committed iteration, and what that one measured.

    Raises
    ------
    InputError
        If the folder is damaged, or of a version that this one cannot read.
    """
    folder, do = iteration_folder(run, iteration), "restore the folder"
    history, evaluation = read_measurements(folder, do=do)
    if len(history) != iteration:
        raise _of_another(folder, len(history), do)
    return history, evaluation


def _of_another(folder: Path, iteration: int, do: str) -> InputError:
    return InputError(f"holds the state of iteration {iteration}", where=str(folder), do=do)


def load_start(run: Path, number: int, iteration: int) -> Checkpoint:
    """Read what a segment began with, after an iteration.

    Raises
    ------
    InputError
        If its folder, or the iteration before it, is damaged or of a version that this one cannot
        read.
    """
    folder, do = segment_folder(run, number), "restore the folder"
    has_volumes = (folder / "reference1.mrc").exists()
    volumes = folder if has_volumes else iteration_folder(run, iteration)
    checkpoint = read_checkpoint(folder, lambda _: volumes, do=do)
    if checkpoint.state.iteration != iteration:
        raise _of_another(folder, checkpoint.state.iteration, do)
    return checkpoint
