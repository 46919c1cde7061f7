"""What a run says of itself through its log: what it works on, what it reaches, what to look at."""

import dataclasses
import json
from pathlib import Path
from typing import Any

from cryorefine.engine.device import device_name
from cryorefine.engine.memory import emit_memory
from cryorefine.engine.threads import threads_of
from cryorefine.events import EventLog, HalvesRestored, IterationDone, RunStarted
from cryorefine.settings import RefineSettings
from cryorefine.state.state import Inputs, State

__all__ = ["emit_iteration", "emit_plans", "emit_restorations", "emit_start", "warn_of_poses"]


def emit_start(events: EventLog, inputs: Inputs) -> None:
    """Emit what a run, or a segment of it, works on."""
    events.emit(
        RunStarted(
            n_particles=len(inputs.table) + len(inputs.rejected),
            n_used=len(inputs.table),
            box_px=inputs.size_px,
            voxel_A=inputs.voxel_A,
            symmetry=inputs.group.name,
            radius_A=inputs.geometry.radius_A,
            n_half1=int((inputs.half == 1).sum()),
            n_half2=int((inputs.half == 2).sum()),
            threads=threads_of(inputs.settings.threads),
            workers=inputs.settings.workers,
            device=device_name(inputs.device),
        )
    )
    if inputs.settings.split == "stochastic":
        events.warn(
            "--split stochastic: half sets are drawn anew at every iteration, so that each half "
            "map's poses were found with images of the other: the FSC shows too good a "
            "resolution, and no overfitting (of 500 simulated particles at SNR 0.02 it told 14.0 "
            "instead of 19.9 Å, for a map no better)"
        )
    emit_plans(events, inputs)


def emit_plans(events: EventLog, inputs: Inputs) -> None:
    """Emit how much memory the run is expected to take."""
    emit_memory(events, inputs.memory)
    if inputs.device_memory is not None:
        emit_memory(events, inputs.device_memory, on_gpu=True)


def emit_iteration(events: EventLog, state: State, summary: dict[str, Any]) -> None:
    """Emit what an iteration reached."""
    record = dataclasses.asdict(state.history[-1])
    spent = {k: summary[k] for k in ("resolution_unmasked_A", "cpu_s", "wall_s")}
    events.emit(IterationDone(**record, **spent))


def emit_restorations(events: EventLog, output: Path) -> None:
    """Emit what was done to the half maps of a finished run, and warn if it mixed them."""
    path = output / "restorations.json"
    if not path.exists():
        return
    record = json.loads(path.read_text(encoding="utf-8"))
    events.emit(HalvesRestored(steps=record["steps"], mixes_halves=record["mixes_halves"]))
    if record["mixes_halves"]:
        mixing = [step["title"] for step in record["steps"] if step["mixes_halves"]]
        events.warn(
            f"{output}: {', '.join(mixing)} has mixed the processed half maps: their FSC "
            "(fsc_processed.star) says nothing of the resolution, which is that of the raw ones"
        )


def warn_of_poses(
    events: EventLog, output: Path, settings: RefineSettings, summary: dict[str, Any]
) -> None:
    """Warn of particles that a finished run found no pose of, or none within the limits."""
    table, n = output / "particles.star", summary["n_half1"] + summary["n_half2"]
    lacking, unchanged = summary["n_without_pose"], summary["n_pose_of_file"]
    if lacking or unchanged:
        what = f"{lacking} have no pose (cryorefineIsAssigned 0)" if lacking else ""
        kept = f"{unchanged} have that of the input file (cryorefinePoseIsFromFile 1)"
        events.warn(
            f"{table}: {lacking + unchanged} of {n} particles were never drawn, "
            f"{what or kept}{f' and {kept}' if what and unchanged else ''}: find their poses with "
            f"'cryorefine resume {output} --alignment global --iterations 1'"
        )
    low, high = settings.tilt_limits_deg
    limits = f"{low:g}° to {high:g}°"
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
