"""A segment of a run at work, and committing its iterations with all that resuming needs."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cryorefine.engine.protocol import Engine
from cryorefine.events import EventLog
from cryorefine.records.particle_registry import ParticleRegistry
from cryorefine.refine.image_statistics import Screening
from cryorefine.run.checkpoint import prune_references, save_state
from cryorefine.run.continuation import optics_arrays
from cryorefine.run.folder import Clock, input_paths, summarise, write_iteration_files
from cryorefine.run.segments import Segment
from cryorefine.state.state import Inputs, State
from cryorefine.storage.publication import publish

__all__ = ["RunningSegment", "commit", "constants_in", "constants_of", "progress_arrays"]


@dataclass(frozen=True, eq=False)
class RunningSegment:
    """What stays the same while a segment runs, and the state that it goes on from.

    Attributes
    ----------
    constants
        Arrays that every checkpoint carries, as :func:`constants_of` returns them.
    """

    output: Path
    segment: Segment
    inputs: Inputs
    state: State
    constants: dict[str, np.ndarray]
    clock: Clock
    events: EventLog
    engine: Engine


def constants_of(
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


def constants_in(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return those arrays of a checkpoint."""
    names = ("half", "mean", "std", "reasons", "radius_px", "voxel_A")
    prefixes = ("optics_", "roster_", "aside_")
    return {k: v for k, v in arrays.items() if k in names or k.startswith(prefixes)}


def progress_arrays(clock: Clock, *, finished: bool) -> dict[str, np.ndarray]:
    """Return what a checkpoint says of how far the run has come."""
    return {"spent_s": np.array(clock.read()), "finished": np.array(finished)}


def commit(running: RunningSegment, state: State, *, finished: bool) -> dict[str, Any]:
    """Commit an iteration, show its results at the top of the run folder, return its summary."""
    output, inputs, clock = running.output, running.inputs, running.clock
    summary = summarise(inputs, state, clock, finished=finished)
    extra = {**running.constants, **progress_arrays(clock, finished=finished)}
    save_state(
        output,
        state,
        extra,
        lambda part: write_iteration_files(part, inputs, state, summary),
    )
    publish(output, state.iteration, input_paths(inputs.settings, inputs.table.stacks))
    if inputs.settings.intermediate == "remove":
        prune_references(output, state.iteration)
    return summary
