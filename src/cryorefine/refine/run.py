"""Run a refinement from beginning to end, or from where it stopped."""

import dataclasses
import errno
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cryorefine.errors import InputError, StoppedEarly
from cryorefine.model.observe import ImageStatistics
from cryorefine.refine.checkpoint import (
    committed_iterations,
    load_state,
    prune_references,
    save_state,
)
from cryorefine.refine.device import device_name
from cryorefine.refine.events import EventLog
from cryorefine.refine.memory import tell_memory
from cryorefine.refine.output import (
    Clock,
    check_output_folder,
    clear_run,
    publish,
    summarise,
    write_iteration_files,
    write_manifest,
)
from cryorefine.refine.prepare import first_state, open_inputs, screen, screened_inputs
from cryorefine.refine.schedule import next_sampling
from cryorefine.refine.screen import Screening
from cryorefine.refine.settings import (
    RefineSettings,
    load_settings,
    make_settings,
    save_settings,
)
from cryorefine.refine.state import Inputs, State
from cryorefine.refine.step import iterate, reconstruct_start
from cryorefine.refine.threads import use_threads

__all__ = ["Reporter", "refine", "resume"]

_DISK_TROUBLE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EIO, errno.ESTALE)

Reporter = Callable[[Path], None]
"""Rewrites the report of a run folder; called now and then, and at the end."""

_REPORT_SHARE = 20
_FIRST_REPORT_S = 2.0  # what the first one is expected to take


def refine(
    settings: RefineSettings,
    output: Path,
    *,
    overwrite: bool = False,
    listeners: tuple[Callable[[dict[str, Any]], None], ...] = (),
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
        On Ctrl-C; whole iterations are kept.
    """
    threads = use_threads(settings.threads)
    check_output_folder(output, overwrite=overwrite)
    held: list[dict[str, Any]] = []
    early = EventLog()
    early.subscribe(held.append)
    for listener in listeners:
        early.subscribe(listener)
    clock = Clock()
    opened = open_inputs(settings)
    start = opened.start_volumes(early) if settings.reference else None
    radius_px = opened.radius_px(None if start is None else start[0], early)
    with _interruptible("nothing has been written yet"):
        screening = screen(opened, radius_px, early)
        inputs = screened_inputs(opened, screening, None, radius_px, early)
        state = first_state(inputs, start, early)
        if start is None:
            state = reconstruct_start(inputs, state, early)
            radius_px = opened.radius_px(torch.add(*state.references) / 2, early)
            inputs = screened_inputs(opened, screening, inputs.half, radius_px, EventLog())

    output.mkdir(parents=True, exist_ok=True)
    if overwrite:
        clear_run(output)
    save_settings(output / "settings.toml", settings)
    write_manifest(output, settings, opened.table.stacks, opened.device)
    events = EventLog(output / "events.jsonl")
    for event in held:  # what happened before there was a folder
        if event["kind"] != "progress":
            events.emit(
                event["kind"], **{k: v for k, v in event.items() if k not in ("kind", "time")}
            )
    for listener in listeners:
        events.subscribe(listener)
    events.emit(
        "start",
        n_particles=len(opened.table),
        n_used=len(inputs.table),
        box_px=inputs.size_px,
        voxel_A=inputs.voxel_A,
        symmetry=inputs.group.name,
        radius_A=inputs.geometry.radius_A,
        n_half1=int((inputs.half == 1).sum()),
        n_half2=int((inputs.half == 2).sum()),
        threads=threads,
        device=device_name(opened.device),
    )
    tell_memory(events, inputs.memory)
    constants = _constants(inputs, screening)
    _commit(output, inputs, state, constants, clock, finished=False)
    return _loop(output, inputs, state, constants, clock, events, reporter)


def resume(
    output: Path,
    *,
    listeners: tuple[Callable[[dict[str, Any]], None], ...] = (),
    reporter: Reporter | None = None,
) -> dict[str, Any]:
    """Continue a run from its last whole iteration, with its own settings.

    A run that has ended is left as it is. The result is the same, bit by bit, as that of a run
    that was never stopped, given the same number of threads.

    Raises
    ------
    InputError
        If the folder holds no run, or its inputs have changed.
    """
    done = committed_iterations(output)
    if not done or not (output / "settings.toml").exists():
        raise InputError(
            "no run to resume", where=str(output), do="start one with 'cryorefine refine'"
        )
    settings = make_settings(load_settings(output / "settings.toml"), where=str(output))
    use_threads(settings.threads)
    state, arrays = load_state(output, done[-1])
    clock = Clock(*arrays["spent_s"].tolist())
    opened = open_inputs(settings)
    reasons = tuple(str(r) for r in arrays["reasons"])
    if len(reasons) != len(opened.table):
        raise InputError(
            f"the particle file has {len(opened.table)} particles, the run started with "
            f"{len(reasons)}",
            where=str(settings.particles),
            do="restore the file the run was started with",
        )
    screening = Screening(
        ImageStatistics(torch.from_numpy(arrays["mean"]), torch.from_numpy(arrays["std"])), reasons
    )
    quiet = EventLog()
    inputs = screened_inputs(opened, screening, arrays["half"], float(arrays["radius_px"]), quiet)
    events = EventLog(output / "events.jsonl")
    for listener in listeners:
        events.subscribe(listener)
    events.emit("resume", iteration=state.iteration)
    tell_memory(events, inputs.memory)
    constants = _constants(inputs, screening)
    return _loop(output, inputs, state, constants, clock, events, reporter)


@contextmanager
def _interruptible(safe: str) -> Iterator[None]:
    """Turn Ctrl-C and a full or lost disk into a clean stop that says what is safe."""
    try:
        yield
    except KeyboardInterrupt:
        raise StoppedEarly(f"stopped by the user; {safe}") from None
    except OSError as error:
        if error.errno not in _DISK_TROUBLE:
            raise
        raise StoppedEarly(f"{error.filename or 'writing'}: {error.strerror}; {safe}") from None


def _constants(inputs: Inputs, screening: Screening) -> dict[str, np.ndarray]:
    """Return what every checkpoint carries, so that the latest one alone is enough to resume."""
    return {
        "half": inputs.half,
        "mean": screening.statistics.mean.numpy(),
        "std": screening.statistics.std.numpy(),
        "reasons": np.array(screening.reasons),
        "radius_px": np.array(inputs.radius_px),
        "voxel_A": np.array(inputs.voxel_A),
    }


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
    extra = {**constants, "spent_s": np.array(clock.read())}
    folder = save_state(
        output,
        state,
        extra,
        lambda part: write_iteration_files(part, inputs, state, summary),
    )
    publish(output, folder, inputs)
    prune_references(output, state.iteration)
    return summary


def _loop(
    output: Path,
    inputs: Inputs,
    state: State,
    constants: dict[str, np.ndarray],
    clock: Clock,
    events: EventLog,
    reporter: Reporter | None,
) -> dict[str, Any]:
    settings, geometry = inputs.settings, inputs.geometry
    report = _Report(output, reporter)
    summary = summarise(inputs, state, clock, finished=True)
    sampling = next_sampling(settings, geometry, state.history)
    while sampling is not None:
        safe = f"{state.iteration} iterations are safe; go on with 'cryorefine resume {output}'"
        try:
            with _interruptible(safe):
                events.emit("iteration_start", **dataclasses.asdict(sampling))
                state = iterate(inputs, state, sampling, events)
                sampling = next_sampling(settings, geometry, state.history)
                finished = sampling is None
                summary = _commit(output, inputs, state, constants, clock, finished=finished)
                _tell_iteration(events, state, summary)
                if not finished:
                    report.write_if_cheap()
        except StoppedEarly as stop:
            with suppress(OSError):  # the disk may be what stopped it
                events.emit("stopped", message=str(stop))
                report.write()
            raise
    events.emit("end", **summary)
    report.write()
    return summary


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


def _tell_iteration(events: EventLog, state: State, summary: dict[str, Any]) -> None:
    """Emit what an iteration reached; numbers that do not exist are left out."""
    record = dataclasses.asdict(state.history[-1])
    known = {k: v for k, v in record.items() if not (isinstance(v, float) and math.isnan(v))}
    spent = {k: summary[k] for k in ("resolution_unmasked_A", "cpu_s", "wall_s")}
    events.emit("iteration", **known, **spent)
