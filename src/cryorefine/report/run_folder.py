"""Read what the report needs from a run folder, and take note of what cannot be read."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeGuard

from cryorefine.errors import InputError
from cryorefine.events import Event, read_events
from cryorefine.io.star import StarBlock, read_star
from cryorefine.settings import load_settings
from cryorefine.storage.json_record import read_json
from cryorefine.storage.layout import committed_iterations, iteration_folder

__all__ = ["READ_ERRORS", "Iteration", "RunFolder", "is_number"]

READ_ERRORS = (OSError, ValueError, TypeError, LookupError, ArithmeticError, InputError)
"""What reading a missing or damaged file raises, or drawing what it holds; JSON, TOML and Unicode
errors are ValueErrors."""

_NUMBERS = (
    "bfactor_A2", "box_px", "coverage", "cpu_s", "iterations", "n_particles", "n_rejected",
    "n_used", "peak_rss_bytes", "resolution_A", "resolution_unmasked_A", "voxel_A", "wall_s",
)  # fmt: skip
"""What the page shows of a summary as numbers; they may be null."""

_LARGEST = 1e18
"""Numbers from here on are none that a run has measured: bytes of memory come nearest."""

_LONGEST_MODE = 20
"""Characters of a mode that are shown: those of all versions have fewer."""

_MOST_ITERATIONS = 10**6
"""Numbers of iterations from here on are none: segments have 10,000 at most."""


@dataclass(frozen=True)
class Iteration:
    """Numbers of one iteration; None where the run folder does not have them.

    Attributes
    ----------
    mode
        ``global`` or ``local``; empty if unknown.
    align_resolution_A
        Finest detail that poses were compared at.
    jumped_fraction
        Particles that turned by more than a step of the coarse grid.
    n_aligned, n_used, n_rejected, n_left_out, n_not_drawn
        Particles by what became of them; see :class:`~cryorefine.state.counts.ParticleCounts`.
    spent_cpu_s
        CPU time of this iteration alone; the first one includes the preparation.
    twist_deg, twist_uncertainty_deg, rise_A, rise_uncertainty_A
        Of the helix that was imposed on half maps.
    """

    number: int
    mode: str
    resolution_A: float | None
    resolution_unmasked_A: float | None
    align_resolution_A: float | None
    median_turn_deg: float | None
    jumped_fraction: float | None
    median_sigma_rotation_deg: float | None
    n_aligned: int | None
    n_used: int | None
    n_rejected: int | None
    n_left_out: int | None
    n_not_drawn: int | None
    spent_cpu_s: float | None
    twist_deg: float | None = None
    twist_uncertainty_deg: float | None = None
    rise_A: float | None = None
    rise_uncertainty_A: float | None = None

    @property
    def n_not_used(self) -> int | None:
        """Particles that are in no half map; None where it is not known."""
        parts = (self.n_rejected, self.n_left_out, self.n_not_drawn)
        known = [part for part in parts if part is not None]
        return sum(known) if known else None


class RunFolder:
    """A run folder, each file read when it is first asked for.

    Small files that cannot be read are taken as empty and listed in :attr:`problems`; the figures'
    files raise one of :data:`READ_ERRORS`, which becomes a note in the figure's place.

    Parameters
    ----------
    path
        The run folder.
    """

    def __init__(self, path: Path):
        self.path = path
        self.problems: list[str] = []

    def _read(self, name: str, read: Callable[[Path], Any], kind: type, *, expected: bool) -> Any:
        """Return a file's content, or an empty one if it is missing, damaged or of another kind."""
        path = self.path / name
        if not expected and not path.exists():
            return kind()
        try:
            content = read(path)
        except READ_ERRORS as error:
            self.problems.append(f"{name} cannot be read: {error}")
            return kind()
        if not isinstance(content, kind):
            self.problems.append(f"{name} does not hold what it should")
            return kind()
        return content

    @cached_property
    def events(self) -> list[Event]:
        """All recorded events, oldest first."""
        return self._read("events.jsonl", read_events, list, expected=True)

    @cached_property
    def settings(self) -> dict[str, Any]:
        """The resolved settings that are set."""
        return self._read("settings.toml", load_settings, dict, expected=True)

    @cached_property
    def manifest(self) -> dict[str, Any]:
        """Versions, machine, command and input hashes."""
        return self._read("manifest.json", read_json, dict, expected=True)

    @cached_property
    def summary(self) -> dict[str, Any]:
        """Numbers of the last iteration; before the first, what is known from the run's start."""
        start = next((e.data() for e in reversed(self.events) if e.kind == "start"), {})
        known = self._sound("events.jsonl", start)
        n_particles, n_used = known.get("n_particles"), known.get("n_used")
        if n_particles is not None and n_used is not None:
            known["n_rejected"] = n_particles - n_used
        found = self._read("summary.json", read_json, dict, expected=bool(self.numbers))
        return {**known, **self._sound("summary.json", found)}

    def _sound(self, name: str, values: dict[str, Any]) -> dict[str, Any]:
        """Return what of a summary is of the type that it should be; the rest is a problem."""
        kept = {key: value for key, value in values.items() if _is_sound(key, value)}
        wrong = sorted(values.keys() - kept.keys())
        if wrong:
            shown = ", ".join(wrong)
            self.problems.append(f"{name} does not hold what it should: {shown}")
        return kept

    @cached_property
    def numbers(self) -> list[int]:
        """Numbers of the iterations whose folders are there; 0 is the start, without results."""
        return [n for n in committed_iterations(self.path) if n > 0]

    @cached_property
    def iterations(self) -> list[Iteration]:
        """All iterations that left a trace: a folder, or an event if the folder was removed."""
        known: dict[int, dict[str, Any]] = {n: {} for n in self.numbers}
        for n in self.numbers:
            name = f"{iteration_folder(self.path, n).name}/summary.json"
            known[n].update(self._read(name, read_json, dict, expected=True))
        # By their names: those of earlier versions say less, and are as good as they are.
        events = [(e.kind, e.data()) for e in self.events]
        finished = {_counted(data) for kind, data in events if kind == "iteration"}
        for kind, data in events:
            n = _counted(data)
            if n is None:
                continue
            # The start of an iteration says nothing if the run was stopped within it.
            if kind == "iteration_start" and (n in known or n in finished):
                wanted = {"mode", "align_resolution_A"}
                known.setdefault(n, {}).update({k: data[k] for k in wanted & data.keys()})
            elif kind == "iteration":
                known.setdefault(n, {}).update(data)
        return [_iteration(n, known) for n in sorted(known)]

    @property
    def criterion(self) -> float:
        """The FSC value that defines the resolution."""
        value = self.settings.get("fsc_criterion")
        return float(value) if is_number(value) else 0.143

    def fsc(self, number: int | None = None) -> StarBlock:
        """Return the FSC table of one iteration, or (None) of the last."""
        folder = self.path if number is None else iteration_folder(self.path, number)
        blocks = read_star(folder / "fsc.star")
        if "fsc" not in blocks:
            raise InputError("no block data_fsc", where=str(folder / "fsc.star"))
        return blocks["fsc"]

    @cached_property
    def particle_blocks(self) -> dict[str, StarBlock]:
        """Blocks ``optics`` and ``particles`` of the last particle table."""
        return read_star(self.path / "particles.star")


def _counted(data: dict[str, Any]) -> int | None:
    """Return the number of the iteration that an event is about; None if it names none."""
    n = data.get("iteration")
    return n if type(n) is int and 0 < n < _MOST_ITERATIONS else None


def is_number(value: object) -> TypeGuard[float]:
    """Tell whether a value is a number that can be shown; NaN is none."""
    return isinstance(value, int | float) and type(value) is not bool and abs(value) < _LARGEST


def _is_sound(name: str, value: Any) -> bool:
    """Tell whether a value of a summary can be shown as what it is."""
    return name not in _NUMBERS or value is None or is_number(value)


def _number(values: dict[str, Any], name: str) -> float | None:
    value = values.get(name)
    return float(value) if is_number(value) else None


def _count(values: dict[str, Any], name: str) -> int | None:
    value = _number(values, name)
    return None if value is None else int(value)


def _iteration(n: int, known: dict[int, dict[str, Any]]) -> Iteration:
    values = known[n]
    spent, before = _number(values, "cpu_s"), 0.0 if n == 1 else None
    found = values.get("helix")
    helix: dict[str, Any] = found if isinstance(found, dict) else {}
    if n - 1 in known:
        before = _number(known[n - 1], "cpu_s")
    return Iteration(
        number=n,
        mode=str(values.get("mode", ""))[:_LONGEST_MODE],
        resolution_A=_number(values, "resolution_A"),
        resolution_unmasked_A=_number(values, "resolution_unmasked_A"),
        align_resolution_A=_number(values, "align_resolution_A"),
        median_turn_deg=_number(values, "median_turn_deg"),
        jumped_fraction=_number(values, "jumped_fraction"),
        median_sigma_rotation_deg=_number(values, "median_sigma_rotation_deg"),
        n_aligned=_count(values, "n_aligned"),
        n_used=_count(values, "n_used"),
        n_rejected=_count(values, "n_rejected"),
        n_left_out=_count(values, "n_left_out"),
        n_not_drawn=_count(values, "n_not_drawn"),
        spent_cpu_s=None if spent is None or before is None else max(spent - before, 0.0),
        twist_deg=_number(helix, "twist_deg"),
        twist_uncertainty_deg=_number(helix, "twist_uncertainty_deg"),
        rise_A=_number(helix, "rise_A"),
        rise_uncertainty_A=_number(helix, "rise_uncertainty_A"),
    )
