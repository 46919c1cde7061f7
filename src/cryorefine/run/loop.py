"""Run a refinement from beginning to end, go on where it stopped, or continue it with changes."""

import dataclasses
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from cryorefine.errors import InputError, StoppedEarly
from cryorefine.events import IterationBegun, Listener, RunEnded, RunStopped
from cryorefine.refine.advance import advance
from cryorefine.run.announcements import emit_iteration, emit_restorations, warn_of_poses
from cryorefine.run.beside import Beside
from cryorefine.run.copied_run import copied_run
from cryorefine.run.first_segment import first_segment
from cryorefine.run.folder import summarise
from cryorefine.run.inputs import open_inputs
from cryorefine.run.interruption import interruptible
from cryorefine.run.later_segments import next_segment, same_segment
from cryorefine.run.report_timing import Reporter, TimedReport
from cryorefine.run.running_segment import RunningSegment, commit
from cryorefine.run.segments import plan_of_segment
from cryorefine.run.stopped_run import (
    StoppedRun,
    changes_of_inputs,
    check_is_run,
    put_right,
    read_stopped_run,
)
from cryorefine.settings import Changes, RefineSettings
from cryorefine.state.plan import IterationPlan, IterationRecord
from cryorefine.state.state import State
from cryorefine.storage.layout import committed_iterations
from cryorefine.storage.lock import locked
from cryorefine.storage.removal import sweep_inputs

__all__ = ["refine", "resume"]


def refine(
    settings: RefineSettings,
    output: Path,
    *,
    overwrite: bool = False,
    listeners: tuple[Listener, ...] = (),
    reporter: Reporter | None = None,
) -> dict[str, Any]:
    """Refine particles against a reference and fill the run folder.

    All inputs are checked before the folder is made or anything in it touched.

    Returns
    -------
    The final summary.

    Raises
    ------
    InputError
        If the inputs cannot be used.
    StoppedEarly
        On Ctrl-C, without memory or disk; whole iterations are kept.
    """
    with first_segment(settings, output, overwrite=overwrite, listeners=listeners) as running:
        return _loop(running, reporter)


def resume(
    output: Path,
    *,
    changes: Changes | dict[str, Any] | None = None,
    target: Path | None = None,
    overwrite: bool = False,
    listeners: tuple[Listener, ...] = (),
    reporter: Reporter | None = None,
) -> dict[str, Any]:
    """Continue a run from its last whole iteration.

    With its own settings a run that has ended is left as it is, and the result is the same, bit
    by bit, as that of a run that was never stopped.

    With changes a new segment begins: all settings hold but for those given now. A run that has
    ended makes as many iterations again as its settings say, one that was stopped makes the rest;
    ``iterations`` counts from here. The run is untouched until all inputs have been checked.

    Parameters
    ----------
    changes
        What is to change; a dictionary has settings only. ``particles`` may be among them.
    target
        Folder in which a copy of the run goes on; the run stays as it is. None: it goes on itself.
    overwrite
        Whether to replace a run that is in ``target`` already.

    Raises
    ------
    InputError
        If the folder holds no run, another process works in it, inputs have changed or commands
        would run without being accepted, or the changes cannot be made.
    StoppedEarly
        On Ctrl-C; whole iterations are kept.
    """
    requested = changes if isinstance(changes, Changes) else Changes(changes or {})
    check_is_run(output)
    if target is not None:
        with copied_run(output, target, requested, overwrite=overwrite) as keep:
            return _resumed(target, requested, listeners, reporter, keep)
    with locked(output):
        return _resumed(output, requested, listeners, reporter, lambda: None)


def _resumed(
    output: Path,
    requested: Changes,
    listeners: tuple[Listener, ...],
    reporter: Reporter | None,
    begun: Callable[[], object],
) -> dict[str, Any]:
    """Go on in a folder that is held; ``begun`` is called when nothing is refused any more."""
    stopped = read_stopped_run(output)
    requested = requested.against(stopped.values_before)
    with interruptible(f"go on with 'cryorefine resume {output}'"):
        renewed = put_right(stopped)
    begin = next_segment if requested.is_any or _is_accepted(stopped, requested) else same_segment
    with begin(stopped, requested, listeners) as running:
        begun()
        if renewed:
            running.events.warn(renewed)
        return _loop(running, reporter)


def _is_accepted(stopped: StoppedRun, requested: Changes) -> bool:
    """Tell whether inputs have changed and are to become those of the run."""
    if not requested.accepts_changed_inputs:
        return False
    if changes_of_inputs(stopped):
        return True
    # Only what the particle file makes be read can tell of files that are new beside it.
    beside = open_inputs(stopped.settings, is_continued=True).table.companions
    return bool(changes_of_inputs(stopped, (), beside))


def _loop(running: RunningSegment, reporter: Reporter | None) -> dict[str, Any]:
    """Make iterations until the segment is complete, and return the last one's summary.

    Where there is a thread to spare, an iteration is committed and reported beside the next.
    """
    output, events, state = running.output, running.events, running.state
    inputs = dataclasses.replace(running.inputs, run_folder=output)
    running = dataclasses.replace(running, inputs=inputs)
    report, start_A = TimedReport(output, reporter), state.start_A
    has_room = running.engine.n_workers > 1 and inputs.working_memory.both_halves
    beside = Beside[dict[str, Any]](at_once=has_room)

    def following(history: list[IterationRecord]) -> IterationPlan | None:
        return plan_of_segment(
            inputs.settings, inputs.geometry, history, running.segment, start_A=start_A
        )

    def is_over(history: list[IterationRecord]) -> bool:
        return following(history) is None

    def kept(state: State, *, is_last: bool) -> dict[str, Any]:
        summary = commit(running, state, finished=is_last)
        emit_iteration(events, state, summary)
        if not is_last:
            report.write_if_cheap()
        return summary

    sweep_inputs(output)
    plan = following(state.history)
    while plan is not None:
        try:
            with interruptible(partial(_safe, output, beside)):
                events.emit(IterationBegun(**dataclasses.asdict(plan)))
                state = advance(inputs, state, plan, events, running.engine, is_over=is_over)
                plan = following(state.history)
                is_last = plan is None
                threads = running.engine.n_workers if is_last else 1
                beside.begin(partial(kept, state, is_last=is_last), threads=threads)
                if is_last:
                    beside.wait()
        except (InputError, StoppedEarly) as stop:
            _settle(beside)
            with suppress(OSError):  # the disk may be what stopped it
                events.emit(RunStopped(message=str(stop)))
                report.write()
            raise
    with interruptible(partial(_safe, output, beside)):
        summary = beside.wait() or summarise(inputs, state, running.clock, finished=True)
        warn_of_poses(events, output, inputs.settings, summary)
        emit_restorations(events, output)
        events.emit(RunEnded(**summary))
        report.write()
        return summary


def _safe(output: Path, beside: Beside[Any]) -> str:
    """Say what of a run that is being stopped is safe, when that is so."""
    _settle(beside)
    n = committed_iterations(output)[-1]
    return f"{n} iterations are safe; go on with 'cryorefine resume {output}'"


def _settle(beside: Beside[Any]) -> None:
    """Wait for what is being done; one reason to stop is enough."""
    with suppress(Exception, KeyboardInterrupt):
        beside.wait()
