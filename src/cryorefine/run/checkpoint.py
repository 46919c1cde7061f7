"""Commit an iteration in one step, and read it back; the same for where a segment begins.

A folder is written under a temporary name and renamed when it is whole: a run that is killed at
any moment leaves only whole iterations behind.
"""

import dataclasses
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch
from torch import Tensor

from cryorefine.errors import InputError
from cryorefine.evaluate.fsc import FscCurves
from cryorefine.io.atomic import sync_directory
from cryorefine.io.mrc import read_volume, write_volume
from cryorefine.reconstruct.solve import FoldedSums
from cryorefine.records.particle_tables import as_arrays, from_arrays
from cryorefine.run.checkpoint_versions import VERSION, migrated
from cryorefine.state.plan import IterationRecord
from cryorefine.state.state import Evaluation, Poses, State
from cryorefine.storage.layout import (
    ITERATION_FILES,
    SEGMENT_FILES,
    committed_iterations,
    is_of_a_run,
    iteration_folder,
    segment_folder,
)
from cryorefine.storage.removal import remove_folder

__all__ = [
    "committed_iterations",
    "iteration_folder",
    "load_measurements",
    "load_start",
    "load_state",
    "prune_references",
    "save_start",
    "save_state",
    "segment_folder",
]

_CURVES = ("frequency_per_A", "unmasked", "masked", "randomised", "corrected", "outside")


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
    part = _new_part(final)
    voxel_A = float(extra["voxel_A"])
    for number, volume in enumerate(state.references, 1):
        write_volume(part / f"reference{number}.mrc", volume, voxel_A)
    if state.halves is not None and state.mask is not None:
        for number, volume in enumerate(state.halves, 1):
            write_volume(part / f"half{number}.mrc", volume, voxel_A)
        write_volume(part / "mask.mrc", state.mask, voxel_A)
    if state.sums is not None:
        _write_arrays(part / "sums.npz", _sums_arrays(state.sums))
    _write_arrays(part / "state.npz", {**extra, **_arrays(state)})
    fill(part)
    return _committed(part, final)


def save_start(
    run: Path, number: int, state: State, extra: dict[str, np.ndarray], fill: Any
) -> Path:
    """Write what a segment begins with: all but the volumes, which are those of the last iteration.

    It counts for nothing until the list of segments names it.

    Parameters
    ----------
    number
        Of the segment, from 2.
    extra, fill
        As for :func:`save_state`.
    """
    final = segment_folder(run, number)
    part = _new_part(final)
    _write_arrays(part / "state.npz", {**extra, **_arrays(state)})
    fill(part)
    return _committed(part, final)


def _new_part(final: Path) -> Path:
    part = final.with_name(f".{final.name}.part")
    remove_folder(part, (*SEGMENT_FILES, *ITERATION_FILES))
    part.mkdir(exist_ok=True)
    return part


def _committed(part: Path, final: Path) -> Path:
    sync_directory(part)
    if is_of_a_run(final):  # what a segment that never began has left
        remove_folder(final, (*ITERATION_FILES, *SEGMENT_FILES))
    with suppress(OSError):
        final.rmdir()  # empty: whoever was to remove it was killed before
    if os.path.lexists(final):
        raise InputError(
            "is in the way, and is not of this run",
            where=str(final),
            do="give it another name and resume the run",
        )
    os.replace(part, final)
    sync_directory(final.parent)
    return final


def _write_arrays(path: Path, arrays: dict[str, Any]) -> None:
    with open(path, "wb") as file:
        np.savez(file, **arrays)
        file.flush()
        os.fsync(file.fileno())


def _arrays(state: State) -> dict[str, Any]:
    """Return all of a state but its volumes."""
    arrays: dict[str, Any] = {
        "version": np.array(VERSION),
        "iteration": np.array(state.iteration),
        "is_scaled": np.array(state.is_scaled),
        "has_sums": np.array(state.sums is not None),
        "start_A": np.array(state.start_A),
        "group_scale": np.array(state.group_scale),
        "history": np.array(json.dumps([dataclasses.asdict(r) for r in state.history])),
    }
    for half, spectra in enumerate(state.noise, 1):
        for g, spectrum in enumerate(spectra):
            arrays[f"noise_{half}_{g}"] = spectrum.numpy()
    for half, share in enumerate(state.own_share or (), 1):
        arrays[f"own_share_{half}"] = share.numpy()
    for name in ("poses", "previous"):
        poses = getattr(state, name)
        if poses is not None:
            arrays.update({f"{name}_{k}": v for k, v in as_arrays(poses).items()})
    if state.evaluation is not None:
        e = state.evaluation
        arrays.update({f"curve_{name}": getattr(e.curves, name).numpy() for name in _CURVES})
        arrays["evaluation"] = np.array(
            [
                e.curves.randomised_from_A,
                e.resolution_A,
                e.resolution_unmasked_A,
                e.coverage,
                e.resolution_worst_A,
            ]
        )
        if e.comparison_fsc is not None:
            arrays["comparison_fsc"] = e.comparison_fsc.numpy()
    return arrays


def _sums_arrays(sums: tuple[FoldedSums, FoldedSums]) -> dict[str, Any]:
    out = {}
    for half, total in enumerate(sums, 1):
        for field in dataclasses.fields(total):
            value = getattr(total, field.name)
            is_tensor = isinstance(value, torch.Tensor)
            out[f"{field.name}_{half}"] = value.cpu().numpy() if is_tensor else np.array(value)
    return out


def _read_sums(path: Path) -> tuple[FoldedSums, FoldedSums]:
    arrays = _read_arrays(path)

    def of_half(half: int) -> FoldedSums:
        values = {}
        for field in dataclasses.fields(FoldedSums):
            value = arrays[f"{field.name}_{half}"]
            values[field.name] = torch.from_numpy(value) if value.ndim else value.item()
        return FoldedSums(**values)

    return of_half(1), of_half(2)


def prune_references(run: Path, iteration: int) -> None:
    """Remove references and sums of iterations before the last two: only resuming needs them."""
    for old in committed_iterations(run):
        if old < iteration - 1:
            for name in ("reference1.mrc", "reference2.mrc", "sums.npz"):
                (iteration_folder(run, old) / name).unlink(missing_ok=True)


def load_state(run: Path, iteration: int) -> tuple[State, dict[str, np.ndarray]]:
    """Read a committed state and the arrays kept with it.

    Raises
    ------
    InputError
        If the folder is damaged, or of a version that this one cannot read.
    """
    folder = iteration_folder(run, iteration)
    return _load(folder, None, "remove this iteration's folder to resume from the one before")


def load_measurements(run: Path, iteration: int) -> tuple[list[IterationRecord], Evaluation | None]:
    """Read a run's history up to a committed iteration, and what that one measured.

    Raises
    ------
    InputError
        If the folder is damaged, or of a version that this one cannot read.
    """
    path = iteration_folder(run, iteration) / "state.npz"
    with _damage_named(path, "restore the folder"):
        arrays = migrated(_read_arrays(path), path)
        return _history(arrays), _evaluation(arrays)


def load_start(run: Path, number: int) -> tuple[State, dict[str, np.ndarray]]:
    """Read what a segment began with, and the arrays kept with it.

    Raises
    ------
    InputError
        If its folder, or the iteration before it, is damaged or of a version that this one cannot
        read.
    """
    return _load(segment_folder(run, number), run, "restore the folder")


def _load(folder: Path, run: Path | None, do: str) -> tuple[State, dict[str, np.ndarray]]:
    """Read a folder's arrays, and the volumes beside them or of the run's iteration."""
    path = folder / "state.npz"
    with _damage_named(path, do):
        arrays = migrated(_read_arrays(path), path)
        volumes = folder
        if run is not None:
            volumes = iteration_folder(run, int(arrays["iteration"]))
        return _state(volumes, arrays), arrays


@contextmanager
def _damage_named(path: Path, do: str) -> Iterator[None]:
    """Turn what reading a damaged checkpoint raises into an error that names the file."""
    try:
        yield
    except (OSError, EOFError, ValueError, KeyError, TypeError, BadZipFile) as error:
        reason = f"lacks {error}" if isinstance(error, KeyError) else str(error)
        raise InputError(
            f"the checkpoint cannot be read ({reason})", where=str(path), do=do
        ) from None


def _read_arrays(path: Path) -> dict[str, np.ndarray]:
    with open(path, "rb") as raw, np.load(raw, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


def _poses(arrays: dict[str, np.ndarray], prefix: str) -> Poses | None:
    """Return the poses that were saved under a name."""
    start = f"{prefix}_"
    found = {k.removeprefix(start): v for k, v in arrays.items() if k.startswith(start)}
    return from_arrays(found) if found else None


def _state(folder: Path, arrays: dict[str, np.ndarray]) -> State:
    references = tuple(read_volume(folder / f"reference{n}.mrc").data for n in (1, 2))
    halves = mask = None
    evaluation = _evaluation(arrays)
    if evaluation is not None:
        halves = tuple(read_volume(folder / f"half{n}.mrc").data for n in (1, 2))
        mask = read_volume(folder / "mask.mrc").data
    n_groups = sum(k.startswith("noise_1_") for k in arrays)
    noise = tuple(
        tuple(torch.from_numpy(arrays[f"noise_{half}_{g}"]) for g in range(n_groups))
        for half in (1, 2)
    )
    return State(
        iteration=int(arrays["iteration"]),
        poses=_poses(arrays, "poses"),
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
        history=_history(arrays),
        previous=_poses(arrays, "previous"),
        sums=_read_sums(folder / "sums.npz") if arrays["has_sums"] else None,
        own_share=_own_share(arrays),
        start_A=float(arrays["start_A"]),
    )


def _history(arrays: dict[str, np.ndarray]) -> list[IterationRecord]:
    return [IterationRecord(**record) for record in json.loads(str(arrays["history"]))]


def _evaluation(arrays: dict[str, np.ndarray]) -> Evaluation | None:
    """Return what an iteration measured; None before the first."""
    if "evaluation" not in arrays:
        return None
    randomised_from_A, resolution_A, unmasked_A, coverage, worst_A = arrays["evaluation"].tolist()
    curves = FscCurves(
        **{name: torch.from_numpy(arrays[f"curve_{name}"]) for name in _CURVES},
        randomised_from_A=randomised_from_A,
    )
    comparison = arrays.get("comparison_fsc")
    return Evaluation(
        curves=curves,
        resolution_A=resolution_A,
        resolution_unmasked_A=unmasked_A,
        comparison_fsc=None if comparison is None else torch.from_numpy(comparison),
        coverage=coverage,
        resolution_worst_A=worst_A,
    )


def _own_share(arrays: dict[str, np.ndarray]) -> tuple[Tensor, Tensor] | None:
    if "own_share_1" not in arrays:
        return None
    return torch.from_numpy(arrays["own_share_1"]), torch.from_numpy(arrays["own_share_2"])
