"""Run a refinement from beginning to end, go on where it stopped, or continue it with changes."""

import dataclasses
import errno
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cryorefine.engine.device import device_name
from cryorefine.engine.memory import emit_memory
from cryorefine.engine.processes import WorkersLost
from cryorefine.engine.protocol import Engine
from cryorefine.engine.threads import threads_of, use_threads
from cryorefine.errors import InputError, StoppedEarly
from cryorefine.events import (
    EarlyEventLog,
    EventLog,
    IterationBegun,
    IterationDone,
    Listener,
    RunEnded,
    RunResumed,
    RunStarted,
    RunStopped,
    SegmentBegun,
)
from cryorefine.model.observe import ImageStatistics
from cryorefine.records.particle_registry import ParticleRegistry, first_registry
from cryorefine.refine.image_statistics import Screening
from cryorefine.refine.iteration import iterate
from cryorefine.refine.start import reconstruct_start, start_from_poses
from cryorefine.run.checkpoint import (
    committed_iterations,
    load_start,
    load_state,
    prune_references,
    save_start,
    save_state,
)
from cryorefine.run.continuation import (
    Changes,
    begin_segment,
    check_same_particles,
    optics_arrays,
)
from cryorefine.run.engines import engine_of
from cryorefine.run.folder import (
    Clock,
    check_inputs_stay,
    check_output_folder,
    clear_run,
    publish,
    summarise,
    write_iteration_files,
    write_manifest,
)
from cryorefine.run.inputs import (
    Opened,
    first_state,
    open_inputs,
    screen,
    screened_inputs,
    without_unassigned,
)
from cryorefine.run.segments import (
    Segment,
    clear_segments,
    current_settings,
    plan_of_segment,
    read_segments,
    settings_within_run,
    switch_segment,
    write_first_segment,
)
from cryorefine.settings import RefineSettings, make_settings, save_settings
from cryorefine.state.plan import IterationPlan, IterationRecord
from cryorefine.state.state import Inputs, State

__all__ = ["Reporter", "refine", "resume"]

_GPU_IS_FULL = ("CUDA error: out of memory", "_STATUS_ALLOC_FAILED", "CUFFT_ALLOC_FAILED")
_MACHINE_IS_FULL = ("DefaultCPUAllocator", "not enough memory", "bad_alloc", "allocate memory")
"""What libraries say whose errors are no MemoryError: torch, its libraries, the C++ library."""

_DISK_TROUBLE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EIO, errno.ESTALE)

Reporter = Callable[[Path], None]
"""Rewrites the report of a run folder; called now and then, and at the end."""

_REPORT_SHARE = 20
"""Time since the last report, in units of what one takes, after which the next is written: reports
then take a twentieth of a run."""

_FIRST_REPORT_S = 2.0  # what the first one is expected to take


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
    use_threads(settings.threads)
    check_output_folder(output, overwrite=overwrite)
    early = EarlyEventLog(listeners)
    clock = Clock()
    with ExitStack() as stack:
        with _interruptible("nothing has been written yet"):
            opened = open_inputs(settings)
            check_inputs_stay(output, settings, opened.table.stacks)
            engine = stack.enter_context(engine_of(settings, opened.device))
            start = opened.start_volumes(early) if settings.reference else None
            radius_px = opened.radius_px(None if start is None else start[0], early)
            screening = without_unassigned(opened, screen(opened, radius_px, early, engine))
            inputs = screened_inputs(opened, screening, None, radius_px, early)
            state = _begun(inputs, start, early, engine)
            if start is None:
                radius_px = opened.radius_px(torch.add(*state.references) / 2, early)
                inputs = screened_inputs(opened, screening, inputs.half, radius_px, EventLog())

        safe = "no iteration has been made yet; give the command again with --overwrite"
        with _interruptible(safe):
            output.mkdir(parents=True, exist_ok=True)
            # First: by the manifest a folder is known as that of a run, which may be overwritten.
            write_manifest(output, settings, opened.table.stacks, opened.device)
            if overwrite:
                clear_segments(output)
                clear_run(output)
            save_settings(output / "settings.toml", settings)
            segment = Segment(
                first_iteration=1,
                counts_from=1,
                settings=settings.model_dump(mode="json", exclude_unset=True),
                started=_now(),
                n_particles=len(opened.table),
                n_used=len(inputs.table),
            )
            write_first_segment(output, segment)
            early.continue_in(output / "events.jsonl")
            _emit_start(early, opened, inputs)
            used = np.flatnonzero(screening.is_usable)
            registry = first_registry(opened.table, used, inputs.half)
            constants = _constants(inputs, screening, registry)
            _commit(output, inputs, state, constants, clock, finished=False)
        return _loop(output, segment, inputs, state, constants, clock, early, engine, reporter)


def resume(
    output: Path,
    *,
    changes: dict[str, Any] | None = None,
    keep_above_percentile: float | None = None,
    listeners: tuple[Listener, ...] = (),
    reporter: Reporter | None = None,
) -> dict[str, Any]:
    """Continue a run from its last whole iteration.

    With its own settings a run that has ended is left as it is, and the result is the same, bit
    by bit, as that of a run that was never stopped, given the same number of threads.

    With changes a new segment begins: all settings hold but for those given now. A run that has
    ended makes as many iterations again as its settings say, one that was stopped makes the rest;
    ``iterations`` counts from here. The run is untouched until all inputs have been checked.

    Parameters
    ----------
    changes
        New values of settings, by name; ``particles`` may be among them.
    keep_above_percentile
        Use only particles whose quality is above this percentile, 0 to 100; 0 brings all back.

    Raises
    ------
    InputError
        If the folder holds no run, its inputs have changed, or the changes cannot be made.
    StoppedEarly
        On Ctrl-C; whole iterations are kept.
    """
    done = committed_iterations(output)
    if not done or not (output / "settings.toml").exists():
        raise InputError(
            "no run to resume", where=str(output), do="start one with 'cryorefine refine'"
        )
    segments = read_segments(output)
    values = current_settings(output, segments)
    settings = make_settings(values, where=str(output))
    if len(segments) > 1 and done[-1] < segments[-1].first_iteration:
        state, arrays = load_start(output, len(segments))
    else:
        state, arrays = load_state(output, done[-1])
    clock = Clock(*arrays["spent_s"].tolist())
    requested = Changes(changes or {}, keep_above_percentile)
    if requested.is_any:
        return _continue(
            output, segments, values, state, arrays, clock, requested, listeners, reporter
        )
    use_threads(settings.threads)
    with _interruptible("the run is as it was; give the command again to go on with it"):
        opened = open_inputs(settings_within_run(settings, segments[-1]), is_continued=True)
        check_same_particles(opened, arrays)
        statistics = ImageStatistics(
            torch.from_numpy(arrays["mean"]), torch.from_numpy(arrays["std"])
        )
        screening = Screening(statistics, tuple(str(r) for r in arrays["reasons"]))
        half, radius_px = arrays["half"], float(arrays["radius_px"])
        inputs = screened_inputs(opened, screening, half, radius_px, EventLog())
    events = EventLog(output / "events.jsonl", listeners)
    events.emit(RunResumed(iteration=state.iteration))
    _emit_memory(events, inputs)
    constants = {name: array for name, array in arrays.items() if _is_constant(name)}
    with engine_of(settings, opened.device) as engine:
        return _loop(
            output, segments[-1], inputs, state, constants, clock, events, engine, reporter
        )


def _continue(
    output: Path,
    segments: list[Segment],
    values: dict[str, Any],
    state: State,
    arrays: dict[str, np.ndarray],
    clock: Clock,
    requested: Changes,
    listeners: tuple[Listener, ...],
    reporter: Reporter | None,
) -> dict[str, Any]:
    """Begin another segment of a run, and go on with it."""
    early = EarlyEventLog(listeners)
    early.emit(RunResumed(iteration=state.iteration))
    with ExitStack() as stack:
        with _interruptible("the run is as it was; give the command again to continue it"):
            begun = begin_segment(
                output, segments, values, state, arrays, requested, early, started=_now()
            )
            engine = stack.enter_context(engine_of(begun.settings, begun.opened.device))
            can_begin = bool(begun.settings.reference) or begun.opened.table.has_pose
            if state.iteration == 0 and "alignment" in requested.settings and can_begin:
                # What it was to start from was made for the other alignment.
                references = begun.settings.reference
                start = begun.opened.start_volumes(early) if references else None
                begun = dataclasses.replace(begun, state=_begun(begun.inputs, start, early, engine))
            constants = _constants(begun.inputs, begun.screening, begun.registry)

            def fill(folder: Path) -> None:
                save_settings(folder / "settings.toml", begun.settings)
                stacks = begun.opened.table.stacks
                write_manifest(folder, begun.settings, stacks, begun.opened.device)

            extra = {**constants, **_progress(clock, finished=False)}
            save_start(output, len(segments) + 1, begun.state, extra, fill)
            switch_segment(output, [*segments, begun.segment])
        early.continue_in(output / "events.jsonl")
        early.emit(SegmentBegun(number=len(segments) + 1, **dataclasses.asdict(begun.segment)))
        _emit_start(early, begun.opened, begun.inputs)
        return _loop(
            output,
            begun.segment,
            begun.inputs,
            begun.state,
            constants,
            clock,
            early,
            engine,
            reporter,
        )


def _begun(
    inputs: Inputs, start: tuple[Tensor, Tensor] | None, events: EventLog, engine: Engine
) -> State:
    """Return the state before the first iteration, with initial maps or, if None, without."""
    state = first_state(inputs, start, events, engine)
    if start is None:
        return reconstruct_start(inputs, state, events, engine)
    if inputs.settings.starts_from_poses:
        return start_from_poses(inputs, state, events, engine)
    return state


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")


def _emit_start(events: EventLog, opened: Opened, inputs: Inputs) -> None:
    """Emit what a run, or a segment of it, works on."""
    events.emit(
        RunStarted(
            n_particles=len(opened.table),
            n_used=len(inputs.table),
            box_px=inputs.size_px,
            voxel_A=inputs.voxel_A,
            symmetry=inputs.group.name,
            radius_A=inputs.geometry.radius_A,
            n_half1=int((inputs.half == 1).sum()),
            n_half2=int((inputs.half == 2).sum()),
            threads=threads_of(inputs.settings.threads),
            workers=inputs.settings.workers,
            device=device_name(opened.device),
        )
    )
    _emit_memory(events, inputs)


def _emit_memory(events: EventLog, inputs: Inputs) -> None:
    emit_memory(events, inputs.memory)
    if inputs.device_memory is not None:
        emit_memory(events, inputs.device_memory, on_gpu=True)


@contextmanager
def _interruptible(safe: str) -> Iterator[None]:
    """Turn Ctrl-C, a full or lost disk and too little memory into a clean stop.

    It says what is safe.
    """
    try:
        yield
    except KeyboardInterrupt:
        raise StoppedEarly(f"stopped by the user; {safe}") from None
    except (MemoryError, RuntimeError, OSError) as error:
        message = _what_is_full(error)
        if message:
            message = f"{message}, or extract the particles in a smaller box"
        elif isinstance(error, OSError) and error.errno in _DISK_TROUBLE:
            message = f"{error.filename or 'writing'}: {error.strerror}"
        else:
            raise
        raise StoppedEarly(f"{message}; {safe}") from None
    except WorkersLost as lost:
        raise StoppedEarly(f"{lost}; {safe}") from None


def _what_is_full(error: Exception) -> str:
    """Return which memory an error tells the lack of, and what to do; empty if of none."""
    text = str(error)
    if isinstance(error, torch.OutOfMemoryError) or any(part in text for part in _GPU_IS_FULL):
        return "the GPU's memory is full: end other programs on it, say --device cpu"
    lacks = isinstance(error, MemoryError) or getattr(error, "errno", None) == errno.ENOMEM
    if lacks or any(part in text for part in _MACHINE_IS_FULL):
        return "the machine's memory is full: end other programs, raise the job's limit"
    return ""


def _constants(
    inputs: Inputs, screening: Screening, registry: ParticleRegistry
) -> dict[str, np.ndarray]:
    """Return what every checkpoint carries, so that the latest one alone is enough to resume."""
    return {
        "half": inputs.half,
        "mean": screening.statistics.mean.numpy(),
        "std": screening.statistics.std.numpy(),
        "reasons": np.array(screening.reasons),
        "radius_px": np.array(inputs.radius_px),
        "voxel_A": np.array(inputs.voxel_A),
        **optics_arrays(inputs.optics),
        **registry.arrays(),
    }


def _is_constant(name: str) -> bool:
    """Tell whether an array of a checkpoint is one of those."""
    names = ("half", "mean", "std", "reasons", "radius_px", "voxel_A")
    return name in names or name.startswith(("optics_", "roster_", "aside_"))


def _progress(clock: Clock, *, finished: bool) -> dict[str, np.ndarray]:
    return {"spent_s": np.array(clock.read()), "finished": np.array(finished)}


def _commit(
    output: Path,
    inputs: Inputs,
    state: State,
    constants: dict[str, np.ndarray],
    clock: Clock,
    *,
    finished: bool,
) -> dict[str, Any]:
    summary = summarise(inputs, state, clock, finished=finished)
    extra = {**constants, **_progress(clock, finished=finished)}
    folder = save_state(
        output,
        state,
        extra,
        lambda part: write_iteration_files(part, inputs, state, summary),
    )
    publish(output, folder, inputs)
    if inputs.settings.intermediate == "remove":
        prune_references(output, state.iteration)
    return summary


def _loop(
    output: Path,
    segment: Segment,
    inputs: Inputs,
    state: State,
    constants: dict[str, np.ndarray],
    clock: Clock,
    events: EventLog,
    engine: Engine,
    reporter: Reporter | None,
) -> dict[str, Any]:
    settings, geometry = inputs.settings, inputs.geometry
    report, start_A = _Report(output, reporter), state.start_A
    summary = summarise(inputs, state, clock, finished=True)

    def following(history: list[IterationRecord]) -> IterationPlan | None:
        return plan_of_segment(settings, geometry, history, segment, start_A=start_A)

    plan = following(state.history)
    while plan is not None:
        safe = f"{state.iteration} iterations are safe; go on with 'cryorefine resume {output}'"
        try:
            with _interruptible(safe):
                events.emit(IterationBegun(**dataclasses.asdict(plan)))
                state = iterate(
                    inputs, state, plan, events, engine, is_over=lambda h: following(h) is None
                )
                plan = following(state.history)
                finished = plan is None
                summary = _commit(output, inputs, state, constants, clock, finished=finished)
                _emit_iteration(events, state, summary)
                if not finished:
                    report.write_if_cheap()
        except StoppedEarly as stop:
            with suppress(OSError):  # the disk may be what stopped it
                events.emit(RunStopped(message=str(stop)))
                report.write()
            raise
    _warn_of_poses(events, output, settings, summary)
    events.emit(RunEnded(**summary))
    report.write()
    return summary


def _warn_of_poses(
    events: EventLog, output: Path, settings: RefineSettings, summary: dict[str, Any]
) -> None:
    """Warn of particles that a finished run found no pose of, or none within the limits."""
    table, n = output / "particles.star", summary["n_used"]
    lacking, unchanged = summary["n_without_pose"], summary["n_pose_of_file"]
    if lacking or unchanged:
        what = f"{lacking} have no pose (cryorefineIsAssigned 0)" if lacking else ""
        kept = f"{unchanged} have that of the input file (cryorefinePoseIsFromFile 1)"
        events.warn(
            f"{table}: {lacking + unchanged} of {n} particles were never drawn, "
            f"{what or kept}{f' and {kept}' if what and unchanged else ''}: find their poses with "
            f"'cryorefine resume {output} --alignment global --iterations 1'"
        )
    limits = f"{settings.min_tilt_deg:g}° to {settings.max_tilt_deg:g}°"
    if summary["n_outside_tilts"]:
        events.warn(
            f"{table}: {summary['n_outside_tilts']} of {n} particles have a pose outside the tilts "
            f"of {limits}, keep it, and are set aside with weight 0: widen --min-tilt-deg and "
            "--max-tilt-deg to use them, or search within with --alignment global"
        )
    if summary["n_at_tilt_limit"]:
        events.warn(
            f"{table}: {summary['n_at_tilt_limit']} of {n} particles fit best at the very limit of "
            f"the tilts of {limits} (cryorefineTiltAtLimit 1): they may belong beyond it"
        )


class _Report:
    """Renews a run's report as often as costs little."""

    def __init__(self, output: Path, reporter: Reporter | None) -> None:
        self._output, self._reporter = output, reporter
        self._cost_s, self._written_s = _FIRST_REPORT_S, time.monotonic()

    def write(self) -> None:
        if self._reporter is not None:
            start = time.monotonic()
            self._reporter(self._output)
            self._written_s = time.monotonic()
            self._cost_s = self._written_s - start

    def write_if_cheap(self) -> None:
        """Write unless that would take more than a twentieth of the time since the last."""
        if time.monotonic() - self._written_s > _REPORT_SHARE * self._cost_s:
            self.write()


def _emit_iteration(events: EventLog, state: State, summary: dict[str, Any]) -> None:
    """Emit what an iteration reached."""
    record = dataclasses.asdict(state.history[-1])
    spent = {k: summary[k] for k in ("resolution_unmasked_A", "cpu_s", "wall_s")}
    events.emit(IterationDone(**record, **spent))
