"""Find the poses of a batch of images: from scratch, or from where they were."""

import math
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from cryorefine.assign.comparison import Reference, WhitenedImages
from cryorefine.assign.exhaustive import Pruning, search_coarse, within_mass
from cryorefine.assign.search_depth import Search, refinement_shells
from cryorefine.geometry.protocol import Symmetry
from cryorefine.geometry.rotation import (
    euler_from_matrix,
    matrix_from_euler,
    matrix_from_rotvec,
    rotvec_from_matrix,
)
from cryorefine.geometry.segments import HelicalStep
from cryorefine.kernels.dispatch import pick_separated, refine_poses
from cryorefine.kernels.poses import (
    LevenbergMarquardt,
    PoseProblem,
    PoseResult,
    covariance_of,
)

__all__ = [
    "AlignmentOptions",
    "Alternatives",
    "BatchPoses",
    "LocalLimits",
    "align_globally",
    "align_locally",
    "can_be_tilted",
    "is_tilt_allowed",
    "pull_back",
    "score_poses",
    "spread",
]

_NO_RIVAL = 5.0
"""Candidates with no prospect of coming this near to the best log-likelihood of their image are
given up: a pose so much less likely is not told."""

_EVALUATIONS_FIRST, _EVALUATIONS_NEXT, _EVALUATIONS_COARSE, _EVALUATIONS_FINE = 1, 2, 3, 10
"""Evaluations of the likelihood after the first: at the first level of a search, at each later one,
of a restart, and to the maximum at the full band. Levels need not come to a maximum, since all that
is left is refined again; ``search_depth`` has what they were measured to take. Other numbers are
not on record."""

_RESTART_BAND = 3
"""Restarts are tried on this part of the band: coarse shells have the wide maxima that lead a pose
back from beside them. Not measured."""

_SAME_MAXIMUM_STEPS = 0.5
"""Steps of the search's grid within which a candidate counts as having found the previous pose:
half a step is the way to the nearest point of the grid. Not measured."""

_SAME_CANDIDATE = 0.3
"""Distance within which two refined candidates are one, in steps of the grid scaled to the level's
resolution: less than half a step, so that neighbours on the grid stay two. Not measured."""

_SAME_POSE = 0.5
"""Poses nearer to each other than this, in units of the turn that moves the particle's rim by the
resolution, are one."""

_NEGLIGIBLE = 0.02
"""Probability below which a pose is not told, and does not share its image's weight."""

_EVERYTHING = 1e30
"""A window that no log-likelihood leaves, and that single precision can hold."""

_TILT_ROUNDING_RAD = 1e-7
"""Poses on a tilt limit may be so far outside: particle files have six decimals of a degree."""


@dataclass(frozen=True)
class LocalLimits:
    """What a local refinement may change, and how far from where it starts.

    Attributes
    ----------
    turns, moves
        Whether the rotation, and the shift, may change at all.
    max_turn_rad, max_move_px
        Poses end within this of their starts.
    """

    turns: bool = True
    moves: bool = True
    max_turn_rad: float = math.inf
    max_move_px: float = math.inf


@dataclass(frozen=True)
class AlignmentOptions:
    """How a batch is aligned.

    Attributes
    ----------
    max_shift_px
        Shifts stay within this of the image's centre.
    shift_sigma_px
        Standard deviation of the prior on shifts about the centre.
    resolution_turn_rad
        Turn that moves the particle's rim by the resolution: limits a refinement's single steps and
        spaces the restarts of a local search.
    local
        Limits of local refinement.
    step
        Of the helix, its rise in pixels: of poses that it makes alike, that within half a rise
        along the filament is meant. None without a helix.
    tilt_range_rad
        Viewing tilts allowed.
    candidate_window
        Restarts this much log-likelihood below the pose they stand beside are dropped. By Bayes'
        rule a pose that is e^12 times less likely than another on part of the data is the right
        one once in 160,000.
    """

    max_shift_px: float
    shift_sigma_px: float
    resolution_turn_rad: float
    local: LocalLimits = LocalLimits()
    tilt_range_rad: tuple[float, float] = (0.0, math.pi)
    candidate_window: float = 12.0
    step: HelicalStep | None = None


@dataclass(frozen=True, eq=False)
class Alternatives:
    """Poses that compete with the best one of some images.

    Attributes
    ----------
    image_of
        The images they belong to.
    rotations, shifts_px
        The poses.
    probability
        Their share of the posterior.
    """

    image_of: Int[Tensor, "m"]
    rotations: Float[Tensor, "m 3 3"]
    shifts_px: Float[Tensor, "m 2"]
    probability: Float[Tensor, "m"]

    def at(self, chosen: Tensor) -> "Alternatives":
        """Return those that a mask or an index chooses."""
        return Alternatives(**{name: value[chosen] for name, value in vars(self).items()})

    def cpu(self) -> "Alternatives":
        """Return the poses on the CPU."""
        return Alternatives(**{name: value.cpu() for name, value in vars(self).items()})


@dataclass(frozen=True, eq=False)
class BatchPoses:
    """The poses found, one per image.

    Attributes
    ----------
    rotations, shifts_px
        The best pose.
    score
        Its log-likelihood over that of no particle at all.
    gap
        Log-likelihood of the best over the second-best pose apart from it; infinity if none
        competed.
    n_effective
        Effective number of competing poses: exponential of the entropy of their posterior.
    correlation
        Normalised correlation of image and model over the band, noise-weighted.
    scale
        Least-squares amplitude of the model in the image.
    model_power
        Noise-weighted power of the model: the weight of ``scale`` in a least-squares mean.
    covariance
        Of (rotation vector in the image frame in radians, shift in px), from the Gauss-Newton
        matrix.
    sigma_rotation_rad, sigma_shift_px
        Standard deviations from it: of the angle (root mean square over three axes) and of a
        shift component.
    at_edge
        Whether the shift lies on its limit.
    probability
        Share of the posterior that the best pose holds; the rest is that of the alternatives.
    alternatives
        Other poses with a probability of 0.02 or more.
    at_tilt_limit
        Whether the pose lies on a tilt limit, or, where it was only scored, outside of them.
    is_missed
        Whether a search over all orientations would not have found the pose that was known before
        and is the best still.
    """

    rotations: Float[Tensor, "b 3 3"]
    shifts_px: Float[Tensor, "b 2"]
    score: Float[Tensor, "b"]
    gap: Float[Tensor, "b"]
    n_effective: Float[Tensor, "b"]
    correlation: Float[Tensor, "b"]
    scale: Float[Tensor, "b"]
    model_power: Float[Tensor, "b"]
    covariance: Float[Tensor, "b 5 5"]
    sigma_rotation_rad: Float[Tensor, "b"]
    sigma_shift_px: Float[Tensor, "b"]
    at_edge: Bool[Tensor, "b"]
    at_tilt_limit: Bool[Tensor, "b"]
    is_missed: Bool[Tensor, "b"]
    probability: Float[Tensor, "b"]
    alternatives: Alternatives

    def cpu(self) -> "BatchPoses":
        """Return the poses on the CPU."""
        return BatchPoses(**{name: value.cpu() for name, value in vars(self).items()})

    def select(self, index: Int[Tensor, "m"]) -> "BatchPoses":
        """Return those of some images, in that order, without their alternatives."""
        columns = {k: v[index] for k, v in vars(self).items() if k != "alternatives"}
        none = self.alternatives.image_of[:0]
        return BatchPoses(**columns, alternatives=self.alternatives.at(none))

    @staticmethod
    def join(parts: "list[BatchPoses]") -> "BatchPoses":
        """Return the poses of several batches, one after the other, without alternatives."""
        names = [name for name in vars(parts[0]) if name != "alternatives"]
        columns = {name: torch.cat([getattr(part, name) for part in parts]) for name in names}
        none = parts[0].alternatives.image_of[:0]
        return BatchPoses(**columns, alternatives=parts[0].alternatives.at(none))


@dataclass(frozen=True, eq=False)
class _Candidates:
    """Poses that some images may have."""

    image_of: Int[Tensor, "m"]
    rotations: Float[Tensor, "m 3 3"]
    shifts_px: Float[Tensor, "m 2"]

    def at(self, chosen: Tensor) -> "_Candidates":
        """Return those that a mask or an index chooses."""
        return _Candidates(self.image_of[chosen], self.rotations[chosen], self.shifts_px[chosen])

    def followed_by(self, image_of: Tensor, rotations: Tensor, shifts_px: Tensor) -> "_Candidates":
        """Return these and then others."""
        return _Candidates(
            torch.cat([self.image_of, image_of]),
            torch.cat([self.rotations, rotations]),
            torch.cat([self.shifts_px, shifts_px]),
        )


@dataclass(frozen=True)
class _Effort:
    """How far poses are refined.

    Attributes
    ----------
    max_shell
        Images are compared up to here.
    max_evaluations
        Of the likelihood, beside the first; 0: poses are only scored.
    informs
        Whether the result has the information that covariances are made of.
    """

    max_shell: int
    max_evaluations: int
    informs: bool = True


def _refine(
    images: WhitenedImages,
    reference: Reference,
    candidates: _Candidates,
    options: AlignmentOptions,
    effort: _Effort,
    *,
    limits: LocalLimits | None = None,
    floor: Float[Tensor, "m"] | None = None,
) -> PoseResult:
    """Refine poses from where they are, by Levenberg and Marquardt's method.

    ``floor``: candidates with no prospect of this log-likelihood are given up.
    """
    limits, view = limits or LocalLimits(), images.view
    first, last = view.band.prefix(0), view.band.prefix(effort.max_shell)
    shifts_px = candidates.shifts_px
    length = shifts_px.norm(dim=1, keepdim=True)
    shifts_px = shifts_px * (options.max_shift_px / length.clamp_min(1e-30)).clamp(max=1.0)
    own = None
    if images.own is not None:
        own = images.own.beside(
            candidates.rotations, candidates.image_of, reference.symmetry, view, images.c,
            compared=slice(first, last),
        )  # fmt: skip
    problem = PoseProblem(
        x=images.x[:, first:last].contiguous(),
        c=images.c[:, first:last].contiguous(),
        points=view.points[first:last],
        k_px=view.k_px()[first:last],
        image_size_px=view.band.size_px,
        image_of=candidates.image_of,
        rotations=candidates.rotations,
        shifts_px=shifts_px,
        prior_shift_px=torch.zeros(
            len(candidates.image_of), 2, dtype=torch.float64, device=images.device
        ),
        prior_precision=options.shift_sigma_px**-2,
        floor=floor,
        own=own,
    )
    refinement = LevenbergMarquardt(
        max_evaluations=effort.max_evaluations,
        max_shift_px=options.max_shift_px,
        max_turn_rad=options.resolution_turn_rad if limits.turns else 0.0,
        max_move_px=max(1.0, view.band.size_px / (4 * effort.max_shell)) if limits.moves else 0.0,
        informs=effort.informs,
    )
    return refine_poses(reference.grid, problem, refinement)


def _scored(
    images: WhitenedImages,
    reference: Reference,
    candidates: _Candidates,
    options: AlignmentOptions,
) -> PoseResult:
    """Score poses at the full band without changing them."""
    return _refine(images, reference, candidates, options, _Effort(images.last_shell, 0))


def align_globally(
    images: WhitenedImages,
    reference: Reference,
    search: Search,
    options: AlignmentOptions,
    *,
    previous: tuple[Float[Tensor, "b 3 3"], Float[Tensor, "b 2"]] | None = None,
) -> BatchPoses:
    """Find poses without trusting any earlier ones.

    Every orientation and shift is scored at low resolution; all that the posterior does not rule
    out is refined, level by level, at one and a half to twice the resolution of the level before;
    what is left, and the previous pose if there is one, is refined at the full band.

    Parameters
    ----------
    search
        Its slices are those of ``reference``.
    previous
        Rotations and shifts in pixels that compete with what the search finds.
    """
    candidates, score, apart_rad = _finalists(images, reference, search, options)
    leads = torch.zeros(len(score), dtype=torch.bool, device=images.device)
    leads[_padded(candidates.image_of, score, len(images))[:, 0]] = True
    is_found = torch.zeros(len(images), dtype=torch.bool, device=images.device)
    n_new = len(score)
    same_rad = _SAME_MAXIMUM_STEPS * search.table.step_rad
    if previous is not None:
        # A finalist beside the previous pose would be refined to the same maximum.
        before = previous[0][candidates.image_of]
        angle = reference.symmetry.distance(candidates.rotations, before)
        new = angle > _SAME_CANDIDATE * apart_rad
        is_found[candidates.image_of[angle <= same_rad]] = True
        n_new = int(new.sum())
        every = torch.arange(len(images), device=images.device)
        candidates = candidates.at(new).followed_by(every, *previous)
        leads = torch.cat([leads[new], torch.ones_like(every, dtype=torch.bool)])
    final = _refine_to_the_end(images, reference, candidates, leads, options)
    image_of = candidates.image_of
    final, is_inside = _within_tilts(images, reference, image_of, final, options)
    poses = _choose(images, reference, image_of, final, is_inside, options)
    from_search = image_of[:n_new]
    angle = reference.symmetry.distance(final.rotations[:n_new], poses.rotations[from_search])
    is_found[from_search[angle <= same_rad]] = True
    return replace(poses, is_missed=~is_found)


def _finalists(
    images: WhitenedImages, reference: Reference, search: Search, options: AlignmentOptions
) -> tuple[_Candidates, Float[Tensor, "m"], float]:
    """Return what a search leaves before the full band, its scores, and how far it is apart.

    The distance, in radians, is the step of the search's grid scaled to the resolution of the last
    level.
    """
    table, depth, b = search.table, search.depth, len(images)
    symmetry = reference.symmetry
    found = search_coarse(
        table, images.x, images.c, depth.on_grid, shift_precision=options.shift_sigma_px**-2,
        allowed=None if images.axis is None else images.axis.allows(
            table.rotations, table.step_rad
        ),
    )  # fmt: skip
    score = found.score
    candidates = _Candidates(
        found.image_of, table.rotations[found.rotation], table.shifts_px[found.shift]
    )
    coarse_shell = int(images.view.band.shell[table.last - 1])
    apart_rad = table.step_rad
    if depth.apart_rad > 0:
        left = _apart(
            candidates.image_of, score, candidates.rotations, b, symmetry, depth.apart_rad
        )
        candidates, score = candidates.at(left), score[left]
    shells = refinement_shells(coarse_shell, images.last_shell)
    for level, shell in enumerate(shells[:-1]):
        evaluations = _EVALUATIONS_FIRST if level == 0 else _EVALUATIONS_NEXT
        effort = _Effort(shell, evaluations, informs=False)
        refined = _refine(images, reference, candidates, options, effort)
        refined = _confined(refined, options)
        apart_rad = table.step_rad * coarse_shell / shell
        left = _likely_apart(
            candidates.image_of, refined, b, symmetry, depth.after_refinement,
            _SAME_CANDIDATE * apart_rad,
        )  # fmt: skip
        candidates = _Candidates(candidates.image_of, refined.rotations, refined.shifts_px).at(left)
        score = refined.score[left]
    return candidates, score, apart_rad


def _refine_to_the_end(
    images: WhitenedImages,
    reference: Reference,
    candidates: _Candidates,
    leads: Bool[Tensor, "m"],
    options: AlignmentOptions,
) -> PoseResult:
    """Refine candidates to their maxima: first those that lead, then all that may be rivals.

    Candidates with no prospect of a likelihood that counts beside their image's leaders are given
    up on the way. Each image has at least one candidate that leads.
    """
    first, rest = torch.nonzero(leads)[:, 0], torch.nonzero(~leads)[:, 0]
    image_of, symmetry = candidates.image_of, reference.symmetry

    def refined(index: Int[Tensor, "k"], floor: Float[Tensor, "k"] | None = None) -> PoseResult:
        effort = _Effort(images.last_shell, _EVALUATIONS_FINE)
        return _refine(images, reference, candidates.at(index), options, effort, floor=floor)

    leaders = refined(first)
    is_inside = can_be_tilted(leaders.rotations, symmetry, options.tilt_range_rad)
    score = torch.where(is_inside, leaders.score, -torch.inf)
    best = score.new_full((len(images),), -torch.inf)
    best = best.scatter_reduce(0, image_of[first], score, "amax")
    rivals = refined(rest, best[image_of[rest]] - _NO_RIVAL)
    order = torch.argsort(torch.cat([first, rest]))
    return PoseResult(
        **{n: torch.cat([value, getattr(rivals, n)])[order] for n, value in vars(leaders).items()}
    )


def align_locally(
    images: WhitenedImages,
    reference: Reference,
    rotations: Float[Tensor, "b 3 3"],
    shifts_px: Float[Tensor, "b 2"],
    options: AlignmentOptions,
    *,
    is_restarted: bool = True,
    others: Alternatives | None = None,
) -> BatchPoses:
    """Improve known poses.

    The pose itself is refined at the full band. With restarts, before that it and six poses beside
    it, turned about each axis by the resolution at the particle's rim, are refined at a
    third of the band: a pose that sits on a side maximum is led back by the best restart that has
    not come to the same maximum. ``others`` are poses that have competed before, and may again.
    """
    limits = options.local
    every = torch.arange(len(images), device=images.device)
    starts = _Candidates(every, rotations, shifts_px)
    if is_restarted and limits.turns:
        starts = starts.followed_by(*_restarts(images, reference, rotations, shifts_px, options))
    if others is not None:
        starts = starts.followed_by(others.image_of, others.rotations, others.shifts_px)
    effort = _Effort(images.last_shell, _EVALUATIONS_FINE)
    final = _refine(images, reference, starts, options, effort, limits=limits)
    image_of = starts.image_of
    held = pull_back(
        final.rotations, final.shifts_px, rotations[image_of], shifts_px[image_of], limits
    )
    if held is not None:
        # Scored again, with the derivatives that the covariance is made of.
        final = _scored(images, reference, _Candidates(image_of, *held), options)
    final, is_inside = _within_tilts(images, reference, image_of, final, options)
    return _choose(images, reference, image_of, final, is_inside, options)


def _restarts(
    images: WhitenedImages,
    reference: Reference,
    rotations: Tensor,
    shifts_px: Tensor,
    options: AlignmentOptions,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the images with a restart worth refining, and the pose that it led to."""
    b, turn = len(images), options.resolution_turn_rad
    axes = torch.eye(3, dtype=torch.float64, device=images.device)
    offsets = torch.cat([torch.zeros_like(axes[:1]), axes, -axes]) * turn
    k = len(offsets)
    around = matrix_from_rotvec(offsets)[None] @ rotations[:, None]
    every = torch.arange(b, device=images.device)
    candidates = _Candidates(
        every.repeat_interleave(k), around.flatten(0, 1), shifts_px.repeat_interleave(k, 0)
    )
    shell = max(1, images.last_shell // _RESTART_BAND)
    effort = _Effort(shell, _EVALUATIONS_COARSE, informs=False)
    refined = _refine(images, reference, candidates, options, effort, limits=options.local)
    score = refined.score.view(b, k)
    found = refined.rotations.view(b, k, 3, 3)
    angle = reference.symmetry.distance(found[:, 1:], found[:, :1].expand(-1, k - 1, -1, -1))
    worth = torch.where(angle > turn, score[:, 1:] - score[:, :1], -torch.inf)
    gain, which = worth.max(1)
    rows = torch.nonzero(gain > -options.candidate_window)[:, 0]
    chosen = rows * k + 1 + which[rows]
    return rows, refined.rotations[chosen], refined.shifts_px[chosen]


def pull_back(
    rotations: Float[Tensor, "m 3 3"],
    shifts_px: Float[Tensor, "m 2"],
    start_rotations: Float[Tensor, "m 3 3"],
    start_shifts_px: Float[Tensor, "m 2"],
    limits: LocalLimits,
) -> tuple[Float[Tensor, "m 3 3"], Float[Tensor, "m 2"]] | None:
    """Bring poses beyond the limits back to them, the shortest way; None if none is beyond."""
    turn = rotvec_from_matrix(rotations @ start_rotations.transpose(1, 2))
    move = shifts_px - start_shifts_px
    angle, length = turn.norm(dim=1, keepdim=True), move.norm(dim=1, keepdim=True)
    if not bool((angle > limits.max_turn_rad).any() or (length > limits.max_move_px).any()):
        return None
    turn = turn * (limits.max_turn_rad / angle.clamp_min(1e-30)).clamp(max=1.0)
    move = move * (limits.max_move_px / length.clamp_min(1e-30)).clamp(max=1.0)
    return matrix_from_rotvec(turn) @ start_rotations, start_shifts_px + move


def score_poses(
    images: WhitenedImages,
    reference: Reference,
    rotations: Float[Tensor, "b 3 3"],
    shifts_px: Float[Tensor, "b 2"],
    options: AlignmentOptions,
) -> BatchPoses:
    """Measure known poses without changing them, but for a symmetric copy within the tilts."""
    image_of = torch.arange(len(images), device=images.device)
    found = _scored(images, reference, _Candidates(image_of, rotations, shifts_px), options)
    moved, is_inside = _into_band(found.rotations, reference.symmetry, options.tilt_range_rad)
    kept = torch.where(is_inside[:, None, None], moved, found.rotations)
    found = replace(found, rotations=kept)
    return _choose(images, reference, image_of, found, is_inside, options)


def _padded(image_of: Tensor, score: Tensor, b: int) -> Tensor:
    """Arrange candidates as (b, k): their indices, best first, and -1 where there are fewer."""
    order = torch.argsort(score, descending=True, stable=True)
    order = order[torch.argsort(image_of[order], stable=True)]
    counts = torch.bincount(image_of, minlength=b)
    k = int(counts.max())
    rank = (
        torch.arange(len(order), device=order.device) - (counts.cumsum(0) - counts)[image_of[order]]
    )
    index = order.new_full((b, k), -1)
    index[image_of[order], rank] = order
    return index


def _likely_apart(
    image_of: Tensor,
    found: PoseResult,
    b: int,
    group: Symmetry,
    pruning: Pruning,
    apart_rad: float,
) -> Tensor:
    """Return the indices of the candidates that hold the posterior, one for each maximum.

    Ascending by image, best first within one.
    """
    index = _padded(image_of, found.score, b)
    score = torch.where(index >= 0, found.score[index], -torch.inf)
    is_kept = within_mass(score, torch.logsumexp(score, 1), found.power[index[:, 0]], pruning)
    width = int(is_kept.sum(1).max())
    index = torch.where(is_kept, index, -1)[:, :width]
    chosen = _separated(index, found.score, found.rotations, group, apart_rad)
    return chosen[chosen >= 0]


def _apart(
    image_of: Tensor,
    score: Tensor,
    rotations: Tensor,
    b: int,
    group: Symmetry,
    apart_rad: float,
) -> Tensor:
    """Return the indices of the candidates that no better one of their image stands beside."""
    chosen = _separated(_padded(image_of, score, b), score, rotations, group, apart_rad)
    return chosen[chosen >= 0]


def _separated(
    index: Int[Tensor, "b k"],
    score: Float[Tensor, "m"],
    rotations: Float[Tensor, "m 3 3"],
    group: Symmetry,
    apart_rad: float,
) -> Int[Tensor, "b k"]:
    """Return those of each image's candidates, best first, that no better one stands beside.

    Candidates are told by their indices, with -1 where there are fewer, as :func:`_padded` does.
    """
    chosen, _ = pick_separated(
        index,
        torch.where(index >= 0, score[index], -torch.inf).float(),
        rotations,
        group.matrices,
        cos_apart=math.cos(apart_rad),
        keep=index.shape[1],
        window=_EVERYTHING,
    )
    return chosen


def _choose(
    images: WhitenedImages,
    reference: Reference,
    image_of: Tensor,
    found: PoseResult,
    is_inside: Bool[Tensor, "m"],
    options: AlignmentOptions,
) -> BatchPoses:
    """Take the best pose of each image and measure how far it stands out from the others."""
    b, symmetry = len(images), reference.symmetry
    score = found.score
    index = _padded(image_of, score, b)
    best = index[:, 0]
    rotations, shifts = found.rotations[best], found.shifts_px[best]
    covariance = covariance_of(found.information[best])
    sigma_rotation, sigma_shift = spread(covariance, options)
    # Candidates that were refined to the same maximum are one competitor.
    apart_rad = _SAME_POSE * options.resolution_turn_rad
    index = _separated(index, score, found.rotations, symmetry, apart_rad)
    competing = torch.where(index >= 0, score[index] - score[best][:, None], -torch.inf)
    gap = -competing[:, 1] if index.shape[1] > 1 else score.new_full((b,), torch.inf)
    probability, alternatives = _shared(competing, index, found.rotations, found.shifts_px)
    share = torch.where(probability > 0, probability, 1.0)
    entropy = -(share * share.log()).sum(1)
    power, at_edge = found.power[best], found.at_edge[best]
    x = images.x[:, images.view.band.prefix(0) :]
    correlation, scale = _agreement(x, found.score[best], power, shifts, options)
    return BatchPoses(
        rotations=rotations,
        shifts_px=shifts,
        score=found.score[best],
        gap=gap,
        n_effective=entropy.exp(),
        correlation=correlation,
        scale=scale,
        model_power=power,
        covariance=covariance,
        sigma_rotation_rad=sigma_rotation,
        sigma_shift_px=sigma_shift,
        at_edge=at_edge,
        at_tilt_limit=~is_inside[best],
        is_missed=torch.zeros_like(at_edge),
        probability=probability[:, 0],
        alternatives=alternatives,
    )


def _shared(
    log_likelihood: Float[Tensor, "b k"],
    index: Int[Tensor, "b k"],
    rotations: Float[Tensor, "m 3 3"],
    shifts_px: Float[Tensor, "m 2"],
) -> tuple[Float[Tensor, "b k"], Alternatives]:
    """Return the posterior of candidates, and those beside the best that are not negligible."""
    p = torch.softmax(log_likelihood.double(), 1)
    p = torch.where(p >= _NEGLIGIBLE, p, 0.0)
    p[:, 0] = p[:, 0].clamp_min(_NEGLIGIBLE)
    p = p / p.sum(1, keepdim=True)
    others = p.clone()
    others[:, 0] = 0.0
    image_of, rank = torch.nonzero(others, as_tuple=True)
    at = index[image_of, rank]
    return p, Alternatives(image_of, rotations[at], shifts_px[at], p[image_of, rank])


def spread(
    covariance: Float[Tensor, "b 5 5"], options: AlignmentOptions
) -> tuple[Float[Tensor, "b"], Float[Tensor, "b"]]:
    """Return root mean square standard deviations: of rotations in rad, of shifts in px."""
    variance = torch.diagonal(covariance, dim1=1, dim2=2).clamp_min(0)
    return (
        variance[:, :3].mean(1).sqrt().clamp(max=math.pi),
        variance[:, 3:].mean(1).sqrt().clamp(max=options.max_shift_px),
    )


def is_tilt_allowed(
    rotations: Float[Tensor, "b 3 3"], tilt_range_rad: tuple[float, float]
) -> Bool[Tensor, "b"]:
    """Tell which poses themselves lie within the band of tilts."""
    low, high = tilt_range_rad
    tilt = torch.acos(rotations[:, 2, 2].clamp(-1, 1))
    return (tilt >= low) & (tilt <= high)


def can_be_tilted(
    rotations: Float[Tensor, "b 3 3"], group: Symmetry, tilt_range_rad: tuple[float, float]
) -> Bool[Tensor, "b"]:
    """Tell which poses, or a symmetric copy of them, lie within the band of tilts."""
    if _holds_all_tilts(tilt_range_rad):
        return torch.ones_like(rotations[:, 0, 0], dtype=torch.bool)
    excess = _tilt_excess_rad(rotations, group, tilt_range_rad)
    return excess.amin(1) < _TILT_ROUNDING_RAD


def _holds_all_tilts(tilt_range_rad: tuple[float, float]) -> bool:
    """Tell whether a band of tilts is no limit."""
    low, high = tilt_range_rad
    return low <= 0 and high >= math.pi


def _tilt_excess_rad(
    rotations: Tensor, group: Symmetry, tilt_range_rad: tuple[float, float]
) -> Float[Tensor, "b g"]:
    """Return by how much the tilts of a pose's symmetric copies, its own first, are outside."""
    low, high = tilt_range_rad
    tilt = torch.acos((rotations[:, 2] @ group.matrices[:, :, 2].to(rotations).T).clamp(-1, 1))
    return torch.maximum(low - tilt, tilt - high).clamp_min(0)


def _within_tilts(
    images: WhitenedImages,
    reference: Reference,
    image_of: Tensor,
    found: PoseResult,
    options: AlignmentOptions,
) -> tuple[PoseResult, Tensor]:
    """Bring refined poses into the band of tilts, and tell which were inside.

    The others are scored again on the edge: their refinement's score is that of another pose.
    """
    found = _confined(found, options)
    moved, is_inside = _into_band(found.rotations, reference.symmetry, options.tilt_range_rad)
    rows = torch.nonzero(~is_inside)[:, 0]
    found = replace(found, rotations=moved)
    if len(rows) == 0:
        return found, is_inside
    outside = _Candidates(image_of, moved, found.shifts_px).at(rows)
    edge = _scored(images, reference, outside, options)
    names = ("score", "power", "information", "at_edge")
    scored = {n: getattr(found, n).index_copy(0, rows, getattr(edge, n)) for n in names}
    return replace(found, **scored), is_inside


def _confined(found: PoseResult, options: AlignmentOptions) -> PoseResult:
    """Return poses of a helix within half a rise along the filament; they score the same."""
    if options.step is None:
        return found
    rotations, shifts_px = options.step.confined(found.rotations, found.shifts_px)
    return replace(found, rotations=rotations, shifts_px=shifts_px)


def _into_band(
    rotations: Tensor, group: Symmetry, tilt_range_rad: tuple[float, float]
) -> tuple[Tensor, Tensor]:
    """Bring poses into the allowed band of tilts.

    A pose outside is replaced by a symmetric equivalent inside; if there is none, it is tipped
    onto the nearer edge.

    Returns
    -------
    rotations, is_inside
        ``is_inside`` is False for poses that had to be tipped.
    """
    low, high = tilt_range_rad
    if _holds_all_tilts(tilt_range_rad):
        return rotations, torch.ones_like(rotations[:, 0, 0], dtype=torch.bool)
    # The pose itself if it is inside: it comes first.
    excess, nearest = _tilt_excess_rad(rotations, group, tilt_range_rad).min(1)
    chosen = rotations @ group.matrices.to(rotations)[nearest]
    is_inside = excess < _TILT_ROUNDING_RAD
    euler = euler_from_matrix(chosen)
    euler[:, 1] = euler[:, 1].clamp(low, high)
    return torch.where(is_inside[:, None, None], chosen, matrix_from_euler(euler)), is_inside


def _agreement(
    x: Tensor, score: Tensor, power: Tensor, shifts_px: Tensor, options: AlignmentOptions
) -> tuple[Tensor, Tensor]:
    """Return correlation and amplitude of the model, from the log-likelihood and its power."""
    prior = 0.5 * options.shift_sigma_px**-2 * shifts_px.square().sum(1)
    cross = (score + prior + power) / 2
    energy = (x.real.square() + x.imag.square()).sum(1).double()
    correlation = cross / (power * energy).sqrt().clamp_min(1e-20)
    return correlation, cross / power.clamp_min(1e-20)
