"""One iteration, as the steps of the method follow each other."""

import dataclasses
import math
from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from cryorefine.assign.align import can_be_tilted
from cryorefine.engine.threads import release_memory
from cryorefine.errors import InputError
from cryorefine.evaluate.coverage import coverage_efficiency
from cryorefine.evaluate.directional import directional_resolution
from cryorefine.evaluate.fsc import FscCurves, fsc, half_map_fsc, level
from cryorefine.events import EventLog
from cryorefine.fourier.filter import low_pass
from cryorefine.kernels.grid import SliceGrid
from cryorefine.masks.soft import solvent_mask
from cryorefine.reconstruct.solve import FoldedSums, solve
from cryorefine.reconstruct.solvent import quieten_solvent
from cryorefine.refine.grey_scale import find_grey_scale
from cryorefine.refine.image_similarity import measure_likeness
from cryorefine.refine.next_reference import shaped_reference
from cryorefine.refine.own_noise_share import kept_noise, own_share
from cryorefine.refine.particle_weights import qualify_and_weigh
from cryorefine.refine.passes import (
    DECIDED,
    WORSE_THAN_RIGHT,
    assign_poses,
    is_assigned,
    is_unsearched,
    reconstruct_halves,
    reference_grid,
)
from cryorefine.refine.pose_uncertainty import calibrate_covariance
from cryorefine.refine.schedule import IterationRecord, Sampling
from cryorefine.refine.state import Evaluation, Inputs, Poses, State, unknown_poses

__all__ = [
    "evaluate_halves",
    "iterate",
    "mixed_sums",
    "reconstruct_start",
    "reference_ssnr",
    "start_from_poses",
]

IsOver = Callable[[list[IterationRecord]], bool]

_MASK_RESOLUTION_A = 15.0
_SHELLS_BEYOND = 3
_UNEVEN, _HARDLY_COVERED = 0.5, 0.1
_MUCH_WORSE = 1.2


def iterate(
    inputs: Inputs, state: State, sampling: Sampling, events: EventLog, *, is_over: IsOver
) -> State:
    """Make one iteration with the particles that it asks for; the others keep what they have.

    ``is_over`` tells from the history whether the run ends: what is only written for people to
    look at is measured then.
    """
    n = len(inputs.table)
    if sampling.subset is not None:
        rows = _drawn(inputs, sampling.subset, sampling.iteration)
    elif sampling.share < 1:
        rows = sampling.rows(n)
    else:
        before = None if state.poses is None else _plain(state.poses)
        return dataclasses.replace(
            _iterate(inputs, state, sampling, events, is_over), previous=before
        )
    poses = None if state.poses is None else state.poses.select(rows)
    previous = None if state.previous is None else state.previous.select(rows)
    part = dataclasses.replace(state, poses=poses, previous=previous)
    after = _iterate(inputs.select(rows), part, sampling, events, is_over)
    if after.poses is None:
        raise AssertionError("an iteration always finds poses")
    before = None
    if poses is not None:
        before = (state.previous or unknown_poses(n)).updated(rows, _plain(poses))
    return dataclasses.replace(
        after,
        poses=(state.poses or unknown_poses(n)).updated(rows, after.poses),
        previous=before,
    )


def _drawn(inputs: Inputs, subset: int, iteration: int) -> np.ndarray:
    """Draw particles of each half at random, ascending; all where there are not more."""
    generator = np.random.default_rng([inputs.settings.seed, iteration])
    rows = [generator.permutation(np.flatnonzero(inputs.half == half))[:subset] for half in (1, 2)]
    return np.sort(np.concatenate(rows))


def _plain(poses: Poses) -> Poses:
    """Return poses without what only the last iteration's are asked for."""
    quality = {name: poses.quality[name] for name in ("score",) if name in poses.quality}
    return Poses(poses.rotations, poses.shift_A, quality)


def _iterate(
    inputs: Inputs, state: State, sampling: Sampling, events: EventLog, is_over: IsOver
) -> State:
    """Assign poses, rebuild both half maps, measure them, and make the next references."""
    first, second = (
        reference_grid(inputs, shaped_reference(inputs, state, half), sampling.align_resolution_A)
        for half in (1, 2)
    )
    grids = first, second
    if not state.is_scaled:
        state, grids = scale_references(inputs, state, grids, sampling, events)
    poses, group_scale, missed_fraction = assign_poses(inputs, state, grids, sampling, events)
    poses = qualify_and_weigh(inputs, state, poses, sampling)
    state = dataclasses.replace(state, group_scale=group_scale)
    release_memory()
    sums, noise = reconstruct_halves(
        inputs,
        state,
        poses,
        grids,
        model_resolution_A=sampling.align_resolution_A,
        resolution_A=sampling.reconstruct_resolution_A,
        weights=poses.quality["weight"].float(),
        events=events,
    )
    if sampling.subset is not None:
        sums = mixed_sums(state.sums, sums, inputs.settings.stochastic_mixing)
    release_memory()
    halves = (solve(sums[0]), solve(sums[1]))
    mask, evaluation = evaluate_halves(
        inputs, halves, poses, limit_A=sampling.reconstruct_resolution_A, seed=sampling.iteration
    )
    ssnr = reference_ssnr(evaluation.curves, evaluation.resolution_A)
    made = [
        _reference(inputs, half, solve(total, ssnr=ssnr), ssnr, evaluation)
        for half, total in zip(halves, sums, strict=True)
    ]
    references = tuple(volume for volume, _ in made)
    first_share, second_share = (
        own_share(inputs, state, poses, half, kept, sampling.reconstruct_resolution_A)
        for half, (_, kept) in enumerate(made, 1)
    )
    release_memory()
    record = _record(inputs, state, poses, sampling, evaluation, missed_fraction)
    if is_over([*state.history, record]):
        # For people to look at: nothing that a further iteration needs.
        evaluation = _measure_directions(inputs, halves, mask, evaluation, events)
        if sampling.mode != "none":
            poses = calibrate_covariance(inputs, state, poses, grids, sampling, events)
        found = measure_likeness(inputs, state, poses, grids, sampling.align_resolution_A, events)
        poses = dataclasses.replace(poses, quality={**poses.quality, **found})
        sigma_deg = _median_sigma_deg(poses)
        record = dataclasses.replace(record, median_sigma_rotation_deg=sigma_deg)
    return State(
        iteration=sampling.iteration,
        poses=poses,
        references=(references[0].cpu(), references[1].cpu()),
        is_scaled=True,
        noise=noise,
        group_scale=group_scale,
        halves=(halves[0].cpu(), halves[1].cpu()),
        mask=mask.cpu(),
        evaluation=evaluation,
        history=[*state.history, record],
        previous=state.previous,
        sums=None if sampling.subset is None else sums,
        # A stochastic run's references hold mixtures of subsets.
        own_share=(first_share, second_share) if sampling.subset is None else None,
        start_A=state.start_A,
    )


def mixed_sums(
    old: tuple[FoldedSums, FoldedSums] | None, new: tuple[FoldedSums, FoldedSums], share: float
) -> tuple[FoldedSums, FoldedSums]:
    """Return ``(1 - share) old + share new``, numerators and denominators alike; new at first.

    Every image then counts by what it says at each frequency, which a mean of maps would not do.
    """
    if old is None:
        return new
    first, second = (
        dataclasses.replace(
            b,
            values=torch.lerp(a.values.to(b.values), b.values, share),
            weights=torch.lerp(a.weights.to(b.weights), b.weights, share),
            evenness=(1 - share) * a.evenness + share * b.evenness,
        )
        for a, b in zip(old, new, strict=True)
    )
    return first, second


def reconstruct_start(inputs: Inputs, state: State, events: EventLog) -> State:
    """Make each half's first reference from the poses in the particle file.

    The noise is the power of the images. The references of a local run are as fine as both half
    maps agree, and so is its first comparison; those of a search, or where an initial low-pass
    was given, are low-passed as an initial map would be. Poses that are kept need neither.
    """
    settings = inputs.settings
    if state.poses is None:
        raise ValueError("the particle file has no poses")
    nyquist_A = inputs.geometry.nyquist_A
    sums, noise = reconstruct_halves(
        inputs,
        state,
        state.poses,
        resolution_A=nyquist_A,
        weights=_known_and_seen(inputs, state.poses),
        events=events,
    )
    halves = (solve(sums[0]), solve(sums[1]))
    _, evaluation = evaluate_halves(inputs, halves, state.poses, limit_A=nyquist_A, seed=0)
    ssnr = reference_ssnr(evaluation.curves, evaluation.resolution_A)
    references = (solve(sums[0], ssnr=ssnr), solve(sums[1], ssnr=ssnr))
    start_A = math.nan
    if settings.starts_from_poses:
        start_A = evaluation.resolution_A
        if start_A >= settings.initial_lowpass_angstrom and not settings.reference:
            events.warn(
                f"{settings.particles}: the half maps of the given poses agree to less than "
                f"{settings.initial_lowpass_angstrom:g} Å, too little to refine them from: search "
                "with --alignment automatic and an initial map (--reference)"
            )
        references = tuple(
            _reference(inputs, half, volume, ssnr, evaluation)[0]
            for half, volume in zip(halves, references, strict=True)
        )
        # Strict readers of the log know no infinity.
        events.emit("start_resolution", resolution_A=start_A if math.isfinite(start_A) else None)
    elif settings.alignment != "none":
        references = tuple(
            low_pass(
                volume,
                voxel_A=inputs.voxel_A,
                resolution_A=settings.initial_lowpass_angstrom,
            )
            for volume in references
        )
    references = (references[0].cpu(), references[1].cpu())
    return dataclasses.replace(
        state, references=references, noise=noise, is_scaled=True, start_A=start_A
    )


def _known_and_seen(inputs: Inputs, poses: Poses) -> Float[Tensor, "n"]:
    """Return 1 for given poses, 0 where there is none or where it is set aside for its tilt."""
    known = torch.from_numpy(~inputs.table.lacks_pose)
    if inputs.settings.alignment in ("local", "none"):
        known &= can_be_tilted(poses.rotations, inputs.group, inputs.tilt_range_rad)
    for half in (1, 2):
        if not known[torch.from_numpy(inputs.half == half)].any():
            raise InputError(
                f"no particle of half {half} has a pose that may be used",
                where=str(inputs.settings.particles),
                do="give poses, other half sets, or wider --min-tilt-deg and --max-tilt-deg",
            )
    return known.float()


def start_from_poses(inputs: Inputs, state: State, events: EventLog) -> State:
    """Begin a local run where its poses are, unless the given reference shows more than they do.

    A reference that was low-passed would send poses that are known finely astray.
    """
    own = reconstruct_start(inputs, state, events)
    lowpass_A = inputs.settings.initial_lowpass_angstrom
    shown = " and ".join(map(str, inputs.settings.reference))
    if own.start_A >= lowpass_A:
        events.warn(
            f"{inputs.settings.particles}: the half maps of the given poses agree to less than "
            f"{lowpass_A:g} Å, and the run begins from {shown}: search with --alignment automatic "
            "if the poses are not to be trusted"
        )
        return state
    events.warn(
        f"{shown}: the given poses support {own.start_A:.2f} Å, and the run begins from their own "
        "half maps instead: give --initial-lowpass-angstrom to begin from the reference"
    )
    return own


def scale_references(
    inputs: Inputs,
    state: State,
    grids: tuple[SliceGrid, SliceGrid],
    sampling: Sampling,
    events: EventLog,
) -> tuple[State, tuple[SliceGrid, SliceGrid]]:
    """Bring references of unknown grey scale to that of the images, each half by its own."""
    found = [find_grey_scale(inputs, state, grids[half - 1], sampling, half) for half in (1, 2)]
    factors = [half.factor for half in found]
    events.emit("grey_scale", half1=factors[0], half2=factors[1])
    for half, factor in enumerate(factors, 1):
        if factor == 0:
            events.warn(
                f"the reference explains nothing in the images of half {half}: is their contrast "
                "inverted (particles must be white), or the initial map the wrong one?"
            )
    references = tuple(
        volume * (factor or 1.0) for volume, factor in zip(state.references, factors, strict=True)
    )
    first, second = (
        dataclasses.replace(grid, values=grid.values * (factor or 1.0))
        for grid, factor in zip(grids, factors, strict=True)
    )
    state = dataclasses.replace(
        state,
        references=references,
        group_scale=(found[0].group_scale, found[1].group_scale),
        shift_sigma_A=(found[0].shift_sigma_A, found[1].shift_sigma_A),
        is_scaled=True,
    )
    return state, (first, second)


def evaluate_halves(
    inputs: Inputs,
    halves: tuple[Float[Tensor, "z y x"], Float[Tensor, "z y x"]],
    poses: Poses,
    *,
    limit_A: float,
    seed: int,
) -> tuple[Float[Tensor, "z y x"], Evaluation]:
    """Measure two half maps.

    The mask is the user's, or found in the average of the halves low-passed to 15 Å.

    Parameters
    ----------
    limit_A
        Half maps are empty beyond this resolution; the curves end there.
    """
    average = torch.add(*halves) / 2
    mask = inputs.mask
    if mask is None:
        mask = _found_mask(inputs, average, limit_A)
    curves = half_map_fsc(halves[0], halves[1], voxel_A=inputs.voxel_A, mask=mask, seed=seed)
    curves = _cut(curves, limit_A)
    criterion = inputs.settings.fsc_criterion
    comparison = None
    if inputs.comparison is not None:
        comparison = fsc(level(average) * mask, inputs.comparison * mask)
    return mask, Evaluation(
        curves=curves,
        resolution_A=curves.resolution_A(criterion),
        resolution_unmasked_A=curves.resolution_A(criterion, curve="unmasked"),
        comparison_fsc=comparison,
        coverage=coverage_efficiency(poses.rotations.to(inputs.device), inputs.group),
    )


def _measure_directions(
    inputs: Inputs,
    halves: tuple[Float[Tensor, "z y x"], Float[Tensor, "z y x"]],
    mask: Float[Tensor, "z y x"],
    evaluation: Evaluation,
    events: EventLog,
) -> Evaluation:
    """Where views are uneven, measure the worst direction, and tell what no mean over all shows."""
    if evaluation.coverage >= _UNEVEN:
        return evaluation
    found = directional_resolution(
        *halves,
        mask,
        evaluation.curves,
        inputs.group,
        voxel_A=inputs.voxel_A,
        threshold=inputs.settings.fsc_criterion,
    )
    if found.worst_A > _MUCH_WORSE * evaluation.resolution_A:
        reach = "nothing" if found.worst_A == math.inf else f"{found.worst_A:.1f} Å"
        events.warn(
            f"preferred views: {evaluation.resolution_A:.2f} Å is the mean over all directions of "
            f"Fourier space; about the direction {found.tilt_deg:.0f}° from the z axis the half "
            f"maps agree to {reach}"
        )
    if evaluation.coverage < _HARDLY_COVERED:
        events.warn(
            f"preferred views: coverage {evaluation.coverage:.2g} leaves the map's extent along "
            "the common view hardly determined; both halves may share an error of it, and of the "
            "poses, that their FSC does not show"
        )
    return dataclasses.replace(evaluation, resolution_worst_A=found.worst_A)


def _found_mask(
    inputs: Inputs, volume: Float[Tensor, "z y x"], limit_A: float
) -> Float[Tensor, "z y x"]:
    mask = solvent_mask(
        volume,
        voxel_A=inputs.voxel_A,
        radius_px=inputs.radius_px,
        resolution_A=max(_MASK_RESOLUTION_A, limit_A),
    )
    return mask if bool((mask > 0).any()) else torch.ones_like(volume)


def _reference(
    inputs: Inputs,
    half: Float[Tensor, "z y x"],
    regularised: Float[Tensor, "z y x"],
    ssnr: Float[Tensor, "s"],
    evaluation: Evaluation,
) -> tuple[Float[Tensor, "z y x"], Float[Tensor, "s"]]:
    """Return a half's next reference, and the share of the half map's noise that it keeps.

    The mask is found in the half itself.
    """
    settings = inputs.settings
    user_mask = inputs.mask if inputs.reference_mask is None else inputs.reference_mask
    if user_mask is not None or settings.reference_shape != "found":
        fraction = _sphere_fraction(inputs) if user_mask is None else float(user_mask.mean())
        return regularised, kept_noise(fraction, ssnr, None)
    curves = evaluation.curves
    end_A = curves.resolution_A(settings.fsc_criterion, curve="outside")
    outside_ssnr = reference_ssnr(curves, end_A, curve="outside")
    mask = _found_mask(inputs, half, evaluation.resolution_A)
    quiet = quieten_solvent(regularised, mask, inside_ssnr=ssnr, outside_ssnr=outside_ssnr)
    return quiet, kept_noise(float(mask.mean()), ssnr, outside_ssnr)


def _sphere_fraction(inputs: Inputs) -> float:
    """Return the share of the box within the particle's radius."""
    return 4 / 3 * np.pi * (min(inputs.radius_px, inputs.size_px / 2) / inputs.size_px) ** 3


def _cut(curves: FscCurves, limit_A: float) -> FscCurves:
    """Zero the curves where the half maps hold nothing, but for what their masks leaked there."""
    beyond = curves.frequency_per_A > (1 / limit_A - 0.5 * curves.frequency_per_A[1])
    if not bool(beyond[:-1].any()):
        return curves  # filled up to Nyquist
    names = ("unmasked", "masked", "randomised", "corrected", "outside")
    values = {name: torch.where(beyond, 0.0, getattr(curves, name)) for name in names}
    return dataclasses.replace(curves, **values)


def reference_ssnr(
    curves: FscCurves, resolution_A: float, *, curve: str = "corrected"
) -> Float[Tensor, "s"]:
    """Return the signal-to-noise ratio of one half map per shell, ``FSC / (1 - FSC)``.

    Zero from three shells beyond the resolution on: there the curve is noise about zero, and its
    accidental peaks would let noise into the reference.
    """
    value = getattr(curves, curve).clamp(0, 0.999)
    end = 1 / resolution_A + _SHELLS_BEYOND * float(curves.frequency_per_A[1])
    value = torch.where(curves.frequency_per_A <= end, value, torch.zeros_like(value))
    return value / (1 - value)


def _record(
    inputs: Inputs,
    state: State,
    poses: Poses,
    sampling: Sampling,
    evaluation: Evaluation,
    missed_fraction: float,
) -> IterationRecord:
    turn, jumped = float("nan"), float("nan")
    fits = poses.quality["fit_z"] > WORSE_THAN_RIGHT
    undecided = (poses.quality["n_effective"] >= DECIDED)[fits]
    if state.poses is not None:
        angle = inputs.group.distance(poses.rotations, state.poses.rotations)
        # The first iteration is compared with the file's poses.
        known = is_assigned(state, len(angle)) if state.history else ~inputs.table.lacks_pose
        if known.any():
            turn = float(torch.rad2deg(angle[torch.from_numpy(known)].median()))
        searched = sampling.is_searched(len(angle)) & known
        # Those that were not searched could not jump; where nobody was, all are counted. Images
        # that fit nothing, or several poses alike, jump for ever and say nothing of the run.
        counted = torch.from_numpy(searched if searched.any() else known)
        counted &= fits & (poses.quality["n_effective"] < DECIDED)
        far = 4 * torch.deg2rad(poses.quality["sigma_rotation_deg"])
        far = far.clamp_min(sampling.align_resolution_A / inputs.geometry.radius_A)
        jumped = float((angle > far)[counted].double().mean()) if counted.any() else 0.0
    return IterationRecord(
        iteration=sampling.iteration,
        mode=sampling.mode,
        resolution_A=evaluation.resolution_A,
        align_resolution_A=sampling.align_resolution_A,
        reconstruct_resolution_A=sampling.reconstruct_resolution_A,
        median_turn_deg=turn,
        jumped_fraction=jumped,
        median_sigma_rotation_deg=_median_sigma_deg(poses),
        share=sampling.share,
        missed_fraction=missed_fraction,
        undecided_fraction=float(undecided.double().mean()) if len(undecided) else 0.0,
        unsearched_fraction=float(is_unsearched(poses, sampling.align_resolution_A).mean()),
    )


def _median_sigma_deg(poses: Poses) -> float:
    return float(poses.quality["sigma_rotation_deg"].median())
