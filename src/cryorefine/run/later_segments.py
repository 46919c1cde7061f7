"""Go on with a run that is in a folder: as it is, or with changes as another segment."""

import dataclasses
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from cryorefine.engine.device import device_name
from cryorefine.engine.threads import use_threads
from cryorefine.events import EarlyEventLog, EventLog, Listener, RunResumed, SegmentBegun
from cryorefine.records.checkpoint_fit import require_fit
from cryorefine.records.checkpoint_record import Checkpoint
from cryorefine.run.announcements import emit_plans, emit_start
from cryorefine.run.checkpoint import save_start
from cryorefine.run.continuation import (
    NextSegment,
    begin_segment,
    check_files_beside,
    check_same_particles,
    warn_of_changes,
    warn_of_commands,
)
from cryorefine.run.engines import engine_of
from cryorefine.run.folder import input_paths
from cryorefine.run.inputs import open_inputs, screened_inputs, starting_state
from cryorefine.run.interruption import interruptible
from cryorefine.run.running_segment import RunningSegment, constants_of
from cryorefine.run.segments import settings_within_run, switch_segment, timestamp
from cryorefine.run.stopped_run import StoppedRun
from cryorefine.settings import Changes, save_settings
from cryorefine.storage.manifest import write_manifest

__all__ = ["next_segment", "same_segment"]


@contextmanager
def same_segment(
    stopped: StoppedRun, requested: Changes, listeners: tuple[Listener, ...]
) -> Iterator[RunningSegment]:
    """Yield the run as it was when it stopped; its engine ends afterwards.

    Raises
    ------
    InputError
        If the inputs are not those that it was started with.
    StoppedEarly
        On Ctrl-C, without memory or disk; the run is as it was then.
    """
    settings, output, segment = stopped.settings, stopped.output, stopped.segments[-1]
    state, constants = stopped.checkpoint.state, stopped.checkpoint.constants
    use_threads(settings.threads)
    events = EarlyEventLog(listeners)
    with interruptible("the run is as it was; give the command again to go on with it"):
        warn_of_commands(stopped, requested, settings, events)
        check_files_beside(stopped, requested)
        opened = open_inputs(settings_within_run(settings, segment), is_continued=True)
        check_same_particles(opened, constants)
        warn_of_changes(stopped, requested, opened, events)
        inputs = screened_inputs(
            opened, constants.screening, constants.half, constants.radius_px, EventLog()
        )
        require_fit(inputs, stopped.checkpoint, where=str(output))
    with interruptible(f"the run is as it was; go on with 'cryorefine resume {output}'"):
        events.continue_in(output / "events.jsonl")
        events.emit(RunResumed(iteration=state.iteration))
        emit_plans(events, inputs)
    with engine_of(settings, opened.device) as engine:
        yield RunningSegment(
            output, segment, inputs, state, constants, stopped.clock, events, engine
        )


@contextmanager
def next_segment(
    stopped: StoppedRun, requested: Changes, listeners: tuple[Listener, ...]
) -> Iterator[RunningSegment]:
    """Yield the run with another segment begun; its engine ends afterwards.

    Raises
    ------
    InputError
        If the inputs have changed, or the changes cannot be made.
    StoppedEarly
        On Ctrl-C, without memory or disk; the run is as it was then.
    """
    output, number = stopped.output, len(stopped.segments) + 1
    events = EarlyEventLog(listeners)
    events.emit(RunResumed(iteration=stopped.checkpoint.state.iteration))
    with ExitStack() as stack:
        with interruptible("the run is as it was; give the command again to continue it"):
            begun = begin_segment(stopped, requested, events, started=timestamp(), engines=stack)
            begun = _started_anew(begun, requested, events)
            constants = constants_of(begun.inputs, begun.screening, begun.registry)

            def fill(folder: Path) -> None:
                save_settings(folder / "settings.toml", begun.settings)
                write_manifest(
                    folder,
                    input_paths(begun.settings, begun.opened.table.files),
                    run=output,
                    seed=begun.settings.seed,
                    device=device_name(begun.opened.device),
                    beside=begun.opened.table.companions,
                )

            start = Checkpoint(begun.state, constants, stopped.clock.read(), is_finished=False)
            is_new = begun.state.references is not stopped.checkpoint.state.references
            save_start(output, number, start, fill, has_volumes=is_new)
            switch_segment(output, [*stopped.segments, begun.segment])
        with interruptible(f"the segment has begun; go on with 'cryorefine resume {output}'"):
            events.continue_in(output / "events.jsonl")
            events.emit(SegmentBegun(number=number, **dataclasses.asdict(begun.segment)))
            emit_start(events, begun.inputs)
        yield RunningSegment(
            output,
            begun.segment,
            begun.inputs,
            begun.state,
            constants,
            stopped.clock,
            events,
            begun.engine,
        )


def _started_anew(begun: NextSegment, requested: Changes, events: EventLog) -> NextSegment:
    """Return a segment before the first iteration with the start that its alignment needs.

    What it was to start from was made for the other alignment.
    """
    can_begin = bool(begun.settings.reference) or begun.opened.table.has_pose
    if begun.state.iteration > 0 or "alignment" not in requested.changed or not can_begin:
        return begun
    start = begun.opened.start_volumes(events) if begun.settings.reference else None
    return dataclasses.replace(
        begun, state=starting_state(begun.inputs, start, events, begun.engine)
    )
