"""A checkpoint's fields as arrays of files, and back: every name and shape that the format has."""

import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cryorefine.assign.particle_optics import N_VALUES
from cryorefine.compiled import for_each
from cryorefine.evaluate.fsc import FscCurves
from cryorefine.io.mrc import read_volume, write_volume
from cryorefine.model.observe import ImageStatistics
from cryorefine.reconstruct.solve import FoldedSums
from cryorefine.records.checkpoint_arrays import (
    CheckpointArrays,
    damage_named,
    read_arrays,
    write_arrays,
)
from cryorefine.records.checkpoint_record import Checkpoint, OpticsSampling, SegmentConstants
from cryorefine.records.checkpoint_values import wrong_measurements, wrong_values
from cryorefine.records.checkpoint_versions import VERSION, migrated
from cryorefine.records.particle_registry import ParticleRegistry
from cryorefine.records.volume_digests import digest_arrays, require_same_volumes
from cryorefine.refine.image_statistics import Screening
from cryorefine.state.counts import counts_from_values
from cryorefine.state.helix import helix_from_values
from cryorefine.state.plan import IterationRecord
from cryorefine.state.scores import ParticleScores
from cryorefine.state.state import Evaluation, OtherPoses, Poses, State

__all__ = ["read_checkpoint", "read_measurements", "write_checkpoint", "write_volumes"]

_ARRAYS = "state.npz"
_SUMS = "sums.npz"
_SAME_VOXEL = 1e-5
"""Relative difference of voxel sizes that are one: headers of maps have them in single
precision."""
_CURVES = ("frequency_per_A", "unmasked", "masked", "randomised", "corrected", "outside")


def write_checkpoint(folder: Path, checkpoint: Checkpoint) -> None:
    """Write all of a checkpoint but its volumes into a folder."""
    state = checkpoint.state
    arrays = {
        **_constants_arrays(checkpoint.constants),
        "spent_s": np.array(checkpoint.spent_s),
        "finished": np.array(checkpoint.is_finished),
        **_state_arrays(state),
        **digest_arrays(state),
    }
    write_arrays(folder / _ARRAYS, arrays)


def write_volumes(folder: Path, checkpoint: Checkpoint) -> None:
    """Write references, half maps, mask and sums of a checkpoint into a folder."""
    state, voxel_A = checkpoint.state, checkpoint.constants.voxel_A
    volumes = {f"reference{half}.mrc": v for half, v in enumerate(state.references, 1)}
    if state.halves is not None and state.mask is not None:
        volumes |= {f"half{half}.mrc": v for half, v in enumerate(state.halves, 1)}
        volumes["mask.mrc"] = state.mask
    for_each(lambda name: write_volume(folder / name, volumes[name], voxel_A), list(volumes))
    if state.sums is not None:
        write_arrays(folder / _SUMS, _sums_arrays(state.sums))


def read_checkpoint(folder: Path, volumes: Callable[[int], Path], *, do: str) -> Checkpoint:
    """Read a checkpoint.

    Parameters
    ----------
    folder
        Where all is but the volumes.
    volumes
        Gives the folder of the volumes, by the iteration that the checkpoint is of.
    do
        What to do about a damaged file.

    Raises
    ------
    InputError
        If a file is damaged, or of a version that this one cannot read, or an array or a value in
        it is not what it has to be.
    """
    arrays = _opened(folder, do)
    constants = _constants(arrays)
    spent_s = arrays.array("spent_s", "number", (2,)).tolist()
    state = _state(arrays, volumes, len(constants.half), do)
    is_finished = bool(arrays.array("finished", "flag"))
    checkpoint = Checkpoint(state, constants, (spent_s[0], spent_s[1]), is_finished)
    for entry, expected, found in wrong_values(checkpoint):
        raise arrays.unexpected(entry, expected, found)
    require_same_volumes(arrays, state)
    return checkpoint


def read_measurements(folder: Path, *, do: str) -> tuple[list[IterationRecord], Evaluation | None]:
    """Read the history in a checkpoint, and what its iteration measured; errors as above."""
    arrays = _opened(folder, do)
    history, evaluation = _history(arrays), _evaluation(arrays)
    for entry, expected, found in wrong_measurements(history, evaluation):
        raise arrays.unexpected(entry, expected, found)
    return history, evaluation


def _opened(folder: Path, do: str) -> CheckpointArrays:
    path = folder / _ARRAYS
    with damage_named(path, do):
        return CheckpointArrays(migrated(read_arrays(path), path), path, do)


def _constants_arrays(constants: SegmentConstants) -> dict[str, np.ndarray]:
    screening, optics = constants.screening, constants.optics
    arrays = {
        "half": constants.half,
        "mean": screening.statistics.mean.numpy(),
        "std": screening.statistics.std.numpy(),
        "reasons": np.array(screening.reasons, np.str_),
        "radius_px": np.array(constants.radius_px),
        "voxel_A": np.array(constants.voxel_A),
    }
    if optics:
        arrays["optics_names"] = np.array([g.name for g in optics], np.str_)
        arrays["optics_pixel_A"] = np.array([g.pixel_A for g in optics])
        arrays["optics_box_px"] = np.array([g.box_px for g in optics])
    if constants.registry is not None:
        arrays.update(_registry_arrays(constants.registry))
    return arrays


def _constants(arrays: CheckpointArrays) -> SegmentConstants:
    reasons = arrays.array("reasons", "text", (None,))
    n = len(reasons)
    statistics = ImageStatistics(
        arrays.real("mean", (n,), dtype=torch.float32),
        arrays.real("std", (n,), dtype=torch.float32),
    )
    return SegmentConstants(
        half=arrays.array("half", "whole", (int((reasons == "").sum()),)),
        screening=Screening(statistics, tuple(str(r) for r in reasons)),
        radius_px=float(arrays.array("radius_px", "number")),
        voxel_A=float(arrays.array("voxel_A", "number")),
        optics=_optics(arrays),
        registry=_registry(arrays, n) if "roster_half" in arrays else None,
    )


def _optics(arrays: CheckpointArrays) -> tuple[OpticsSampling, ...]:
    if "optics_names" not in arrays:
        return ()
    names = arrays.array("optics_names", "text", (None,)).tolist()
    pixels_A = arrays.array("optics_pixel_A", "number", (len(names),)).tolist()
    boxes_px = arrays.array("optics_box_px", "whole", (len(names),)).tolist()
    return tuple(OpticsSampling(*group) for group in zip(names, pixels_A, boxes_px, strict=True))


def _registry_arrays(registry: ParticleRegistry) -> dict[str, np.ndarray]:
    fields = [entry.name for entry in dataclasses.fields(registry) if entry.name != "poses"]
    if not len(registry.coordinates_px):  # of an earlier version
        fields = [name for name in fields if name not in ("coordinates_px", "stack_names")]
    arrays = {f"roster_{name}": getattr(registry, name) for name in fields}
    if registry.poses is not None:
        arrays.update(_poses_arrays(registry.poses, "aside_"))
    return arrays


def _registry(arrays: CheckpointArrays, n_in_file: int) -> ParticleRegistry:
    """Return the registry, which has the particles of the file and those that left the run."""
    image_index = arrays.array("roster_image_index", "whole", (None,))
    n = len(image_index)
    if n < n_in_file:
        raise arrays.unexpected(
            "roster_image_index", f"of {n_in_file} particles or more", f"of {n}"
        )
    aside = arrays.array("roster_aside", "whole", (None,))
    later = {}  # what earlier versions did not know
    if "roster_coordinates_px" in arrays:
        later["coordinates_px"] = arrays.array("roster_coordinates_px", "real", (n, 2))
        later["stack_names"] = arrays.array("roster_stack_names", "text", (None,))
    return ParticleRegistry(
        stacks=arrays.array("roster_stacks", "text", (None,)),
        stack_index=arrays.array("roster_stack_index", "whole", (n,)),
        image_index=image_index,
        micrographs=arrays.array("roster_micrographs", "text", (None,)),
        micrograph_index=arrays.array("roster_micrograph_index", "whole", (n,)),
        half=arrays.array("roster_half", "whole", (n,)),
        defocus=arrays.array("roster_defocus", "real", (n, 3)),
        dropped=arrays.array("roster_dropped", "text", (n,)),
        aside=aside,
        poses=_poses(arrays, "aside_", len(aside)),
        **later,
    )


def _poses_arrays(poses: Poses, prefix: str) -> dict[str, np.ndarray]:
    arrays = {
        f"{prefix}rotations": poses.rotations.numpy(),
        f"{prefix}shift_A": poses.shift_A.numpy(),
    }
    scores = poses.scores.columns()
    arrays.update({f"{prefix}quality_{name}": column.numpy() for name, column in scores.items()})
    if poses.covariance is not None:
        arrays[f"{prefix}covariance"] = poses.covariance.numpy()
    if poses.optics is not None:
        arrays[f"{prefix}optics"] = poses.optics.numpy()
    if poses.others is not None:
        others = vars(poses.others)
        arrays.update({f"{prefix}others_{name}": v.numpy() for name, v in others.items()})
    return arrays


def _poses(arrays: CheckpointArrays, prefix: str, n: int) -> Poses | None:
    """Return the poses of n particles that were saved under a prefix; None if none were."""
    if not arrays.names(prefix):
        return None
    return Poses(
        arrays.real(f"{prefix}rotations", (n, 3, 3)),
        arrays.real(f"{prefix}shift_A", (n, 2)),
        _scores(arrays, f"{prefix}quality_", n),
        arrays.optional_real(f"{prefix}covariance", (n, 5, 5)),
        arrays.optional_real(f"{prefix}optics", (n, N_VALUES)),
        _others(arrays, f"{prefix}others_"),
    )


def _scores(arrays: CheckpointArrays, prefix: str, n: int) -> ParticleScores:
    names, known = arrays.names(prefix), dataclasses.fields(ParticleScores)
    for name in set(names) - {entry.name for entry in known}:
        raise arrays.unexpected(f"{prefix}{name}", "a score that is known", "none")
    return ParticleScores(**{name: arrays.real(f"{prefix}{name}", (n,)) for name in names})


def _others(arrays: CheckpointArrays, prefix: str) -> OtherPoses | None:
    if not arrays.names(prefix):
        return None
    row = arrays.tensor(f"{prefix}row", "whole", (None,))
    return OtherPoses(
        row,
        arrays.real(f"{prefix}rotations", (len(row), 3, 3)),
        arrays.real(f"{prefix}shift_A", (len(row), 2)),
        arrays.real(f"{prefix}probability", (len(row),)),
    )


def _state_arrays(state: State) -> dict[str, np.ndarray]:
    arrays = {
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
    for prefix, poses in (("poses_", state.poses), ("previous_", state.previous)):
        if poses is not None:
            arrays.update(_poses_arrays(poses, prefix))
    if state.evaluation is not None:
        arrays.update(_evaluation_arrays(state.evaluation))
    return arrays


def _state(arrays: CheckpointArrays, volumes: Callable[[int], Path], n_used: int, do: str) -> State:
    iteration = int(arrays.array("iteration", "whole"))
    folder, evaluation = volumes(iteration), _evaluation(arrays)
    n_groups = len(arrays.names("noise_1_"))
    scale = arrays.array("group_scale", "number", (2, n_groups)).tolist()
    halves = mask = None
    with damage_named(folder, do):
        references = _pair(folder, "reference", arrays)
        if evaluation is not None:
            halves = _pair(folder, "half", arrays)
            mask = _volume(folder / "mask.mrc", arrays)

    def noise(half: int) -> tuple[torch.Tensor, ...]:
        names = (f"noise_{half}_{g}" for g in range(n_groups))
        return tuple(arrays.real(name, (None,)) for name in names)

    return State(
        iteration=iteration,
        poses=_poses(arrays, "poses_", n_used),
        references=references,
        is_scaled=bool(arrays.array("is_scaled", "flag")),
        group_scale=(tuple(scale[0]), tuple(scale[1])),
        noise=(noise(1), noise(2)),
        halves=halves,
        mask=mask,
        evaluation=evaluation,
        history=_history(arrays),
        previous=_poses(arrays, "previous_", n_used),
        sums=_sums(folder / _SUMS, do) if arrays.array("has_sums", "flag") else None,
        own_share=_own_share(arrays),
        start_A=float(arrays.array("start_A", "number")),
    )


def _pair(folder: Path, name: str, arrays: CheckpointArrays) -> tuple[torch.Tensor, torch.Tensor]:
    return _volume(folder / f"{name}1.mrc", arrays), _volume(folder / f"{name}2.mrc", arrays)


def _volume(path: Path, arrays: CheckpointArrays) -> torch.Tensor:
    """Read a volume of the checkpoint, which all have one sampling."""
    volume = read_volume(path)
    voxel_A = float(arrays.array("voxel_A", "number"))
    if not math.isclose(volume.voxel_A, voxel_A, rel_tol=_SAME_VOXEL):
        raise arrays.unexpected("voxel_A", f"{volume.voxel_A:g} Å as in {path}", f"{voxel_A:g} Å")
    return volume.data


def _history(arrays: CheckpointArrays) -> list[IterationRecord]:
    text = str(arrays.array("history", "text"))
    try:
        return [
            IterationRecord(
                **{
                    **record,
                    "counts": counts_from_values(record.get("counts")),
                    "helix": helix_from_values(record.get("helix")),
                }
            )
            for record in json.loads(text)
        ]
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise arrays.unexpected("history", "a list of iterations", f"not ({error})") from None


def _evaluation_arrays(evaluation: Evaluation) -> dict[str, Any]:
    curves = evaluation.curves
    arrays = {f"curve_{name}": getattr(curves, name).numpy() for name in _CURVES}
    arrays["evaluation"] = np.array(
        [
            curves.randomised_from_A,
            evaluation.resolution_A,
            evaluation.resolution_unmasked_A,
            evaluation.coverage,
            evaluation.resolution_worst_A,
        ]
    )
    broken = evaluation.symmetry_gain, evaluation.asymmetric_share
    if not math.isnan(evaluation.symmetry_gain):
        arrays["broken_symmetry"] = np.array(broken)
    if evaluation.comparison_fsc is not None:
        arrays["comparison_fsc"] = evaluation.comparison_fsc.numpy()
    return arrays


def _evaluation(arrays: CheckpointArrays) -> Evaluation | None:
    """Return what an iteration measured; None before the first."""
    if "evaluation" not in arrays:
        return None
    numbers = arrays.array("evaluation", "number", (5,)).tolist()
    randomised_from_A, resolution_A, unmasked_A, coverage, worst_A = numbers
    gain = share = math.nan
    if "broken_symmetry" in arrays:
        gain, share = arrays.array("broken_symmetry", "number", (2,)).tolist()
    n = len(arrays.array("curve_frequency_per_A", "real", (None,)))
    curves = FscCurves(
        **{name: arrays.real(f"curve_{name}", (n,)) for name in _CURVES},
        randomised_from_A=randomised_from_A,
    )
    return Evaluation(
        curves=curves,
        resolution_A=resolution_A,
        resolution_unmasked_A=unmasked_A,
        comparison_fsc=arrays.optional_real("comparison_fsc", (n,)),
        coverage=coverage,
        resolution_worst_A=worst_A,
        symmetry_gain=gain,
        asymmetric_share=share,
    )


def _own_share(arrays: CheckpointArrays) -> tuple[torch.Tensor, torch.Tensor] | None:
    if "own_share_1" not in arrays:
        return None
    first = arrays.real("own_share_1", (None,))
    return first, arrays.real("own_share_2", (len(first),))


def _sums_arrays(sums: tuple[FoldedSums, FoldedSums]) -> dict[str, np.ndarray]:
    arrays = {}
    for half, total in enumerate(sums, 1):
        for field in dataclasses.fields(total):
            value = getattr(total, field.name)
            is_tensor = isinstance(value, torch.Tensor)
            arrays[f"{field.name}_{half}"] = value.cpu().numpy() if is_tensor else np.array(value)
    return arrays


def _sums(path: Path, do: str) -> tuple[FoldedSums, FoldedSums]:
    with damage_named(path, do):
        arrays = CheckpointArrays(read_arrays(path), path, do)

    def of_half(half: int) -> FoldedSums:
        weights = arrays.real(f"weights_{half}", (None, None, None), dtype=torch.float32)
        return FoldedSums(
            values=arrays.tensor(f"values_{half}", "complex", tuple(weights.shape)),
            weights=weights,
            centre=arrays.array(f"centre_{half}", "whole").item(),
            step=arrays.array(f"step_{half}", "number").item(),
            size_px=arrays.array(f"size_px_{half}", "whole").item(),
            max_radius=arrays.array(f"max_radius_{half}", "number").item(),
            passes=arrays.array(f"passes_{half}", "whole").item(),
            evenness=arrays.array(f"evenness_{half}", "number").item(),
        )

    return of_half(1), of_half(2)
