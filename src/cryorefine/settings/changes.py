"""What is to change in a run that is continued, and the settings that follow from it."""

import os
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from cryorefine.errors import InputError
from cryorefine.settings.combined import RefineSettings, option_name
from cryorefine.settings.files import make_settings

__all__ = ["FIXED", "Changes", "merge_settings"]

FIXED = frozenset(
    {
        "reference", "reference_voxel_angstrom", "initial_lowpass_angstrom", "invert_contrast",
        "seed",
    }
)  # fmt: skip
"""Settings that the state of a run depends on: they cannot change in it."""


@dataclass(frozen=True)
class Changes:
    """What is to change in a run that is continued.

    Attributes
    ----------
    settings
        New values by name; None takes a setting back: it is again what it is where nothing is
        given.
    of_file
        Values of a settings file. One that the run has already is no change, and ``settings`` win.
    keep_above_percentile
        Only particles whose quality is above this percentile are used; None: as before.
    accepts_changed_inputs
        Whether files of the run may have changed since it read them.
    allows_commands
        Whether commands may run that are in the run's settings or in a file.
    """

    settings: dict[str, Any]
    of_file: dict[str, Any] = field(default_factory=dict)
    keep_above_percentile: float | None = None
    accepts_changed_inputs: bool = False
    allows_commands: bool = False

    @property
    def is_any(self) -> bool:
        """Whether anything is to change; of a file's values all count."""
        return bool(self.changed) or self.keep_above_percentile is not None

    @property
    def changed(self) -> dict[str, Any]:
        """New values by name, those of the file among them."""
        return {**self.of_file, **self.settings}

    def against(self, before: dict[str, Any]) -> "Changes":
        """Return the changes without the file's values that are those of the run already."""
        new = {name: v for name, v in self.of_file.items() if not _is_same(name, v, before)}
        return replace(self, of_file=new)


def merge_settings(
    before: dict[str, Any], changes: Changes, *, where: str
) -> tuple[RefineSettings, dict[str, Any]]:
    """Return a new segment's settings: all that held before, but for what is given now.

    Alignment 'none' has no use for some of them. They are suspended rather than refused: who
    reconstructs once, and goes on then, has nothing to take back and give again.

    Parameters
    ----------
    before
        What held, by name; what was suspended is among it.

    Returns
    -------
    settings, suspended

    Raises
    ------
    InputError
        Listing every problem at once.
    """
    given = changes.changed
    after = {name: v for name, v in {**before, **given}.items() if v is not None}
    suspended = {}
    if after.get("alignment") == "none":
        carried = [name for name in before if name not in given]
        suspended = {n: before[n] for n in carried if _needs_alignment(n, before[n])}
        after = {name: value for name, value in after.items() if name not in suspended}
    problems = list(_fixed_that_change(before, given))
    do = "start a new run with 'cryorefine refine' to change it" if problems else ""
    percentile = changes.keep_above_percentile
    if percentile is not None and not 0 <= percentile <= 100:
        problems.append(f"--keep-above-percentile {percentile:g} is not between 0 and 100")
    unknown = [n for n, v in given.items() if v is None and n not in RefineSettings.model_fields]
    problems += [f"{option_name(name)} no such setting" for name in unknown]
    settings = None
    try:
        settings = make_settings(after, where=where)
    except InputError as error:
        problems.append(error.what)
    if problems or settings is None:
        raise InputError("; ".join(problems), where=where, do=do or "correct the options")
    return settings, suspended


def _value(name: str, raw: Any, **others: Any) -> Any:
    """Return the value that a setting would have, its default for None.

    Raises ValidationError if it cannot have it.
    """
    others = {"particles": "-", **others}
    if raw is not None:
        others[name] = raw
    return getattr(RefineSettings(**others), name)


def _is_same(name: str, raw: Any, before: dict[str, Any]) -> bool:
    """Tell whether a setting has this value already."""
    if name not in RefineSettings.model_fields:
        return False
    try:
        old, new = (_identity(_value(name, v)) for v in (before.get(name), raw))
    except ValidationError:
        return name in before and before[name] == raw
    return old == new


def _needs_alignment(name: str, raw: Any) -> bool:
    """Tell whether a setting is refused with alignment 'none', and would not be with another."""
    try:
        _value(name, raw, alignment="automatic")
    except ValidationError:
        return False
    try:
        _value(name, raw, alignment="none")
    except ValidationError:
        return True
    return False


def _fixed_that_change(before: dict[str, Any], given: dict[str, Any]) -> Iterator[str]:
    for name in sorted(FIXED & given.keys()):
        try:
            old, new = (_value(name, v) for v in (before.get(name), given[name]))
        except ValidationError:
            continue  # said with the other problems
        if _identity(old) != _identity(new):
            shown = " ".join(map(str, old)) if isinstance(old, tuple) else old
            yield (
                f"{option_name(name)} cannot change in a run (it began with "
                f"{'none' if shown in (None, '') else shown})"
            )


def _identity(value: Any) -> Any:
    """Return what two equal values share: of files, where they really are."""
    if isinstance(value, tuple):
        return tuple(_identity(v) for v in value)
    return os.path.realpath(value) if isinstance(value, Path) else value
