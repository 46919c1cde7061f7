"""Rank particles and weigh them: what an iteration says of each beside its pose."""

import math
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from cryorefine.assign.align import can_be_tilted
from cryorefine.errors import InputError
from cryorefine.settings import RefineSettings
from cryorefine.state.earlier_values import earlier_weights
from cryorefine.state.plan import IterationPlan, IterationRecord
from cryorefine.state.scores import ParticleScores, measured
from cryorefine.state.state import Inputs, Poses, State
from cryorefine.weigh.combine import combine
from cryorefine.weigh.cost import cost_weight
from cryorefine.weigh.defocus_groups import defocus_groups
from cryorefine.weigh.ranks import percentiles
from cryorefine.weigh.score_weight import cc_weight
from cryorefine.weigh.ssnr import image_ssnr, ssnr_weight
from cryorefine.weigh.stability import pose_change, stability_weight
from cryorefine.weigh.temperature import angular_temperature

__all__ = ["file_weights", "reconstructed_tilts_rad", "require_weights", "weigh_particles"]

_SSNR_BATCH = 64
"""Images that are read together: 4 MB at 128 px. Not measured; results do not depend on it."""


def weigh_particles(inputs: Inputs, state: State, poses: Poses, plan: IterationPlan) -> Poses:
    """Return poses with changes, percentiles, temperature, partial weights and their product.

    Everything is computed within each half by itself; ``weight`` has mean 1 over a half's
    particles, and is 0 for particles outside the tilts that are reconstructed, and for poses that
    were given outside the tilt limits and kept.

    Raises
    ------
    InputError
        If no particle of a half has any weight.
    """
    n = len(inputs.table)
    earlier = ParticleScores() if state.poses is None else state.poses.scores

    # "cost" is the original protocol's name for the correlation of local iterations.
    is_local = plan.mode == "local"
    correlation = measured(poses.scores.correlation)
    cost = correlation if is_local else _or_unknown(earlier.cost, n)
    max_cc = _or_unknown(earlier.max_cc, n) if is_local else correlation

    angle_diff_deg, shift_diff_A = _change(inputs, state, poses, state.poses)
    angle_diff2_deg, shift_diff2_A = _change(inputs, state, poses, state.previous)
    temperature_deg = angular_temperature(
        earlier.angular_temperature_deg, torch.stack([angle_diff_deg, angle_diff2_deg], 1)
    )

    defocus_A = torch.from_numpy((inputs.table.defocus_u_A + inputs.table.defocus_v_A) / 2)
    half_of = torch.from_numpy(inputs.half).long()
    group = defocus_groups(defocus_A, half_of)
    # Percentiles of one half must not depend on the other, though ranges of defocus are shared.
    ranked = 2 * group + half_of
    cost_percentile, max_cc_percentile = percentiles(cost, ranked), percentiles(max_cc, ranked)
    scores = poses.scores.replace(
        cost=cost,
        max_cc=max_cc,
        angle_diff_deg=angle_diff_deg,
        shift_diff_A=shift_diff_A,
        angle_diff2_deg=angle_diff2_deg,
        shift_diff2_A=shift_diff2_A,
        angular_temperature_deg=temperature_deg,
        defocus_group=(group + 1).double(),
        cost_percentile=cost_percentile,
        max_cc_percentile=max_cc_percentile,
        percentile=cost_percentile if is_local else max_cc_percentile,
        ssnr_dB=_ssnr(inputs, earlier),
    )
    is_in_range = can_be_tilted(poses.rotations, inputs.group, inputs.tilt_range_rad)
    _check_tilts(inputs, is_in_range, "min_tilt_deg", "max_tilt_deg")
    is_in_range &= can_be_tilted(
        poses.rotations, inputs.group, reconstructed_tilts_rad(inputs.settings)
    )
    _check_tilts(inputs, is_in_range, "reconstruct_min_tilt_deg", "reconstruct_max_tilt_deg")
    usable = is_in_range.double()
    given = file_weights(inputs, state.history)
    if given is not None:
        usable = usable * given
        require_weights(inputs, usable)
    for half in (1, 2):
        mine = torch.from_numpy(inputs.half == half)
        found = _weights_of_half(inputs, scores.select(mine), usable[mine], half)
        zeros = torch.zeros(n, dtype=torch.float64)
        scores = scores.replace(
            **{
                name: scores.columns().get(name, zeros).masked_scatter(mine, values)
                for name, values in found.items()
            }
        )
    return replace(poses, scores=scores)


def _or_unknown(column: Float[Tensor, "n"] | None, n: int) -> Float[Tensor, "n"]:
    return torch.full((n,), torch.nan, dtype=torch.float64) if column is None else column


def _weights_of_half(
    inputs: Inputs, scores: ParticleScores, usable: Float[Tensor, "m"], half: int
) -> dict[str, Float[Tensor, "m"]]:
    """Return the partial weights of a half's m particles, and the product of those in use."""
    settings = inputs.settings
    partial = {
        "weight_cost": cost_weight(measured(scores.cost)),
        "weight_stability": stability_weight(measured(scores.angle_diff_deg))
        * stability_weight(measured(scores.angle_diff2_deg)),
        "weight_cc": cc_weight(measured(scores.percentile), minimum=settings.min_cc_weight),
    }
    if scores.ssnr_dB is not None:
        partial["weight_ssnr"] = ssnr_weight(scores.ssnr_dB)
    requested = {
        "weight_cost": settings.weight_cost,
        "weight_stability": settings.weight_stability,
        "weight_cc": settings.weight_cc,
        "weight_ssnr": settings.weight_ssnr,
    }
    active = [partial[name] for name, is_requested in requested.items() if is_requested]
    try:
        partial["weight"] = combine(usable, *active)
    except ValueError as error:
        do = "leave out one of the weights"
        raise InputError(str(error), where=f"half {half}", do=do) from None
    return partial


def file_weights(inputs: Inputs, history: list[IterationRecord]) -> Float[Tensor, "n"] | None:
    """Return the particle file's weights if a reconstruction is to use them, else None.

    Poses that this run has found are weighed anew, and weights that are asked for replace those of
    the file.
    """
    s = inputs.settings
    weighs = s.weight_ssnr or s.weight_cost or s.weight_stability or s.weight_cc
    has_moved = any(record.mode != "none" for record in history)
    if s.alignment != "none" or weighs or has_moved:
        return None
    return earlier_weights(inputs.table)


def require_weights(inputs: Inputs, weights: Float[Tensor, "n"]) -> None:
    """Refuse weights of the particle file that leave a half without particles."""
    for half in (1, 2):
        if not (weights[torch.from_numpy(inputs.half == half)] > 0).any():
            raise InputError(
                f"no particle of half {half} that may be used has a weight (cryorefineWeight)",
                where=str(inputs.settings.particles),
                do="say --no-file-weights to count all particles alike",
            )


def _change(
    inputs: Inputs, state: State, poses: Poses, other: Poses | None
) -> tuple[Float[Tensor, "n"], Float[Tensor, "n"]]:
    """Return how far poses lie from those of an earlier iteration: degrees, ångströms."""
    angle_deg = torch.full((len(poses.rotations),), torch.nan, dtype=torch.float64)
    shift_A = angle_deg.clone()
    if other is not None:
        # Poses of the particle file are compared with in the first iteration only.
        given = torch.from_numpy(~inputs.table.lacks_pose)
        known = other.is_assigned if state.history else given
        angle_deg[known], shift_A[known] = pose_change(
            poses.rotations[known],
            poses.shift_A[known],
            other.rotations[known],
            other.shift_A[known],
            inputs.group,
        )
    return angle_deg, shift_A


def reconstructed_tilts_rad(settings: RefineSettings) -> tuple[float, float]:
    """Return the viewing tilts that are reconstructed."""
    return (
        math.radians(settings.reconstruct_min_tilt_deg),
        math.radians(settings.reconstruct_max_tilt_deg),
    )


def _check_tilts(inputs: Inputs, is_in_range: Bool[Tensor, "n"], low: str, high: str) -> None:
    """Refuse limits that leave a half without particles."""
    for half in (1, 2):
        if not is_in_range[torch.from_numpy(inputs.half == half)].any():
            least, most = getattr(inputs.settings, low), getattr(inputs.settings, high)
            raise InputError(
                f"no particle of half {half} has a tilt from {least:g}° to {most:g}°",
                where=", ".join(f"--{name.replace('_', '-')}" for name in (low, high)),
                do="give a wider range",
            )


def _ssnr(inputs: Inputs, earlier: ParticleScores) -> Float[Tensor, "n"] | None:
    """Return the images' signal-to-noise ratio where weights ask for it; it never changes."""
    if not inputs.settings.weight_ssnr:
        return earlier.ssnr_dB
    found = _or_unknown(earlier.ssnr_dB, len(inputs.table))
    missing = found.isnan().numpy()
    if not missing.any():
        return found
    found = found.clone()
    for g, optics in enumerate(inputs.optics):
        rows = np.flatnonzero(missing & (inputs.table.optics_index == g))
        radius_px = inputs.radius_px * inputs.voxel_A / optics.pixel_A
        for part, images in inputs.images.batches(rows, _SSNR_BATCH, inputs.device):
            values = image_ssnr(images, radius_px=radius_px, pixel_A=optics.pixel_A)
            found[torch.from_numpy(part)] = values.double().cpu()
    return found
