"""What a run's particle tables hold, and writing them."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from cryorefine.assign.particle_optics import magnification_matrix, with_defocus_change
from cryorefine.geometry.rotation import euler_from_matrix
from cryorefine.particles.formats.relion import write_relion
from cryorefine.state.scores import ParticleScores, measured
from cryorefine.state.state import Inputs, Poses

__all__ = [
    "QUALITY_COLUMNS",
    "without_pose",
    "write_particle_table",
    "write_rejected_table",
    "write_undecided_table",
]

QUALITY_COLUMNS = {
    "score": "cryorefineScore",
    "gap": "cryorefineScoreGap",
    "n_effective": "cryorefineEffectivePoses",
    "probability": "cryorefinePoseProbability",
    "fit_z": "cryorefineFitZ",
    "fits_nothing": "cryorefineFitsNothing",
    "searched_A": "cryorefineSearchedAngstrom",
    "correlation": "cryorefineCorrelation",
    "scale": "cryorefineScale",
    "sigma_rotation_deg": "cryorefineSigmaRotationDeg",
    "sigma_shift_A": "cryorefineSigmaShiftA",
    "at_shift_limit": "cryorefineShiftAtLimit",
    "at_tilt_limit": "cryorefineTiltAtLimit",
    "max_cc": "cryorefineMaxCC",
    "max_cc_percentile": "cryorefineMaxCCPercentile",
    "cost": "cryorefineCost",
    "cost_percentile": "cryorefineCostPercentile",
    "percentile": "cryorefinePercentile",
    "defocus_group": "cryorefineDefocusGroup",
    "correlation_index": "cryorefineCorrelationIndex",
    "correlation_mask": "cryorefineCorrelationMask",
    "correlation_weight": "cryorefineCorrelationWeight",
    "imed": "cryorefineImed",
    "angle_diff_deg": "cryorefineAngleDiffDeg",
    "shift_diff_A": "cryorefineShiftDiffA",
    "angle_diff2_deg": "cryorefineAngleDiff2Deg",
    "shift_diff2_A": "cryorefineShiftDiff2A",
    "angular_temperature_deg": "cryorefineAngularTemperatureDeg",
    "ssnr_dB": "cryorefineSsnrDecibel",
    "weight_ssnr": "cryorefineWeightSsnr",
    "weight_cost": "cryorefineWeightCost",
    "weight_stability": "cryorefineWeightStability",
    "weight_cc": "cryorefineWeightCC",
    "weight": "cryorefineWeight",
    "is_in_maps": "cryorefineIsInMaps",
}
"""Columns of :class:`~cryorefine.state.scores.ParticleScores` and their STAR labels."""

_WHOLE_NUMBERS = (
    "at_shift_limit", "at_tilt_limit", "defocus_group", "fits_nothing", "is_in_maps",
)  # fmt: skip
_OF_ONE_RUN = ("cryorefinePoseIsFromFile", "cryorefineIsInMaps", "cryorefineDefocusChange")
"""Columns that say nothing beyond the run that wrote them; the defocus itself is RELION's."""
_AXES = ("RX", "RY", "RZ", "X", "Y")
_NO_COMPETITOR = 1e6  # stands for an infinite gap in the file, which holds plain numbers only


def write_particle_table(path: Path, inputs: Inputs, poses: Poses) -> None:
    """Write all usable particles with their poses, halves and quality measures.

    ``cryorefineIsAssigned`` is 0 where the angles are no pose: neither this run has found one nor
    the input file had one. Measures are 0 for particles that an unfinished run has not come to yet,
    and where there is nothing to measure: changes of a pose that had no other before. What an
    earlier run has measured stays where this one has not.
    """
    table = inputs.table
    if poses.optics is not None:
        own = with_defocus_change(table.defocus(np.arange(len(table)), torch.float64), poses.optics)
        table = replace(
            table,
            defocus_u_A=own.u_A.numpy(),
            defocus_v_A=own.v_A.numpy(),
            defocus_angle_rad=own.angle_rad.numpy(),
        )
    table = replace(
        table,
        euler_rad=euler_from_matrix(poses.rotations).numpy(),
        shift_A=poses.shift_A.numpy(),
        has_pose=True,
        half_set=inputs.half,
        is_unassigned=without_pose(inputs, poses),
    )
    is_found = poses.is_assigned.numpy()
    quality = {
        "cryorefinePoseIsFromFile": (~is_found & ~table.is_unassigned).astype(np.int64),
    }
    quality.update(_score_columns(poses.scores, table.earlier))
    if poses.covariance is not None:
        quality.update(_covariance_columns(poses.covariance))
    if poses.optics is not None:
        quality.update(_optics_columns(poses.optics))
    left = {k: v for k, v in table.earlier.items() if k not in quality and k not in _OF_ONE_RUN}
    write_relion(path, table, quality={**quality, **left})


def _score_columns(scores: ParticleScores, earlier: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return scores by label; where nothing was measured, those of an earlier run, or 0."""
    columns = scores.columns()
    found = {}
    for name, label in QUALITY_COLUMNS.items():
        if name not in columns:
            continue
        values = columns[name].clamp(-_NO_COMPETITOR, _NO_COMPETITOR).numpy()
        known = earlier.get(label) if label not in _OF_ONE_RUN else None
        values = np.where(np.isnan(values), 0.0 if known is None else known, values)
        found[label] = values.astype(np.int64) if name in _WHOLE_NUMBERS else values
    return found


def without_pose(inputs: Inputs, poses: Poses) -> np.ndarray:
    """Tell which particles have neither a pose of this run nor one of its file: (n,) bool."""
    return ~poses.is_assigned.numpy() & inputs.table.lacks_pose


def _covariance_columns(covariance: Float[Tensor, "n 5 5"]) -> dict[str, np.ndarray]:
    """Return the upper triangle by label: rotation about the image's axes in °, shift in Å."""
    unit = torch.tensor([np.rad2deg(1.0)] * 3 + [1.0] * 2, dtype=covariance.dtype)
    scaled = (covariance * unit * unit[:, None]).nan_to_num(0.0).numpy()
    return {
        f"cryorefineCovariance{_AXES[a]}{_AXES[b]}": scaled[:, a, b]
        for a in range(5)
        for b in range(a, 5)
    }


def _optics_columns(optics: Float[Tensor, "n v"]) -> dict[str, np.ndarray]:
    """Return the particles' own values by label; the defocus is in RELION's columns as well."""
    matrix = magnification_matrix(optics)
    columns = {
        "cryorefineGreyScale": 1 + optics[:, 0],
        "cryorefineGreyOffset": optics[:, 1],
        "cryorefineMagnificationXX": matrix[:, 0, 0],
        "cryorefineMagnificationXY": matrix[:, 0, 1],
        "cryorefineMagnificationYY": matrix[:, 1, 1],
        "cryorefineDefocusChange": optics[:, 5],
    }
    return {label: values.numpy() for label, values in columns.items()}


def write_undecided_table(path: Path, inputs: Inputs, poses: Poses) -> None:
    """Write all poses, and their probabilities, of the particles that have several."""
    others = poses.others
    if others is None:
        raise ValueError("every particle has one pose")
    best = others.row.unique()
    row = torch.cat([best, others.row])
    probability = torch.cat([measured(poses.scores.probability)[best], others.probability])
    order = torch.from_numpy(np.lexsort((-probability.numpy(), row.numpy())))
    rotations = torch.cat([poses.rotations[best], others.rotations])[order]
    shift_A = torch.cat([poses.shift_A[best], others.shift_A])[order]
    chosen = row[order].numpy()
    table = replace(
        inputs.table.select(chosen),
        euler_rad=euler_from_matrix(rotations).numpy(),
        shift_A=shift_A.numpy(),
        has_pose=True,
        half_set=inputs.half[chosen],
    )
    quality = {QUALITY_COLUMNS["probability"]: probability[order].numpy()}
    write_relion(path, table, quality=quality)


def write_rejected_table(path: Path, inputs: Inputs) -> None:
    """Write the particles whose images could not be used, with the reason."""
    reasons = np.array(inputs.rejected_reasons)
    earlier = {k: v for k, v in inputs.rejected.earlier.items() if k not in _OF_ONE_RUN}
    quality = {**earlier, "cryorefineRejectedBecause": reasons}
    write_relion(path, inputs.rejected, quality=quality)
