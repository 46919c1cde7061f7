"""Open the folder of a run: look at its iterations, and continue it."""

import os
from pathlib import Path
from typing import Any

from cryorefine.api.boundary import library_call, threads_restored
from cryorefine.api.inputs import inputs_as_paths
from cryorefine.api.refinement import Progress, listening
from cryorefine.api.results import Iteration, Refinement
from cryorefine.errors import InputError
from cryorefine.run import loop
from cryorefine.run.folder import check_output_folder
from cryorefine.settings import Changes, RefineSettings
from cryorefine.state.plan import IterationRecord
from cryorefine.storage.layout import check_no_devices, committed_iterations
from cryorefine.storage.manifest import is_being_filled
from cryorefine.storage.publication import repair_if_free

__all__ = ["Run", "open_run"]


class Run:
    """The folder of a run that is finished, stopped, or going on in another process.

    Attributes
    ----------
    output
        The folder.
    """

    def __init__(self, output: Path) -> None:
        self.output = output

    def __repr__(self) -> str:
        return f"<Run: {self.output}, {len(self.iterations)} iterations>"

    @property
    def iterations(self) -> list[Iteration]:
        """All whole iterations, oldest first: maps, half maps, curves and particles of each."""
        numbers = committed_iterations(self.output)
        return [Iteration(self.output, number) for number in numbers if number > 0]

    @property
    def result(self) -> Refinement:
        """What the last whole iteration gave.

        Raises
        ------
        InputError
            If there is none yet.
        """
        numbers = committed_iterations(self.output)
        if not numbers or numbers[-1] == 0:
            raise InputError(
                "the run has no whole iteration yet",
                where=str(self.output),
                do="wait, or continue it with resume()",
            )
        return Refinement(self.output, numbers[-1])

    @property
    def history(self) -> list[IterationRecord]:
        """What each iteration showed, oldest first; empty before the first."""
        return self.result.history if self.iterations else []

    @property
    def settings(self) -> RefineSettings:
        """All settings of the run, with defaults."""
        return Refinement(self.output, 0).settings

    @property
    def is_finished(self) -> bool:
        """Whether the run has come to its end."""
        return bool(self.iterations) and bool(self.result.summary.get("finished"))

    @library_call
    def resume(
        self,
        *,
        keep_above_percentile: float | None = None,
        accept_changed_inputs: bool = False,
        allow_commands: bool = False,
        output: str | os.PathLike[str] | None = None,
        overwrite: bool = False,
        progress: Progress = False,
        **changes: Any,
    ) -> Refinement:
        """Continue the run from its last whole iteration.

        Without changes the result is, to the bit, that of a run that was never stopped, and a run
        that has ended is left as it is. With changes a run that has ended makes as many iterations
        again as its settings say, or ``iterations`` more.

        Parameters
        ----------
        keep_above_percentile
            Leave out so many percent (0 to 100) of the particles from now on: the worst of each
            defocus group; 0 brings all back.
        accept_changed_inputs
            Go on where files of the run have changed since it read them. Otherwise they are
            refused.
        allow_commands
            Run ``reference_command`` and ``post_command`` of the run's settings. Otherwise only
            those run that are given here.
        output
            A new folder in which a copy of the run goes on; this one stays as it is. None: this one
            goes on.
        overwrite
            Whether to replace a run that is in ``output`` already.
        progress
            As for :func:`cryorefine.refine`.
        **changes
            New values of settings; ``particles`` may be among them. None takes a setting back: it
            is again what it is where nothing is given.

        Raises
        ------
        InputError
            If the inputs have changed, or the changes cannot be made; the run is untouched then.
        StoppedEarly
            On Ctrl-C, a full disk or too little memory; whole iterations are kept.
        """
        target = None if output is None else Path(output)
        if target is not None:
            check_output_folder(target, overwrite=overwrite)
        with (
            threads_restored(),
            inputs_as_paths(target or self.output, changes) as given,
            listening(progress) as listeners,
        ):
            loop.resume(
                self.output,
                changes=Changes(
                    given,
                    keep_above_percentile=keep_above_percentile,
                    accepts_changed_inputs=accept_changed_inputs,
                    allows_commands=allow_commands,
                ),
                target=target,
                overwrite=overwrite,
                listeners=listeners,
            )
        return self.result if target is None else Run(target).result


@library_call
def open_run(output: str | os.PathLike[str]) -> Run:
    """Open the folder of a run.

    Raises
    ------
    InputError
        If the folder holds none.

    Examples
    --------
    >>> import cryorefine as cr
    >>> done = cr.refine("particles.star", "reference.mrc", symmetry="d2", iterations=1,
    ...                  stochastic_subset=40, alignment="stochastic", output="short_run")
    >>> run = cr.open_run("short_run")
    >>> [iteration.number for iteration in run.iterations]
    [1]
    >>> run.is_finished
    True
    """
    folder = Path(output)
    check_no_devices(folder)
    has_run = committed_iterations(folder) and (folder / "settings.toml").exists()
    if not has_run or is_being_filled(folder):
        raise InputError("no run in this folder", where=str(folder), do="give the folder of a run")
    repair_if_free(folder)
    return Run(folder)
