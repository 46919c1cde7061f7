"""Which version of the checkpoint's format a file has, and how an older one becomes today's."""

import dataclasses
import math
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np

from cryorefine.errors import InputError
from cryorefine.state.scores import ParticleScores

__all__ = ["VERSION", "migrated"]

VERSION = 1
"""Of the format that is written: counted up by one when arrays change their names or meanings."""

_Arrays = dict[str, np.ndarray]
_NEEDED = ("is_scaled", "group_scale", "history", "noise_1_0", "noise_2_0")
_SCORE = re.compile(r"(?:poses|previous|aside)_quality_(.+)")
_DO = "go on with the version that began the run (manifest.json names it), or start a new run"


def migrated(arrays: _Arrays, path: Path) -> _Arrays:
    """Return a checkpoint's arrays as today's version would have written them.

    Parameters
    ----------
    arrays
        As read; without ``version`` they are of version 0, from before there were any.
    path
        Of the file, for messages.

    Raises
    ------
    InputError
        If a later version of the program wrote them, or an earlier one that lacks what is needed.
    KeyError
        If the file is no checkpoint.
    """
    arrays["iteration"]  # a file without it is no checkpoint of any version
    found = arrays.get("version", np.array(0))
    if found.shape != () or found.dtype.kind != "i":
        raise ValueError("its version is no whole number")
    version = int(found)
    if version > VERSION:
        raise InputError(
            f"the checkpoint has format {version}, of a later version of cryorefine; this one "
            f"knows formats up to {VERSION}",
            where=str(path),
            do=_DO,
        )
    if version < 0:
        raise ValueError(f"format {version}")
    for number in range(version, VERSION):
        arrays = _MIGRATIONS[number](arrays, path)
    return {**arrays, "version": np.array(VERSION)}


def _from_unversioned(arrays: _Arrays, path: Path) -> _Arrays:
    """Return arrays of version 1.

    Runs from before stochastic alignments and starts from given poses said nothing of them, those
    from before runs could be continued nothing of having finished, and they may have scores that
    are no longer measured.
    """
    lacking = [name for name in _NEEDED if name not in arrays]
    if lacking:
        raise InputError(
            f"the checkpoint is of an earlier version of cryorefine and lacks {lacking[0]!r}",
            where=str(path),
            do=_DO,
        )
    scores = {entry.name for entry in dataclasses.fields(ParticleScores)}
    known = {name: values for name, values in arrays.items() if _is_known(name, scores)}
    absent = {"has_sums": np.array(False), "start_A": np.array(math.nan)}
    return {**absent, "finished": np.array(False), **known}


def _is_known(name: str, scores: set[str]) -> bool:
    column = _SCORE.fullmatch(name)
    return column is None or column.group(1) in scores


_MIGRATIONS: tuple[Callable[[_Arrays, Path], _Arrays], ...] = (_from_unversioned,)
"""The one of each version to the next."""
