"""What a pose refinement is given, how it goes about it, and what it returns."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Complex, Float, Int
from torch import Tensor

__all__ = [
    "DAMPING_FALLS",
    "DAMPING_RISES",
    "INITIAL_DAMPING",
    "MAX_DAMPING",
    "PROMISE",
    "PROSPECT",
    "RIDGE",
    "TOLERANCE",
    "LevenbergMarquardt",
    "OwnNoiseInReference",
    "PoseProblem",
    "PoseResult",
    "covariance_of",
    "freeze",
]

INITIAL_DAMPING = 0.01
"""Levenberg-Marquardt damping of the first step, relative to the Gauss-Newton matrix's diagonal.

Starts lie near their maximum, where the quadratic model is nearly right: the first step is nearly
the full one. This number and the next three are customary; others are not on record."""

DAMPING_FALLS, DAMPING_RISES = 0.2, 8.0
"""Factors on the damping after a step that gained, and after one that did not.

It rises faster than it falls, since a step that fails costs an evaluation and gives nothing."""

MAX_DAMPING = 1e3
"""Damping beyond which a start has no way up any more: steps are a thousandth of the full ones."""

RIDGE = 1e-9
"""Share of a matrix's diagonal that is added to it: those of images which say nothing can be solved
and inverted then. It is far above rounding in double precision, and far below any damping."""

TOLERANCE = 0.05
"""Gain in log-likelihood below which a refinement ends.

A quadratic maximum that is 0.05 higher lies 0.3 standard deviations away; see ``PROMISE`` for where
refinements really end."""

PROMISE = 0.2
"""Share of the tolerance that a step must promise to be tried."""

PROSPECT = 6.0
"""Gain that is thought possible still, in units of what the next step promises."""


@dataclass(frozen=True, eq=False)
class OwnNoiseInReference:
    """What starts gain by their image's own noise in the reference, which does not count.

    An image finds its own noise where it was inserted: a pose that is turned from there by ``D``
    and moved by ``d`` gains ``bonus / (1 + q / 2)²`` with
    ``q = aᵀ turn_decay a + move_decay |d|²``, where a is the turn's axis in the image frame times
    the sine of its angle; nothing beyond a quarter of a turn (``docs/mathematics.md``).

    Attributes
    ----------
    rotations, shifts_px
        Where the image of each start was inserted: of its places, and their copies by symmetry,
        the one that lies next to the start.
    bonus
        Log-likelihood gained there.
    turn_decay, move_decay
        How fast it falls: a symmetric matrix in 1/rad², and a number in 1/px².
    """

    rotations: Float[Tensor, "m 3 3"]
    shifts_px: Float[Tensor, "m 2"]
    bonus: Float[Tensor, "m"]
    turn_decay: Float[Tensor, "m 3 3"]
    move_decay: Float[Tensor, "m"]

    def at(self, rows: Tensor) -> "OwnNoiseInReference":
        """Return that of some starts."""
        return OwnNoiseInReference(**{name: value[rows] for name, value in vars(self).items()})

    def packed(self) -> Float[Tensor, "m 22"]:
        """Return all of it in one array: rotations, shifts, bonus, move_decay, turn_decay."""
        numbers = torch.stack([self.bonus, self.move_decay], 1)
        parts = self.rotations.flatten(1), self.shifts_px, numbers, self.turn_decay.flatten(1)
        return torch.cat([part.double() for part in parts], 1)


@dataclass(frozen=True, eq=False)
class PoseProblem:
    """Starts of a pose search for a batch of images.

    The model of image i at pose (R, s) is ``x = c S_R exp(2πi k·s/n) + noise`` of unit variance
    per complex coefficient; its log-likelihood, up to a constant, is
    ``sum 2 Re(conj(x) model) - |model|²``, minus the prior ``precision |s - s0|² / 2``, minus
    what the image's own noise in the reference adds.

    Attributes
    ----------
    x
        Images' coefficients divided by the noise's standard deviation.
    c
        Contrast transfer, times the particle's scale, divided by the same.
    points
        Frequencies (x, y) in cycles per box of the *volume*, where slices are read.
    k_px
        Frequencies (x, y) in cycles per box of the *image*, integers.
    image_of
        For each start, the image it belongs to.
    rotations, shifts_px
        The starts.
    prior_shift_px, prior_precision
        Centre (per start) and inverse variance (1/px²) of the prior on shifts; 0 for none.
    floor
        Log-likelihood per start: one that has no prospect of reaching it is given up where it is.
        None: all are followed to their end.
    own
        What starts gain by their image's own noise; None where the reference holds none of it.
    """

    x: Complex[Tensor, "b p"]
    c: Float[Tensor, "b p"]
    points: Float[Tensor, "p 2"]
    k_px: Int[Tensor, "p 2"]
    image_size_px: int
    image_of: Int[Tensor, "m"]
    rotations: Float[Tensor, "m 3 3"]
    shifts_px: Float[Tensor, "m 2"]
    prior_shift_px: Float[Tensor, "m 2"]
    prior_precision: float = 0.0
    floor: Float[Tensor, "m"] | None = None
    own: OwnNoiseInReference | None = None

    @property
    def floors(self) -> Float[Tensor, "m"]:
        """The floor of each start in double precision: minus infinity where there is none."""
        if self.floor is None:
            return self.shifts_px.new_full((len(self.shifts_px),), -torch.inf, dtype=torch.float64)
        return self.floor.double()


@dataclass(frozen=True)
class LevenbergMarquardt:
    """How to refine.

    Attributes
    ----------
    max_evaluations
        Of the likelihood after the first; 0 only scores the starts.
    max_shift_px
        No shift gets longer than this.
    max_turn_rad, max_move_px
        Limits of one step. 0: what does not turn, or move, is taken as known.
    tolerance
        Stop when a step gains less log-likelihood than this, or promises less than a fifth of it
        (then within 0.14 standard deviations of the maximum).
    informs
        Whether the result has information: without it, the last of ``max_evaluations`` takes about
        half the time on CPUs.
    """

    max_evaluations: int
    max_shift_px: float
    max_turn_rad: float
    max_move_px: float
    tolerance: float = TOLERANCE
    initial_damping: float = INITIAL_DAMPING
    informs: bool = True


@dataclass(frozen=True, eq=False)
class PoseResult:
    """Where each start ended.

    Attributes
    ----------
    score
        Log-likelihood there.
    power
        ``sum |model|²`` there.
    information
        Gauss-Newton matrix of (rotation vector in the image frame in radians, shift in px): its
        inverse is the covariance of the pose. Zero where it was not asked for.
    at_edge
        Whether the shift lies on its limit.
    """

    rotations: Float[Tensor, "m 3 3"]
    shifts_px: Float[Tensor, "m 2"]
    score: Float[Tensor, "m"]
    power: Float[Tensor, "m"]
    information: Float[Tensor, "m 5 5"]
    at_edge: Bool[Tensor, "m"]


def covariance_of(information: Float[Tensor, "m 5 5"]) -> Float[Tensor, "m 5 5"]:
    """Invert Gauss-Newton matrices, those of images that say nothing, too."""
    diagonal = torch.diagonal(information, dim1=1, dim2=2)
    return torch.linalg.inv(information + torch.diag_embed(RIDGE * diagonal + 1e-12))


def freeze(
    g: Float[Tensor, "m p"], h: Float[Tensor, "m p p"], *, turns: bool, moves: bool
) -> tuple[Float[Tensor, "m p"], Float[Tensor, "m p p"]]:
    """Take the turn (parameters 0 to 2) or the shift (3, 4) out of normal equations."""
    fixed = torch.zeros(g.shape[1], dtype=torch.bool, device=g.device)
    fixed[:3], fixed[3:5] = not turns, not moves
    if not bool(fixed.any()):
        return g, h
    off_block = fixed[:, None] != fixed
    if not turns and not moves:
        off_block[:3, 3:5] = off_block[3:5, :3] = True
    return g.masked_fill(fixed, 0.0), h.masked_fill(off_block, 0.0)
