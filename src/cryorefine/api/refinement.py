"""Refine or reconstruct from Python: a run as a function call."""

import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from cryorefine.api.boundary import in_parameters, library_call, threads_restored
from cryorefine.api.inputs import inputs_as_paths
from cryorefine.api.progress_display import ProgressDisplay
from cryorefine.api.results import Refinement
from cryorefine.errors import InputError, StoppedEarly
from cryorefine.events import Event, Listener, WarningGiven
from cryorefine.run import loop
from cryorefine.run.folder import check_output_folder
from cryorefine.settings import make_settings
from cryorefine.storage.layout import committed_iterations

__all__ = ["Progress", "listening", "reconstruct", "refine"]

Progress = bool | Listener
"""Whether to show how a run goes, or a function that is called with each of its events."""

FilePath = str | os.PathLike[str]
_SAFE = re.compile(r"; (?:\d+ iterations are safe; go on with .*|nothing has been written yet)")


@library_call
def refine(
    particles: Any,
    reference: Any = None,
    *,
    symmetry: str = "c1",
    output: FilePath | None = None,
    overwrite: bool = False,
    progress: Progress = False,
    **settings: Any,
) -> Refinement:
    """Refine particles against a reference to the highest resolution that they hold.

    Parameters
    ----------
    particles
        Particles, or the path of a particle file of any known format (``docs/formats.md``).
    reference
        Initial map: a Volume or a path, or two of them, which start one half set each. None
        reconstructs it from the poses of the particles.
    symmetry
        Point group: cN, dN, t, o, i1 to i4, about RELION's axes.
    output
        Folder for the run, which can be opened and resumed later; objects that were given are
        written into its folder ``inputs``. None works in a temporary folder, which is removed; the
        result is then held in memory.
    overwrite
        Whether to replace a run that is in the folder already.
    progress
        True shows how the run goes, as the command does; a function is called with every event. In
        any other case warnings go to the logger ``cryorefine``.
    **settings
        Any other setting of ``cryorefine refine``, with underscores: ``alignment="local"``,
        ``iterations=3``, ``threads=8``. ``docs/parameters.md`` lists them.

    Returns
    -------
    The result of the last iteration.

    Raises
    ------
    InputError
        If anything given cannot be used; no file is changed then.
    StoppedEarly
        On Ctrl-C, a full disk or too little memory; whole iterations are kept in ``output``.

    Examples
    --------
    >>> import cryorefine as cr
    >>> particles = cr.read_particles("particles.star")
    >>> start = cr.read_volume("reference.mrc")
    >>> result = cr.refine(particles[:80], start, symmetry="d2", iterations=1)
    >>> result.map
    <Volume: 32³ voxels of 5 Å>
    >>> result.particles.sigma_rotation_deg.shape
    (80,)
    """
    values = {**settings, "particles": particles, "reference": reference, "symmetry": symmetry}
    return _refined(values, output, overwrite, progress)


@library_call
def reconstruct(
    particles: Any,
    *,
    symmetry: str = "c1",
    output: FilePath | None = None,
    overwrite: bool = False,
    progress: Progress = False,
    **settings: Any,
) -> Refinement:
    """Reconstruct half maps from the poses of particles, without changing them.

    Parameters
    ----------
    particles, symmetry, output, overwrite, progress
        As for :func:`refine`.
    **settings
        Any other setting of ``cryorefine reconstruct``, with underscores.

    Returns
    -------
    Half maps, FSC and weighted map, and the scores of the given poses.

    Raises
    ------
    InputError
        If the particles have no poses, or anything else given cannot be used.
    StoppedEarly
        On Ctrl-C, a full disk or too little memory.

    Examples
    --------
    >>> import cryorefine as cr
    >>> result = cr.reconstruct("truth_particles.star", symmetry="d2")
    >>> len(result.half_maps)
    2
    """
    for name in ("alignment", "reference"):
        if name in settings:
            raise InputError(
                "a reconstruction keeps the poses and needs no reference",
                where=name,
                do="leave it out, or call refine",
            )
    values = {**settings, "particles": particles, "symmetry": symmetry, "alignment": "none"}
    return _refined(values, output, overwrite, progress)


def _refined(
    values: dict[str, Any], output: FilePath | None, overwrite: bool, progress: Progress
) -> Refinement:
    if output is not None:
        return _run(values, Path(output), overwrite, progress)
    with TemporaryDirectory(prefix="cryorefine-") as folder:
        try:
            return _run(values, Path(folder) / "run", False, progress).detached()
        except StoppedEarly as stop:
            kept = "; nothing is kept, because output= was not given"
            raise StoppedEarly(_SAFE.sub("", str(stop)) + kept) from None


def _run(values: dict[str, Any], output: Path, overwrite: bool, progress: Progress) -> Refinement:
    check_output_folder(output, overwrite=overwrite)
    with (
        threads_restored(),
        inputs_as_paths(output, values) as given,
        listening(progress) as listeners,
    ):
        loop.refine(make_settings(given), output, overwrite=overwrite, listeners=listeners)
    return Refinement(output, committed_iterations(output)[-1])


@contextmanager
def listening(progress: Progress) -> Iterator[tuple[Listener, ...]]:
    """Yield the listeners of a run that is to be shown, handed on, or told of by its warnings."""
    shown = ProgressDisplay() if progress is True else nullcontext(progress or None)
    with shown as listener:
        if progress is True:
            yield (listener,)  # type: ignore[misc]  # shows warnings itself
        else:
            yield (_log_warning,) if listener is None else (_log_warning, listener)  # type: ignore[misc]


def _log_warning(event: Event) -> None:
    if isinstance(event, WarningGiven):
        logging.getLogger("cryorefine").warning(in_parameters(event.message))
