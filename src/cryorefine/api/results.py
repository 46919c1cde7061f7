"""What a refinement gives: maps, curves, particles and numbers, each read when it is asked for."""

from functools import cached_property
from pathlib import Path
from typing import Any

from cryorefine.api.boundary import in_parameters
from cryorefine.api.correlation import FscCurves, curves_as_arrays
from cryorefine.api.particles import Particles, read_particles
from cryorefine.api.volume import Volume, read_volume
from cryorefine.errors import InputError
from cryorefine.events import WarningGiven, read_events
from cryorefine.run.checkpoint import load_measurements
from cryorefine.settings import RefineSettings, load_settings, make_settings
from cryorefine.state.plan import IterationRecord
from cryorefine.storage.json_record import read_json
from cryorefine.storage.layout import iteration_folder

__all__ = ["Iteration", "Refinement"]


class Iteration:
    """Results of one iteration of a run; files are read when they are asked for, and kept.

    Attributes
    ----------
    number
        From 1.
    """

    def __init__(self, run: Path, number: int) -> None:
        self.number = number
        self._run = run
        self._folder = iteration_folder(run, number)

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: iteration {self.number}, {_angstrom(self.resolution_A)}>"

    @cached_property
    def _measurements(self) -> Any:
        return load_measurements(self._run, self.number)

    @cached_property
    def summary(self) -> dict[str, Any]:
        """The numbers of ``summary.json``."""
        path = self._folder / "summary.json"
        try:
            found = read_json(path)
        except (OSError, ValueError) as error:
            raise _unreadable(path, str(error)) from None
        if not isinstance(found, dict):
            raise _unreadable(path, "it is no table of numbers")
        return found

    @property
    def resolution_A(self) -> float | None:
        """Resolution of the map in Å; None if the half maps share no signal."""
        value = self.summary.get("resolution_A", "")
        is_length = isinstance(value, int | float) and not isinstance(value, bool) and value > 0
        if value is not None and not is_length:
            path = self._folder / "summary.json"
            raise _unreadable(path, "'resolution_A' should be ångströms or null, and is not")
        return value

    @cached_property
    def map(self) -> Volume:
        """The average of the half maps, weighted by their FSC."""
        return read_volume(self._folder / "map.mrc")

    @cached_property
    def sharpened_map(self) -> Volume:
        """The map with the fall-off of its amplitudes undone."""
        return read_volume(self._folder / "map_sharpened.mrc")

    @cached_property
    def average_map(self) -> Volume:
        """The plain average of the half maps, neither weighted nor sharpened.

        Runs of earlier versions have no file of it.
        """
        return read_volume(self._folder / "map_average.mrc")

    @cached_property
    def processed_map(self) -> Volume | None:
        """The map after what the ``post_`` settings ask for; None where they ask for nothing."""
        path = self._folder / "map_processed.mrc"
        return read_volume(path) if path.exists() else None

    @cached_property
    def half_maps(self) -> tuple[Volume, Volume]:
        """The two half maps, neither weighted nor masked."""
        return read_volume(self._folder / "half1.mrc"), read_volume(self._folder / "half2.mrc")

    @cached_property
    def mask(self) -> Volume:
        """The soft mask, 0 to 1, that the resolution was measured within."""
        return read_volume(self._folder / "mask.mrc")

    @cached_property
    def fsc(self) -> FscCurves:
        """The FSC curves of the half maps."""
        evaluation = self._measurements[1]
        return curves_as_arrays(evaluation.curves, evaluation.comparison_fsc)

    @cached_property
    def particles(self) -> Particles:
        """The particles in use, with their poses and scores, such as ``sigma_rotation_deg``."""
        return read_particles(self._folder / "particles.star", ctf=self._has_ctf)

    @cached_property
    def undecided(self) -> Particles | None:
        """All poses, with ``probability``, of particles with several; None where all have one."""
        path = self._folder / "undecided_poses.star"
        return read_particles(path, ctf=self._has_ctf) if path.exists() else None

    @cached_property
    def _has_ctf(self) -> bool:
        return bool(load_settings(self._run / "settings.toml").get("ctf", True))


class Refinement(Iteration):
    """The result of a run: that of its last iteration, and its history.

    Attributes
    ----------
    number
        Of the last iteration.
    output
        Folder of the run; None for a result that is held in memory.
    """

    def __init__(self, run: Path, number: int) -> None:
        super().__init__(run, number)
        self.output: Path | None = run

    @cached_property
    def history(self) -> list[IterationRecord]:
        """What each iteration showed, oldest first; see the attributes of its records."""
        return self._measurements[0]

    @cached_property
    def settings(self) -> RefineSettings:
        """All settings of the run, with defaults."""
        return make_settings(load_settings(self._run / "settings.toml"), where=str(self._run))

    @cached_property
    def rejected(self) -> Particles | None:
        """Particles whose images could not be used; None where all could."""
        name = "rejected_particles.star"
        path = self._folder / name
        # Earlier versions wrote it at the top only.
        path = path if path.exists() else self._run / name
        return read_particles(path, ctf=self._has_ctf) if path.exists() else None

    @cached_property
    def warnings(self) -> tuple[str, ...]:
        """What the user should know, oldest first."""
        path = self._run / "events.jsonl"
        try:
            events = read_events(path)
        except OSError as error:
            raise _unreadable(path, str(error.strerror)) from None
        return tuple(in_parameters(e.message) for e in events if isinstance(e, WarningGiven))

    def detached(self) -> "Refinement":
        """Return the result after all of it has been read: it no longer needs the folder."""
        for kind in type(self).__mro__:
            for name, value in vars(kind).items():
                if isinstance(value, cached_property):
                    getattr(self, name)
        self.output = None
        return self


def _unreadable(path: Path, reason: str) -> InputError:
    return InputError(f"cannot be read ({reason})", where=str(path), do="restore the file")


def _angstrom(resolution_A: float | None) -> str:
    return "no signal" if resolution_A is None else f"{resolution_A:.2f} Å"
