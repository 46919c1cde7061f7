"""Commit an iteration in one step, and read it back.

An iteration's folder is written under a temporary name and renamed when it is whole: a run that
is killed at any moment leaves only whole iterations behind.
"""

import dataclasses
import json
import os
import re
import shutil
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch

from cryorefine.errors import InputError
from cryorefine.evaluate.fsc import FscCurves
from cryorefine.io.atomic import sync_directory
from cryorefine.io.mrc import read_volume, write_volume
from cryorefine.refine.schedule import IterationRecord
from cryorefine.refine.state import Evaluation, State
from cryorefine.refine.tables import as_arrays, from_arrays

__all__ = [
    "committed_iterations",
    "iteration_folder",
    "load_state",
    "prune_references",
    "save_state",
]

_CURVES = ("frequency_per_A", "unmasked", "masked", "randomised", "corrected")


def iteration_folder(run: Path, iteration: int) -> Path:
    """Return the folder of a committed iteration."""
    return run / f"iteration_{iteration:03d}"


def committed_iterations(run: Path) -> list[int]:
    """Return the numbers of all whole iterations of a run, ascending."""
    if not run.is_dir():
        return []
    matches = (re.fullmatch(r"iteration_(\d{3,})", p.name) for p in run.iterdir() if p.is_dir())
    return sorted(int(m.group(1)) for m in matches if m)


def save_state(run: Path, state: State, extra: dict[str, np.ndarray], fill: Any) -> Path:
    """Write a state's folder and commit it.

    Parameters
    ----------
    extra
        Further arrays to keep with the state.
    fill
        Called with the folder before it is committed, to add files to it.

    Returns
    -------
    The committed folder.
    """
    final = iteration_folder(run, state.iteration)
    part = run / f".{final.name}.part"
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir()
    voxel_A = float(extra["voxel_A"])
    for number, volume in enumerate(state.references, 1):
        write_volume(part / f"reference{number}.mrc", volume, voxel_A)
    if state.halves is not None and state.mask is not None:
        for number, volume in enumerate(state.halves, 1):
            write_volume(part / f"half{number}.mrc", volume, voxel_A)
        write_volume(part / "mask.mrc", state.mask, voxel_A)
    arrays: dict[str, Any] = dict(extra)
    arrays["iteration"] = np.array(state.iteration)
    arrays["is_scaled"] = np.array(state.is_scaled)
    arrays["group_scale"] = np.array(state.group_scale)
    arrays["history"] = np.array(json.dumps([dataclasses.asdict(r) for r in state.history]))
    for half, spectra in enumerate(state.noise, 1):
        for g, spectrum in enumerate(spectra):
            arrays[f"noise_{half}_{g}"] = spectrum.numpy()
    if state.poses is not None:
        arrays.update({f"poses_{k}": v for k, v in as_arrays(state.poses).items()})
    if state.evaluation is not None:
        e = state.evaluation
        arrays.update({f"curve_{name}": getattr(e.curves, name).numpy() for name in _CURVES})
        arrays["evaluation"] = np.array(
            [e.curves.randomised_from_A, e.resolution_A, e.resolution_unmasked_A, e.coverage]
        )
        if e.comparison_fsc is not None:
            arrays["comparison_fsc"] = e.comparison_fsc.numpy()
    with open(part / "state.npz", "wb") as file:
        np.savez(file, **arrays)
        file.flush()
        os.fsync(file.fileno())
    fill(part)
    sync_directory(part)
    if final.exists():
        shutil.rmtree(final)
    os.replace(part, final)
    sync_directory(run)
    return final


def prune_references(run: Path, iteration: int) -> None:
    """Remove the references of iterations before the last two: only resuming needs them."""
    for old in committed_iterations(run):
        if old < iteration - 1:
            for number in (1, 2):
                (iteration_folder(run, old) / f"reference{number}.mrc").unlink(missing_ok=True)


def load_state(run: Path, iteration: int) -> tuple[State, dict[str, np.ndarray]]:
    """Read a committed state and the arrays kept with it.

    Raises
    ------
    InputError
        If the folder is damaged.
    """
    folder = iteration_folder(run, iteration)
    try:
        with open(folder / "state.npz", "rb") as raw, np.load(raw, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        return _state(folder, arrays), arrays
    except (OSError, EOFError, ValueError, KeyError, TypeError, BadZipFile) as error:
        reason = f"lacks {error}" if isinstance(error, KeyError) else str(error)
        raise InputError(
            f"the checkpoint cannot be read ({reason})",
            where=str(folder / "state.npz"),
            do="remove this iteration's folder to resume from the one before",
        ) from None


def _state(folder: Path, arrays: dict[str, np.ndarray]) -> State:
    history = [IterationRecord(**record) for record in json.loads(str(arrays["history"]))]
    references = tuple(read_volume(folder / f"reference{n}.mrc").data for n in (1, 2))
    halves = mask = evaluation = None
    if "evaluation" in arrays:
        halves = tuple(read_volume(folder / f"half{n}.mrc").data for n in (1, 2))
        mask = read_volume(folder / "mask.mrc").data
        randomised_from_A, resolution_A, unmasked_A, coverage = arrays["evaluation"].tolist()
        curves = FscCurves(
            **{name: torch.from_numpy(arrays[f"curve_{name}"]) for name in _CURVES},
            randomised_from_A=randomised_from_A,
        )
        comparison = arrays.get("comparison_fsc")
        evaluation = Evaluation(
            curves=curves,
            resolution_A=resolution_A,
            resolution_unmasked_A=unmasked_A,
            comparison_fsc=None if comparison is None else torch.from_numpy(comparison),
            coverage=coverage,
        )
    poses = None
    if "poses_rotations" in arrays:
        poses = from_arrays(
            {k.removeprefix("poses_"): v for k, v in arrays.items() if k.startswith("poses_")}
        )
    n_groups = sum(k.startswith("noise_1_") for k in arrays)
    noise = tuple(
        tuple(torch.from_numpy(arrays[f"noise_{half}_{g}"]) for g in range(n_groups))
        for half in (1, 2)
    )
    return State(
        iteration=int(arrays["iteration"]),
        poses=poses,
        references=references,  # type: ignore[arg-type]
        is_scaled=bool(arrays["is_scaled"]),
        group_scale=(
            tuple(arrays["group_scale"][0].tolist()),
            tuple(arrays["group_scale"][1].tolist()),
        ),
        noise=noise,  # type: ignore[arg-type]
        halves=halves,  # type: ignore[arg-type]
        mask=mask,
        evaluation=evaluation,
        history=history,
    )
