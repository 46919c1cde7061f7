"""What the values of a checkpoint have to be, so that a run can go on from it.

Shapes and types are looked at where arrays are read; here is what the numbers mean. Entries have
the names of their arrays in the file.
"""

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from cryorefine.reconstruct.solve import FoldedSums
from cryorefine.records.checkpoint_record import Checkpoint, SegmentConstants
from cryorefine.records.particle_registry import ParticleRegistry
from cryorefine.state.plan import IterationRecord
from cryorefine.state.state import Evaluation, Poses, State

__all__ = ["wrong_measurements", "wrong_values"]

Wrong = Iterator[tuple[str, str, str]]
"""Entry, what it should be, what it is."""

_ROTATION = 1e-4
"""Largest deviation of a rotation times its transpose from the identity: rounding of a thousand
steps in double precision is a millionth of it."""

_FARTHEST_A = 1e5
"""Largest shift: that of a particle file (``particles.formats.plausible``)."""

_MASK = 1e-3
"""By what a soft mask may leave 0 to 1 where it was resampled."""

_NOT_NEGATIVE = ("median_turn_deg", "median_sigma_rotation_deg")
_FRACTIONS = (
    "jumped_fraction", "share", "missed_fraction", "unsearched_fraction", "undecided_fraction",
)  # fmt: skip
_LENGTHS = ("resolution_A", "align_resolution_A", "reconstruct_resolution_A")


def wrong_values(checkpoint: Checkpoint) -> Wrong:
    """Yield what of a checkpoint cannot be right.

    It says nothing of values that might be right and are not: no checkpoint can tell them.
    """
    state, constants = checkpoint.state, checkpoint.constants
    if not all(math.isfinite(s) and s >= 0 for s in checkpoint.spent_s):
        yield "spent_s", "seconds, 0 or more", str(checkpoint.spent_s)
    yield from _constants(constants)
    yield from _state(state, len(constants.optics))
    yield from wrong_measurements(state.history, state.evaluation)
    yield from _volumes(state, constants.radius_px)
    n = len(constants.half)
    if state.poses is not None:
        yield from _poses("poses_", state.poses, n)
    if state.previous is not None:
        yield from _poses("previous_", state.previous, n)
    if constants.registry is not None:
        yield from _registry(constants, constants.registry)


def wrong_measurements(history: list[IterationRecord], evaluation: Evaluation | None) -> Wrong:
    """Yield what of a run's history, and of what its last iteration measured, cannot be right."""
    for number, record in enumerate(history, 1):
        yield from _record(number, record)
    if (evaluation is not None) != bool(history):
        yield "evaluation", "there after the first iteration, and not before", "otherwise"
    if evaluation is None:
        return
    for name, value in vars(evaluation.curves).items():
        if isinstance(value, Tensor) and not bool(torch.isfinite(value).all()):
            yield f"curve_{name}", "finite numbers", "not"
    resolutions = evaluation.resolution_A, evaluation.resolution_unmasked_A
    if not all(value > 0 for value in resolutions):
        yield "evaluation", "resolutions above 0 Å", str(resolutions)


def _record(number: int, record: IterationRecord) -> Wrong:
    """Yield what of an iteration's record is no record of it."""
    values = dataclasses.asdict(record)
    mode = values.pop("mode")
    if mode not in ("global", "local", "none"):
        yield "history", "of modes global, local and none", f"of mode {_shown(mode)}"
        return
    # Both are there in some records only.
    subset, counts = values.pop("subset"), values.pop("counts")
    values.pop("helix")  # looked at where it is read
    if not all(_is_whole(count) and count >= 0 for count in (subset or 0, *_counted(counts))):
        yield "history", "with counts of particles", "with others"
        return
    for name, value in values.items():
        is_whole = _is_whole(value)
        if not (is_whole or (isinstance(value, float) and name != "iteration")):
            yield "history", f"with a number for {name}", f"with {_shown(value)}"
            return
    if values["iteration"] != number:
        yield "history", "of iterations in order", f"with {_shown(values['iteration'])} as {number}"
    for name in _LENGTHS:
        if not values[name] > 0:
            yield "history", f"with {name} above 0", f"with {_shown(values[name])}"
    for name in (*_NOT_NEGATIVE, *_FRACTIONS):
        if values[name] < 0 or (name in _FRACTIONS and values[name] > 1):
            yield "history", f"with {name} in its range", f"with {_shown(values[name])}"


def _counted(counts: dict[str, Any] | None) -> Iterator[Any]:
    """Yield the numbers of a record of counts, which has some by reason or by half."""
    for value in (counts or {}).values():
        if isinstance(value, dict):
            yield from value.values()
        elif isinstance(value, tuple):
            yield from value
        else:
            yield value


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _shown(value: object) -> str:
    """Return a value for a message; integers may have too many digits to be written."""
    try:
        return repr(value)[:40]
    except (ValueError, RecursionError):
        return "something far too large"


def _constants(constants: SegmentConstants) -> Wrong:
    used = torch.from_numpy(np.flatnonzero(constants.screening.is_usable))
    mean, std = constants.screening.statistics.mean, constants.screening.statistics.std
    if not bool(torch.isin(torch.from_numpy(constants.half), torch.tensor([1, 2])).all()):
        yield "half", "1 or 2 for every particle", "not"
    if not bool(torch.isfinite(mean[used]).all()):
        yield "mean", "finite for every image in use", "not"
    if not _are_positive(std[used]):
        yield "std", "above 0 for every image in use", "not"
    for group in constants.optics:
        if not (0 < group.pixel_A < math.inf and group.box_px > 0):
            yield "optics_pixel_A", "above 0, and so is optics_box_px", f"not, for {group.name}"


def _state(state: State, n_optics: int) -> Wrong:
    if state.iteration != len(state.history):
        yield "iteration", f"{len(state.history)}, as many as the history has", f"{state.iteration}"
    for half, (spectra, scales) in enumerate(zip(state.noise, state.group_scale, strict=True), 1):
        if len(spectra) == 0 or n_optics not in (0, len(spectra)):
            yield f"noise_{half}_0", f"one of {n_optics} spectra", f"one of {len(spectra)}"
        for g, spectrum in enumerate(spectra):
            if len(spectrum) == 0 or not _are_positive(spectrum):
                yield f"noise_{half}_{g}", "variances above 0", "not"
        if not all(0 < scale < math.inf for scale in scales):
            yield "group_scale", "amplitudes above 0", str(scales)[:80]
    for half, share in enumerate(state.own_share or (), 1):
        if len(share) == 0 or not bool((torch.isfinite(share) & (share >= 0)).all()):
            yield f"own_share_{half}", "finite numbers, 0 or more", "not"
    if not (math.isnan(state.start_A) or state.start_A > 0):
        yield "start_A", "a resolution above 0 Å, or none", str(state.start_A)


def _are_positive(values: Float[Tensor, "..."]) -> bool:
    return bool((torch.isfinite(values) & (values > 0)).all())


def _volumes(state: State, radius_px: float) -> Wrong:
    """Yield what of the volumes does not go with the others."""
    size_px = state.references[0].shape[-1]
    if not 0 < radius_px <= size_px:
        yield "radius_px", f"a radius within the box of {size_px} voxels", str(radius_px)
    named = {"reference2.mrc": state.references[1]}
    if state.halves is not None and state.mask is not None:
        named |= {"half1.mrc": state.halves[0], "half2.mrc": state.halves[1]}
        named["mask.mrc"] = state.mask
        if float(state.mask.min()) < -_MASK or float(state.mask.max()) > 1 + _MASK:
            yield "mask.mrc", "0 to 1", f"{float(state.mask.min())} to {float(state.mask.max())}"
    for name, volume in named.items():
        if volume.shape[-1] != size_px:
            yield name, f"of {size_px} voxels a side, as reference1.mrc", f"{volume.shape[-1]}"
    for half, total in enumerate(state.sums or (), 1):
        yield from _sums(half, total, size_px)


def _sums(half: int, total: FoldedSums, size_px: int) -> Wrong:
    side = 2 * total.centre + 1
    if total.weights.shape[:2] != (side, side) or total.weights.shape[2] <= total.centre:
        yield f"centre_{half}", "the middle of the sums", f"{total.centre}"
    if total.size_px != size_px:
        yield f"size_px_{half}", f"{size_px}, as reference1.mrc", f"{total.size_px}"
    if not (0 < total.step < math.inf and 0 < total.max_radius <= size_px and total.passes >= 1):
        yield f"step_{half}", "above 0, as max_radius and passes", "not"
    if not 0 < total.evenness < math.inf:
        yield f"evenness_{half}", "above 0", str(total.evenness)
    finite = torch.isfinite(total.weights).all() & torch.isfinite(total.values).all()
    if not bool(finite & (total.weights >= 0).all()):
        yield f"weights_{half}", "finite numbers, 0 or more, and values finite", "not"


def _poses(prefix: str, poses: Poses, n: int) -> Wrong:
    yield from _pose_numbers(prefix, poses.rotations, poses.shift_A)
    score, weight = poses.scores.score, poses.scores.weight
    if score is not None and bool(torch.isinf(score).any()):
        yield f"{prefix}quality_score", "finite or none", "infinite"
    if weight is not None and bool(((weight < 0) | torch.isinf(weight)).any()):
        yield f"{prefix}quality_weight", "0 or more, or none", "not"
    if poses.scores.fits_nothing is not None and poses.scores.n_effective is None:
        yield f"{prefix}quality_n_effective", "there, as fits_nothing is", "not there"
    if poses.optics is not None and not bool(torch.isfinite(poses.optics).all()):
        yield f"{prefix}optics", "finite numbers", "not"
    others = poses.others
    if others is None:
        return
    if len(others.row) and not _ascend_within(others.row.numpy(), n, is_strict=False):
        yield f"{prefix}others_row", f"rows of {n} particles in order", "not"
    yield from _pose_numbers(f"{prefix}others_", others.rotations, others.shift_A)
    if not bool(((others.probability >= 0) & (others.probability <= 1)).all()):
        yield f"{prefix}others_probability", "0 to 1", "not"


def _pose_numbers(
    prefix: str, rotations: Float[Tensor, "n 3 3"], shift_A: Float[Tensor, "n 2"]
) -> Wrong:
    deviation = (rotations @ rotations.mT - torch.eye(3, dtype=rotations.dtype)).abs()
    is_rotation = (deviation < _ROTATION).all() & (torch.linalg.det(rotations) > 0).all()
    if not bool(torch.isfinite(rotations).all() & is_rotation):
        yield f"{prefix}rotations", "rotations", "not"
    if not bool((shift_A.abs() <= _FARTHEST_A).all()):
        yield f"{prefix}shift_A", f"shifts up to {_FARTHEST_A:g} Å", "not"


def _registry(constants: SegmentConstants, registry: ParticleRegistry) -> Wrong:
    """Yield what of the registry does not go with itself or with the particles in use."""
    n, used = len(registry), np.flatnonzero(constants.screening.is_usable)
    for name, least, end in (
        ("stack_index", 0, len(registry.stacks)),
        ("image_index", 0, np.iinfo(np.int64).max),
        ("micrograph_index", -1, len(registry.micrographs)),
        ("half", 0, 3),
    ):
        values = getattr(registry, name)
        if not ((values >= least) & (values < end)).all():
            yield f"roster_{name}", f"{least} or more, and below {end}", "not"
            return
    if not (registry.half[used] == constants.half).all():
        yield "roster_half", "that of 'half' for every particle in use", "another"
    if not np.isfinite(registry.defocus).all():
        yield "roster_defocus", "finite numbers", "not"
    is_in_order = len(registry.aside) == 0 or _ascend_within(registry.aside, n, is_strict=True)
    if not is_in_order or np.isin(registry.aside, used).any():
        yield "roster_aside", "rows that are not in use, in order", "not"
    if registry.poses is not None:
        yield from _poses("aside_", registry.poses, len(registry.aside))


def _ascend_within(rows: np.ndarray, n: int, *, is_strict: bool) -> bool:
    steps = np.diff(rows)
    is_ascending = (steps > 0).all() if is_strict else (steps >= 0).all()
    return bool(rows[0] >= 0 and rows[-1] < n and is_ascending)
