"""Begin a run: check all inputs, prepare its first state, and only then make its folder."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from cryorefine.engine.clock import Clock
from cryorefine.engine.device import device_name
from cryorefine.engine.protocol import Engine
from cryorefine.engine.threads import use_threads
from cryorefine.events import EarlyEventLog, EventLog, Listener
from cryorefine.records.particle_registry import first_registry
from cryorefine.refine.image_statistics import Screening
from cryorefine.run.announcements import emit_start
from cryorefine.run.engines import engine_of
from cryorefine.run.folder import check_inputs_stay, check_output_folder, input_paths
from cryorefine.run.inputs import (
    Opened,
    open_inputs,
    screen,
    screened_inputs,
    starting_state,
    without_unassigned,
)
from cryorefine.run.interruption import interruptible
from cryorefine.run.running_segment import RunningSegment, commit, constants_of
from cryorefine.run.segments import Segment, timestamp, write_first_segment
from cryorefine.settings import RefineSettings, save_settings
from cryorefine.state.state import Inputs, State
from cryorefine.storage.lock import locked
from cryorefine.storage.manifest import mark_as_filled, write_manifest
from cryorefine.storage.removal import clear_run

__all__ = ["first_segment"]


@contextmanager
def first_segment(
    settings: RefineSettings,
    output: Path,
    *,
    overwrite: bool,
    listeners: tuple[Listener, ...],
) -> Iterator[RunningSegment]:
    """Yield a new run with what it starts from committed; engine and lock end afterwards.

    Raises
    ------
    InputError
        If the inputs cannot be used, or the folder cannot be filled; nothing is written then.
    StoppedEarly
        On Ctrl-C, without memory or disk.
    """
    use_threads(settings.threads)
    check_output_folder(output, overwrite=overwrite)
    events, clock = EarlyEventLog(listeners), Clock()
    with ExitStack() as stack:
        is_there = output.is_dir()
        if is_there:
            _hold(stack, output, overwrite=overwrite)
        with interruptible("nothing has been written yet"):
            opened = open_inputs(settings)
            check_inputs_stay(output, settings, opened.table.files)
            engine = stack.enter_context(engine_of(settings, opened.device))
            prepared = _prepare(opened, events, engine)
        with interruptible(
            "no iteration has been made yet; give the command again with --overwrite"
        ):
            if not is_there:
                output.mkdir(parents=True, exist_ok=True)
                _hold(stack, output, overwrite=overwrite)
            segment = _fill_folder(output, opened, prepared)
            events.continue_in(output / "events.jsonl")
            emit_start(events, prepared.inputs)
            inputs, screening = prepared.inputs, prepared.screening
            used = np.flatnonzero(screening.is_usable)
            registry = first_registry(opened.table, used, inputs.half)
            constants = constants_of(inputs, screening, registry)
            running = RunningSegment(
                output, segment, inputs, prepared.state, constants, clock, events, engine
            )
            commit(running, prepared.state, finished=False)
            mark_as_filled(output)
        yield running


@dataclass(frozen=True, eq=False)
class _Prepared:
    """What is made of the inputs before anything is written."""

    screening: Screening
    inputs: Inputs
    state: State


def _prepare(opened: Opened, events: EventLog, engine: Engine) -> _Prepared:
    """Look at all images, and make the first references from the initial maps or given poses."""
    start = opened.start_volumes(events) if opened.settings.reference else None
    radius_px = opened.radius_px(None if start is None else start[0], events)
    screening = without_unassigned(opened, screen(opened, radius_px, events, engine))
    inputs = screened_inputs(opened, screening, None, radius_px, events)
    state = starting_state(inputs, start, events, engine)
    if start is None:
        radius_px = opened.radius_px(torch.add(*state.references) / 2, events)
        inputs = screened_inputs(opened, screening, inputs.half, radius_px, EventLog())
    return _Prepared(screening, inputs, state)


def _hold(stack: ExitStack, output: Path, *, overwrite: bool) -> None:
    """Hold a folder until the run ends, if it is still one that the run may have."""
    stack.enter_context(locked(output))
    check_output_folder(output, overwrite=overwrite)


def _fill_folder(output: Path, opened: Opened, prepared: _Prepared) -> Segment:
    """Make the folder a run's, without what another run has left in it."""
    settings = opened.settings
    # First: it makes this the folder of a run which may be overwritten and cannot be resumed.
    write_manifest(
        output,
        input_paths(settings, opened.table.files),
        run=output,
        seed=settings.seed,
        device=device_name(opened.device),
        beside=opened.table.companions,
        is_being_filled=True,
    )
    clear_run(output)
    save_settings(output / "settings.toml", settings)
    segment = Segment(
        first_iteration=1,
        counts_from=1,
        settings=settings.model_dump(mode="json", exclude_unset=True),
        started=timestamp(),
        n_particles=len(opened.table),
        n_used=len(prepared.inputs.table),
    )
    write_first_segment(output, segment)
    return segment
