"""Particle files from one format to another, with what is lost on the way."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from cryorefine.api.boundary import library_call
from cryorefine.api.correlation import fsc
from cryorefine.api.particles import Particles
from cryorefine.api.refinement import reconstruct
from cryorefine.errors import InputError
from cryorefine.formats.axes import HAS_OTHER_AXES, turn_between
from cryorefine.formats.protocol import ParticleFormat, Reading
from cryorefine.formats.registry import format_of, format_to_write
from cryorefine.formats.xmipp import without_block
from cryorefine.io.output_path import check_output_file
from cryorefine.particles.formats.read_options import ReadOptions
from cryorefine.particles.formats.relion import write_relion
from cryorefine.particles.table import ParticleTable
from cryorefine.particles.turned import turned_poses

__all__ = ["Agreement", "Conversion", "ConversionOptions", "convert", "convert_files"]

_MAX_VERIFIED = 500
"""Particles that are reconstructed to verify a conversion: half a minute's work, and a sign or a
unit that is wrong shows in twenty."""

_SAME_MAP = 0.999
"""FSC from which two maps of the same images are one: the rounding of files leaves above 0.9999,
and a shift of a tenth of a pixel takes 5 % off the FSC near Nyquist."""


@dataclass(frozen=True)
class Agreement:
    """How far maps of the source and of the result agree.

    Attributes
    ----------
    min_fsc, at_A
        Least Fourier shell correlation of their half maps, and where it is.
    n_particles
        That were reconstructed.
    """

    min_fsc: float
    at_A: float
    n_particles: int

    @property
    def is_same(self) -> bool:
        """Whether both files make one map."""
        return self.min_fsc >= _SAME_MAP


@dataclass(frozen=True)
class Conversion:
    """What a conversion has done.

    Attributes
    ----------
    source_format, target_format
        By the names that ``convert`` takes as ``to``.
    files
        What was written.
    n_particles
        Particles in the files.
    not_understood
        What of the source is not in the particles that were read, in words.
    not_held
        What of the particles the target has no place for.
    remarks
        What else was noticed of the source.
    axes
        What was done about the axes of symmetry, in words; empty where there is nothing to do.
    agreement
        Of maps, where they were asked for.
    """

    source_format: str
    target_format: str
    files: tuple[Path, ...]
    n_particles: int
    not_understood: tuple[str, ...]
    not_held: tuple[str, ...]
    remarks: tuple[str, ...]
    axes: str = ""
    agreement: Agreement | None = None


@dataclass(frozen=True)
class ConversionOptions:
    """How particles are read and written; see :func:`convert`.

    Attributes
    ----------
    ctf
        Whether the images have contrast transfer, so that its values must be there.
    """

    to: str | None = None
    symmetry: str | None = None
    image_root: Path | None = None
    ctf: bool = True
    overwrite: bool = False
    verify: bool = False


@library_call
def convert(
    source: Any,
    target: str | os.PathLike[str],
    *,
    to: str | None = None,
    symmetry: str | None = None,
    image_root: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
    verify: bool = False,
) -> Conversion:
    """Write particles in another format; images stay where they are.

    Parameters
    ----------
    source
        A particle file of any known format, or Particles. Where images have no contrast transfer,
        give ``cr.read_particles(path, ctf=False)``.
    target
        File to write; its suffix tells the format, unless ``to`` does.
    to
        relion, cryosparc, xmipp, cistem or cryodrgn.
    symmetry
        Point group of the particle, as the source's program calls it: poses are turned to the axes
        that the target's program has for it. None leaves poses as they are.
    image_root
        Folder that the stacks were moved to.
    overwrite
        Whether to replace files that are there.
    verify
        Whether to reconstruct up to 500 particles from both files and compare the maps.

    Raises
    ------
    InputError
        If the source cannot be read or turned, or the target not be written.

    Examples
    --------
    >>> import cryorefine as cr
    >>> done = cr.convert("truth_particles.star", "particles.cs")
    >>> done.target_format, done.n_particles
    ('cryosparc', 120)
    """
    root = None if image_root is None else Path(image_root)
    how = ConversionOptions(to, symmetry, root, overwrite=overwrite, verify=verify)
    return convert_files(source, Path(target), how)


def convert_files(source: Any, path: Path, how: ConversionOptions) -> Conversion:
    """Do what :func:`convert` says.

    Raises
    ------
    InputError
        As there.
    """
    options = ReadOptions(ctf=how.ctf, image_root=how.image_root)
    name, reading = _read(source, options)
    written = format_to_write(path, how.to)
    files = written.files(path)
    _check_files(files, reading.table, overwrite=how.overwrite)
    table, axes = _in_axes_of(reading.table, name, written.name, how.symmetry)
    with _all_or_none(files):
        not_held = written.write(path, table)
    agreement = None
    if how.verify:
        agreement = _agreement(table, written.read(path, options).table)
    return Conversion(
        source_format=name,
        target_format=written.name,
        files=files,
        n_particles=len(reading.table),
        not_understood=reading.not_understood,
        not_held=not_held,
        remarks=tuple(r for r in reading.table.remarks if not _is_told(r, reading)),
        axes=axes,
        agreement=agreement,
    )


@contextmanager
def _all_or_none(files: tuple[Path, ...]) -> Iterator[None]:
    """Remove what a conversion has written that fails: only all of its files make sense."""
    before = {path for path in files if path.exists()}
    try:
        yield
    except BaseException:
        for path in set(files) - before:
            path.unlink(missing_ok=True)
        raise


def _in_axes_of(
    table: ParticleTable, source: str, target: str, symmetry: str | None
) -> tuple[ParticleTable, str]:
    """Return the table with poses in the target's axes, and what is to be said of that."""
    if symmetry is None:
        matters = table.has_pose and (source == HAS_OTHER_AXES) != (target == HAS_OTHER_AXES)
        if not matters or {source, target} & {"cistem", "cryodrgn"}:
            return table, ""
        return table, (
            "poses are left as they are: a particle of symmetry Dn or T has its axes elsewhere in "
            f"{target}, say --symmetry to turn them"
        )
    turn, (before, after) = turn_between(symmetry, source, target)
    if torch.equal(turn, torch.eye(3, dtype=turn.dtype)):
        return table, f"{before} has the same axes in {target}: poses are left as they are"
    return turned_poses(
        table, turn
    ), f"poses are turned from {before} to {after}; turn maps likewise"


def _read(source: Any, options: ReadOptions) -> tuple[str, Reading]:
    if isinstance(source, Particles):
        table = source._table
        return table.foreign_format or "relion", Reading(table)
    found: ParticleFormat = format_of(Path(source))
    return found.name, found.read(Path(source), options)


def _is_told(remark: str, reading: Reading) -> bool:
    """Tell whether a remark says what is listed as not understood."""
    return any(remark.endswith(clause) for clause in reading.not_understood)


def _check_files(files: tuple[Path, ...], table: ParticleTable, *, overwrite: bool) -> None:
    """Refuse to write where there is something, and over what is being converted."""
    for path in files:
        check_output_file(path, overwrite=overwrite)
        sources = (without_block(table.source), *table.stacks)
        if path.exists() and any(s.exists() and path.samefile(s) for s in sources):
            raise InputError(
                "is what is being converted", where=str(path), do="give another name to write"
            )


def _agreement(source: ParticleTable, result: ParticleTable) -> Agreement:
    """Reconstruct the same particles of both, in the same halves, and compare the half maps."""
    if not source.has_pose or not result.has_pose:
        raise InputError(
            "has no poses to reconstruct from, so that nothing can be verified",
            where=str(source.source if not source.has_pose else result.source),
            do="leave out --verify",
        )
    n = min(len(source), _MAX_VERIFIED)
    rows = np.unique(np.linspace(0, len(source) - 1, n).astype(np.int64))
    half = (1 + np.arange(len(rows)) % 2).astype(np.int8)
    halves = []
    with TemporaryDirectory(prefix="cryorefine-") as folder:
        for name, table in (("source", source), ("result", result)):
            star = Path(folder) / f"{name}.star"
            # Names of micrographs may be lost, and halves with them: here both have the same.
            chosen = replace(table.select(rows), half_set=half, extra={}, earlier={})
            write_relion(star, chosen)
            has_ctf = table.optics[0].has_ctf
            halves.append(reconstruct(star, ctf=has_ctf, max_energy=_ALL_IMAGES).half_maps)
    worst = (np.inf, np.nan)
    for one, other in zip(*halves, strict=True):
        curves = fsc(one, other)
        values = curves.unmasked[1:]
        shell = int(np.argmin(values))
        with np.errstate(divide="ignore"):
            worst = min(worst, (float(values[shell]), float(1 / curves.frequency_per_A[1:][shell])))
    return Agreement(worst[0], worst[1], len(rows))


_ALL_IMAGES = 1e9  # times the background's power: none is left out of one map and not of the other
