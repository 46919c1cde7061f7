"""Hand a run's particles on to a program that looks for several states among them.

cryoDRGN and recovar begin with poses that another program has found. Both read a list of images,
and pickles of poses and CTF beside it in the same order.
"""

import os
import shlex
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from cryorefine.api.boundary import library_call
from cryorefine.api.results import Refinement
from cryorefine.api.run_folder import open_run
from cryorefine.errors import InputError
from cryorefine.formats.cryodrgn import CryodrgnFormat
from cryorefine.formats.stack_boxes import with_boxes
from cryorefine.io.output_path import is_there
from cryorefine.particles.formats.image_files import image_names
from cryorefine.particles.table import ParticleTable
from cryorefine.storage.result_folder import ResultFolder

__all__ = ["Export", "Program", "export"]

Program = Literal["cryodrgn", "recovar"]
"""That particles can be handed on to."""

_POSES, _CTF, _LIST = "poses.pkl", "ctf.pkl", "particles.star"
_FILES = (_POSES, _CTF, _LIST)
"""All that is written; the list last, since it is there in any case."""

_LATENT = 8
"""Dimensions in which cryoDRGN arranges particles: it has no default, and its manual begins so."""


@dataclass(frozen=True)
class Export:
    """What of a run was handed on to another program.

    Attributes
    ----------
    program
        The one that the files are for.
    files
        What was written.
    n_particles
        Particles in the files.
    n_left_out
        Particles of the run that are not in them: they have no pose, or are in no map.
    mask, half_maps
        Where the run has them.
    not_held
        What of the particles the files have no place for.
    command
        What to type next.
    """

    program: Program
    files: tuple[Path, ...]
    n_particles: int
    n_left_out: int
    mask: Path
    half_maps: tuple[Path, Path]
    not_held: tuple[str, ...]
    command: str


@library_call
def export(
    run: str | os.PathLike[str],
    program: Program,
    output: str | os.PathLike[str],
    *,
    overwrite: bool = False,
) -> Export:
    """Write the particles that are in a run's maps as cryoDRGN and recovar read them.

    Images stay where they are, and are listed by their absolute paths: the programs look for
    others beside the list.

    Parameters
    ----------
    run
        Folder of a run, finished or not.
    program
        cryodrgn or recovar: both read the same files, and differ in the command.
    output
        Folder to fill.
    overwrite
        Whether to replace what an earlier call has left in it.

    Raises
    ------
    InputError
        If the folder holds no run or no iteration of it, or the particles are nothing that the
        program can read.

    Examples
    --------
    >>> import cryorefine as cr
    >>> run = cr.reconstruct("truth_particles.star", output="run")
    >>> done = cr.export("run", "cryodrgn", "for_cryodrgn")
    >>> done.command.split()[:2]
    ['cryodrgn', 'train_vae']
    """
    if program not in get_args(Program):
        names = " or ".join(get_args(Program))
        raise InputError(f"no such program: '{program}'", where="program", do=f"say {names}")
    source, folder = Path(run), Path(output)
    results = ResultFolder(folder, "export", _FILES)
    check = partial(_check_folder, results, overwrite=overwrite)
    check()
    result = open_run(source).result
    whole = result.particles._table
    chosen = _to_be_handed_on(result, whole)
    table = _with_absolute_names(with_boxes(whole.select(chosen)), folder)
    _check_readable(table, program)
    is_inverted = _is_inverted(result, table)
    with results.filled(check) as aside:
        # The contrast is in the command.
        not_held = CryodrgnFormat().write(aside / _POSES, replace(table, is_inverted=False))
    files = tuple(folder / name for name in _FILES if (folder / name).exists())
    return Export(
        program=program,
        files=files,
        n_particles=len(table),
        n_left_out=len(whole) - len(table),
        mask=source / "mask.mrc",
        half_maps=(source / "half1.mrc", source / "half2.mrc"),
        not_held=not_held,
        command=_command(program, folder, source / "mask.mrc", is_inverted=is_inverted),
    )


def _to_be_handed_on(result: Refinement, table: ParticleTable) -> np.ndarray:
    """Return the rows of particles that have a pose and are in the maps."""
    is_in = np.ones(len(table), bool)
    if "is_in_maps" in result.particles.columns:
        is_in &= result.particles.is_in_maps > 0
    if len(table.is_unassigned):
        is_in &= ~table.is_unassigned
    if not is_in.any():
        raise InputError(
            "no particle of it has a pose and is in the maps",
            where=str(table.source),
            do="let the run make an iteration",
        )
    return np.flatnonzero(is_in)


def _is_inverted(result: Refinement, table: ParticleTable) -> bool:
    """Tell whether particles are black in the images."""
    requested = result.settings.invert_contrast
    return table.is_inverted if requested is None else requested


def _with_absolute_names(table: ParticleTable, folder: Path) -> ParticleTable:
    return replace(table, names=image_names(folder / _LIST, table, absolute=True))


def _check_readable(table: ParticleTable, program: Program) -> None:
    """Refuse what the programs cannot read, and would not say so."""
    for index in np.unique(table.stack_index):
        path = str(table.stacks[index].absolute())
        marks = [c for c in path if c.isspace() or c == "@"]
        if marks:
            raise InputError(
                f"there is {marks[0]!r} in the path of a stack, where {program} ends it",
                where=path,
                do="refine from a path without it, such as a link",
            )
    groups = [table.optics[g] for g in np.unique(table.optics_index)]
    samplings = sorted({(group.box_px, round(group.pixel_A, 4)) for group in groups})
    if len(samplings) > 1:
        shown = " and ".join(f"{box} px of {pixel} Å" for box, pixel in samplings)
        raise InputError(
            f"images of {shown}; {program} needs one box and pixel size",
            where=str(table.source),
            do="extract the particles in one box, or refine each kind apart",
        )
    if program == "recovar" and not table.optics[0].has_ctf:
        raise InputError(
            "has no CTF, and recovar needs it", where=str(table.source), do="give --for cryodrgn"
        )


def _command(program: Program, folder: Path, mask: Path, *, is_inverted: bool) -> str:
    """Return the command that begins with the files of a folder."""
    place = {name: str(folder / name) for name in _FILES}
    files = [place[_LIST], "--poses", place[_POSES]]
    if (folder / _CTF).exists():
        files += ["--ctf", place[_CTF]]
    if program == "cryodrgn":
        words = ["cryodrgn", "train_vae", *files, "--zdim", str(_LATENT)]
        words += ["--uninvert-data"] if is_inverted else []
    else:
        words = ["recovar", "pipeline", *files, "--mask", str(mask)]
        words += ["--uninvert-data", "true"] if is_inverted else []
    return shlex.join([*words, "-o", str(folder / program)])


def _check_folder(results: ResultFolder, *, overwrite: bool) -> None:
    """Refuse a folder that holds anything but what this command has written."""
    folder = results.path
    if not is_there(folder) or not results.others() or results.is_unfinished:
        return
    if not {_LIST, _POSES} <= set(results.others()):
        raise InputError(
            "the folder holds something else", where=str(folder), do="give a new --output"
        )
    if not overwrite:
        raise InputError(
            "the folder holds particles that were exported already",
            where=str(folder),
            do="say --overwrite to replace them, or give another --output",
        )
