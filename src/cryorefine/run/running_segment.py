"""A segment of a run at work, and committing its iterations with all that resuming needs."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryorefine.engine.clock import Clock
from cryorefine.engine.protocol import Engine
from cryorefine.events import EventLog
from cryorefine.records.checkpoint_record import Checkpoint, OpticsSampling, SegmentConstants
from cryorefine.records.particle_registry import ParticleRegistry
from cryorefine.refine.image_statistics import Screening
from cryorefine.run.checkpoint import prune_iterations, save_state
from cryorefine.run.folder import input_paths, summarise, write_iteration_files
from cryorefine.run.segments import Segment
from cryorefine.state.state import Inputs, State
from cryorefine.storage.publication import publish

__all__ = ["RunningSegment", "commit", "constants_of"]


@dataclass(frozen=True, eq=False)
class RunningSegment:
    """What stays the same while a segment runs, and the state that it goes on from.

    Attributes
    ----------
    constants
        What every checkpoint carries, as :func:`constants_of` returns it.
    """

    output: Path
    segment: Segment
    inputs: Inputs
    state: State
    constants: SegmentConstants
    clock: Clock
    events: EventLog
    engine: Engine


def constants_of(
    inputs: Inputs, screening: Screening, registry: ParticleRegistry
) -> SegmentConstants:
    """Return what every checkpoint of a segment carries."""
    return SegmentConstants(
        half=inputs.half,
        screening=screening,
        radius_px=inputs.radius_px,
        voxel_A=inputs.voxel_A,
        optics=tuple(OpticsSampling(g.name, g.pixel_A, g.box_px) for g in inputs.optics),
        registry=registry,
    )


def commit(running: RunningSegment, state: State, *, finished: bool) -> dict[str, Any]:
    """Commit an iteration, show its results at the top of the run folder, return its summary."""
    output, inputs, clock = running.output, running.inputs, running.clock
    since = running.segment.first_iteration
    summary = summarise(inputs, state, clock, finished=finished)
    save_state(
        output,
        Checkpoint(state, running.constants, clock.read(), finished),
        lambda part: write_iteration_files(part, inputs, state, summary, since=since),
    )
    paths = input_paths(inputs.settings, inputs.table.files)
    publish(output, state.iteration, paths)
    if inputs.settings.intermediate == "remove":
        prune_iterations(output, state.iteration, paths)
    return summary
