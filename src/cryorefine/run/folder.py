"""The run folder: which may be one, and what an iteration leaves behind in it."""

import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cryorefine.compiled import for_each
from cryorefine.engine.clock import Clock
from cryorefine.engine.device import device_name
from cryorefine.engine.device_memory import device_peak_bytes
from cryorefine.engine.memory import peak_bytes
from cryorefine.errors import InputError
from cryorefine.formats.xmipp import without_block
from cryorefine.io.atomic import write_text
from cryorefine.io.mrc import write_volume
from cryorefine.io.output_path import is_there
from cryorefine.records.chimerax_script import write_chimerax_script
from cryorefine.records.fsc_files import write_fsc_of_run
from cryorefine.records.map_files import write_map, write_map_table
from cryorefine.records.methods_text import methods_text, summary_text
from cryorefine.records.particle_statistics import particle_statistics, summary_counts
from cryorefine.records.particle_tables import (
    write_particle_table,
    write_rejected_table,
    write_undecided_table,
)
from cryorefine.records.restored_maps import write_processed
from cryorefine.refine.restoration import process
from cryorefine.refine.split import inputs_of_iteration
from cryorefine.restore.sharpen import guinier_bfactor, sharpen, weight_map
from cryorefine.settings import RefineSettings
from cryorefine.state.state import Inputs, State
from cryorefine.storage.layout import (
    INPUTS,
    LOCK,
    MANIFEST,
    RESULTS,
    RUN_FILES,
    check_no_links,
    committed_iterations,
    is_leftover,
)
from cryorefine.storage.manifest import is_being_filled
from cryorefine.storage.removal import paths_of_run

__all__ = [
    "check_inputs_stay",
    "check_output_folder",
    "input_paths",
    "summarise",
    "write_iteration_files",
]


def check_output_folder(folder: Path, *, overwrite: bool) -> None:
    """Refuse an output folder that holds something.

    What a process that was killed at its very beginning has left is nothing.

    Raises
    ------
    InputError
        If the folder holds a run and ``overwrite`` is not set, or holds anything else, or is a
        file, or cannot be written to.
    """
    if not is_there(folder):
        return
    check_no_links(folder)
    names = [path.name for path in folder.iterdir()]
    if all(name in (INPUTS, LOCK) or is_leftover(name) for name in names):
        return
    if not ((folder / MANIFEST).exists() or committed_iterations(folder)):
        raise InputError(
            "the folder is not empty and holds no cryorefine run",
            where=str(folder),
            do="give a new folder with --output",
        )
    if overwrite:
        return
    if is_being_filled(folder) or not committed_iterations(folder):
        raise InputError(
            "the folder holds a run already, which was stopped before its first iteration began",
            where=str(folder),
            do="say --overwrite, or give another --output",
        )
    raise InputError(
        "the folder holds a run already",
        where=str(folder),
        do="give another --output, continue it with 'cryorefine resume', or say --overwrite",
    )


def check_inputs_stay(folder: Path, settings: RefineSettings, files: tuple[Path, ...]) -> None:
    """Refuse inputs that a run in this folder would remove or replace.

    Raises
    ------
    InputError
        If one lies among the results of the run that is to be overwritten, or is reached by way of
        them.
    """
    folder = folder.resolve()
    replaced = {*paths_of_run(folder), *(folder / name for name in (*RESULTS, *RUN_FILES))}
    for path in input_paths(settings, files):
        # Of "iteration_001/../start.mrc" the folder on the way will be gone.
        ways = {way.resolve() for way in (path, *path.absolute().parents)}
        if ways & replaced:
            raise InputError(
                "an input lies among the results that --overwrite replaces",
                where=str(path),
                do="give another --output, or copy the file to another folder first",
            )


def input_paths(settings: RefineSettings, files: tuple[Path, ...]) -> list[Path]:
    """Return the files that a run reads: those of its settings, and those of the particles."""
    optional = (
        settings.mask,
        settings.reference_mask,
        settings.post_symmetry_mask,
        settings.post_mask,
        settings.compare_to,
    )
    given = [path for path in optional if path is not None]
    return [without_block(settings.particles), *settings.reference, *files, *given]


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None


def summarise(inputs: Inputs, state: State, clock: Clock, *, finished: bool) -> dict[str, Any]:
    """Return the numbers of ``summary.json``; values that do not exist are null."""
    inputs = inputs_of_iteration(inputs, state.iteration)
    wall_s, cpu_s = clock.read()
    e = state.evaluation
    last = state.history[-1] if state.history else None
    return {
        "resolution_A": _number(e.resolution_A) if e else None,
        "resolution_unmasked_A": _number(e.resolution_unmasked_A) if e else None,
        "resolution_worst_A": _number(e.resolution_worst_A) if e else None,
        **summary_counts(inputs, state),
        "iterations": state.iteration,
        "converged": finished and inputs.settings.is_data_driven
        and state.iteration < inputs.settings.max_iterations,
        "finished": finished,
        "median_turn_deg": _number(last.median_turn_deg) if last else None,
        "jumped_fraction": _number(last.jumped_fraction) if last else None,
        "median_sigma_rotation_deg": _number(last.median_sigma_rotation_deg) if last else None,
        "coverage": _number(e.coverage) if e else None,
        "symmetry": inputs.group.name,
        "symmetry_gain_nats": _number(e.symmetry_gain) if e else None,
        "asymmetric_share": _number(e.asymmetric_share) if e else None,
        "helix": asdict(last.helix) if last and last.helix else None,
        "voxel_A": inputs.voxel_A,
        "box_px": inputs.size_px,
        "particle_radius_px": inputs.radius_px,
        "device": device_name(inputs.device),
        "wall_s": wall_s,
        "cpu_s": cpu_s,
        "predicted_peak_bytes": inputs.memory.peak_bytes,
        "peak_rss_bytes": peak_bytes(),
        "device_predicted_peak_bytes": inputs.device_memory and inputs.device_memory.peak_bytes,
        "device_peak_bytes": device_peak_bytes(inputs.device),
    }  # fmt: skip


def write_iteration_files(
    folder: Path, inputs: Inputs, state: State, summary: dict[str, Any], *, since: int = 1
) -> None:
    """Write what people look at: maps, tables, numbers. The checkpoint has the raw halves.

    Parameters
    ----------
    since
        Iteration that began with the settings of ``inputs``.
    """
    inputs = inputs_of_iteration(inputs, state.iteration)
    if len(inputs.rejected):
        write_rejected_table(folder / "rejected_particles.star", inputs)
    if state.evaluation is None or state.mask is None or state.poses is None:
        return
    if state.halves is None:
        return
    for half, volume in enumerate(state.used_references or (), 1):
        write_volume(folder / f"reference{half}_used.mrc", volume, inputs.voxel_A)
    for half, volume in enumerate(state.unsymmetrised or (), 1):
        write_volume(folder / f"half{half}_unsymmetrised.mrc", volume, inputs.voxel_A)
    average, curves = state.average().to(inputs.device), state.evaluation.curves
    fit = guinier_bfactor(average, state.mask.to(inputs.device), curves)
    weighted = weight_map(average, curves)
    sharpened = sharpen(average, curves, voxel_A=inputs.voxel_A, bfactor_A2=fit.bfactor_A2)
    maps = {"map": weighted, "map_average": average, "map_sharpened": sharpened}
    for_each(lambda name: write_map(folder / f"{name}.mrc", maps[name], inputs.voxel_A), [*maps])
    del maps, sharpened
    write_chimerax_script(folder, weighted.cpu(), state.halves, state.mask)
    write_fsc_of_run(folder, state.evaluation)
    write_particle_table(folder / "particles.star", inputs, state.poses)
    if state.poses.others is not None:
        write_undecided_table(folder / "undecided_poses.star", inputs, state.poses)
    full = {**summary, "bfactor_A2": fit.bfactor_A2}
    write_text(folder / "summary.json", json.dumps(full, indent=2) + "\n")
    statistics = particle_statistics(inputs, state)
    write_text(folder / "statistics.json", json.dumps(statistics, indent=2) + "\n")
    write_text(folder / "summary.txt", summary_text(inputs, state, full, statistics))
    write_text(folder / "methods.txt", methods_text(inputs, state, full, statistics, since=since))
    processed = process(inputs, state, weighted, is_last=bool(summary["finished"]))
    if processed is not None:
        write_processed(folder, inputs.voxel_A, curves, processed)
    write_map_table(folder, inputs.voxel_A, state.evaluation.resolution_A)
