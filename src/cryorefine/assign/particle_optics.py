"""Refine what single particles may have of their own: grey values, magnification, defocus.

Together with the pose, by Levenberg-Marquardt with analytic derivatives, on the same noise-whitened
likelihood. A particle's values are eight deviations from what its table and its optics group say,
all zero to begin with:

0. grey scale, relative: the image holds (1 + value) times the model;
1. grey offset, in standard deviations of the background;
2. scale: both axes are magnified by this, relative;
3. stretch along x and against y; 4. along the diagonals: with the scale they make the matrix
   ``M = [[1 + v2 + v3, v4], [v4, 1 + v2 - v3]]``: the object is sampled at M s where the image has
   s (the contrast transfer stays where the image has it);
5. mean defocus in Å; 6. and 7. astigmatism in Å, as ``(U - V)/2 (cos 2θ, sin 2θ)``.
"""

import math
from dataclasses import dataclass, replace

import torch
from jaxtyping import Complex, Float, Int
from torch import Tensor

from cryorefine.assign.align import AlignmentOptions
from cryorefine.assign.comparison import Reference
from cryorefine.assign.own_noise import OwnNoise
from cryorefine.geometry.rotation import matrix_from_rotvec
from cryorefine.kernels.grid import SliceGrid
from cryorefine.kernels.poses import (
    DAMPING_FALLS,
    DAMPING_RISES,
    INITIAL_DAMPING,
    MAX_DAMPING,
    PROMISE,
    RIDGE,
    TOLERANCE,
    OwnNoiseInReference,
    freeze,
)
from cryorefine.kernels.reference import extract_slices_with_gradient, own_noise_gain
from cryorefine.model.observe import GroupBand
from cryorefine.optics.ctf import Defocus, contrast_transfer, contrast_transfer_and_slopes

__all__ = [
    "N_VALUES",
    "GroupImages",
    "OpticsPrior",
    "RefinedOptics",
    "magnification_matrix",
    "magnified",
    "refine_particle_optics",
    "with_defocus_change",
    "without_offset",
]

N_VALUES = 8
"""Values of a particle: grey scale and offset, three of the magnification, three of the defocus."""

_GREY, _OFFSET, _MAGNIFICATION, _DEFOCUS = (
    slice(0, 1),
    slice(1, 2),
    slice(2, 5),
    slice(5, 8),
)
_SIGMAS_IN_BOUND = 3.0
"""Standard deviations of the prior within a value's bound: values beyond it are then as rare as 0.3
%, and the prior pulls as little as it can (``docs/decisions.md``, "Particles' own values are
deviations with a prior")."""

_EVALUATIONS = 12
"""Evaluations at most: three or four are usual, so that a dozen cuts nobody short."""

_COEFFICIENTS_AT_ONCE = 1 << 16  # about 1 kB each


@dataclass(frozen=True)
class OpticsPrior:
    """Which values are refined, and how far they may go.

    Each has a Gaussian prior about zero whose standard deviation is a third of the bound.

    Attributes
    ----------
    grey, scale, magnification, defocus
        Whether grey scale and offset, the isotropic scale, the whole matrix, and the defocus
        with its astigmatism are refined.
    max_grey_scale_change, max_grey_offset
        Relative, and in standard deviations of the background.
    max_magnification_change
        No axis of the matrix changes by more, relative.
    max_defocus_change_A
        Neither principal defocus changes by more.
    """

    grey: bool
    scale: bool
    magnification: bool
    defocus: bool
    max_grey_scale_change: float
    max_grey_offset: float
    max_magnification_change: float
    max_defocus_change_A: float

    def active(self) -> Int[Tensor, "m"]:
        """Return the numbers of the values that are refined."""
        scale = self.scale or self.magnification
        flags = [self.grey] * 2 + [scale] + [self.magnification] * 2 + [self.defocus] * 3
        return torch.nonzero(torch.tensor(flags))[:, 0]

    def sigma(self) -> Float[Tensor, "v"]:
        """Return the standard deviations of the prior."""
        bounds = [self.max_grey_scale_change, self.max_grey_offset]
        bounds += [self.max_magnification_change] * 3 + [self.max_defocus_change_A] * 3
        return torch.tensor(bounds, dtype=torch.float64) / _SIGMAS_IN_BOUND

    def bounded(self, values: Float[Tensor, "b v"]) -> Float[Tensor, "b v"]:
        """Return the values drawn back within their bounds."""
        g, o = self.max_grey_scale_change, self.max_grey_offset
        return torch.cat(
            [
                values[:, _GREY].clamp(-g, g),
                values[:, _OFFSET].clamp(-o, o),
                _shrunk(values[:, _MAGNIFICATION], self.max_magnification_change),
                _shrunk(values[:, _DEFOCUS], self.max_defocus_change_A),
            ],
            1,
        )


def _shrunk(triple: Float[Tensor, "b 3"], bound: float) -> Float[Tensor, "b 3"]:
    """Shrink (mean, and two parts of the difference) so that no axis exceeds the bound."""
    extreme = triple[:, :1].abs() + triple[:, 1:].norm(dim=1, keepdim=True)
    return triple * (bound / extreme.clamp_min(1e-30)).clamp(max=1.0)


def magnification_matrix(values: Float[Tensor, "b v"]) -> Float[Tensor, "b 2 2"]:
    """Return each particle's matrix M."""
    scale, stretch, shear = values[:, _MAGNIFICATION].unbind(1)
    rows = [1 + scale + stretch, shear, shear, 1 + scale - stretch]
    return torch.stack(rows, 1).view(-1, 2, 2)


def magnified(
    rotations: Float[Tensor, "b 3 3"], values: Float[Tensor, "b v"]
) -> Float[Tensor, "b 3 3"]:
    """Return matrices that make the kernels read and write slices at ``M k`` instead of ``k``.

    Slices lie at ``kx`` times the first row plus ``ky`` times the second: the rows of ``Mᵀ``
    times the rotation. The results are no rotations, and of use for slices only.
    """
    rows = magnification_matrix(values).transpose(1, 2) @ rotations[:, :2]
    return torch.cat([rows, rotations[:, 2:]], 1)


def with_defocus_change(defocus: Defocus, values: Float[Tensor, "b v"]) -> Defocus:
    """Return the CTF values with the particles' own changes of defocus and astigmatism."""
    mean, cos, sin = values[:, _DEFOCUS].to(defocus.u_A).unbind(1)
    half_difference = 0.5 * (defocus.u_A - defocus.v_A)
    mean = mean + 0.5 * (defocus.u_A + defocus.v_A)
    cos = cos + half_difference * (2 * defocus.angle_rad).cos()
    sin = sin + half_difference * (2 * defocus.angle_rad).sin()
    length = torch.hypot(cos, sin)
    return replace(
        defocus, u_A=mean + length, v_A=mean - length, angle_rad=0.5 * torch.atan2(sin, cos)
    )


def without_offset(
    view: GroupBand, x: Complex[Tensor, "b p"], offset: Float[Tensor, "b"]
) -> Complex[Tensor, "b p"]:
    """Subtract a constant (in units of the images) from images given by their coefficients."""
    at_zero = (view.band.radius == 0).to(x.real)
    return x - offset.to(x.real)[:, None] * view.band.size_px**2 * at_zero


@dataclass(frozen=True, eq=False)
class GroupImages:
    """Images that share all constants of their contrast transfer, and what it is computed from.

    Attributes
    ----------
    view
        Their band, and how any of their optics groups sees the volume.
    x
        Coefficients of the whole band, not whitened, offset included.
    white
        One over the noise's standard deviation, by coefficient, of all images or of each.
    amplitude
        Images hold this times the projections of the volume, all or each.
    defocus
        As the particle table has it.
    own
        Where the images went into their reference; None where it holds none of them.
    """

    view: GroupBand
    x: Complex[Tensor, "b p"]
    white: Float[Tensor, "#b p"]
    amplitude: Float[Tensor, "#b 1"]
    defocus: Defocus
    own: OwnNoise | None = None


@dataclass(frozen=True, eq=False)
class RefinedOptics:
    """What the refinement of a batch found.

    Attributes
    ----------
    covariance
        Of (rotation vector in the image frame in radians, shift in px), the uncertainty of the
        refined values included.
    score
        Log-likelihood over that of no particle, less the priors.
    """

    rotations: Float[Tensor, "b 3 3"]
    shifts_px: Float[Tensor, "b 2"]
    values: Float[Tensor, "b v"]
    covariance: Float[Tensor, "b 5 5"]
    score: Float[Tensor, "b"]


@dataclass(frozen=True, eq=False)
class _Problem:
    """Likelihood and priors; ``x`` is whitened with ``white``.

    ``factor`` is what the contrast transfer is multiplied by: ``white`` times the amplitude.
    """

    grid: SliceGrid
    view: GroupBand
    x: Tensor
    white: Tensor
    factor: Tensor
    defocus: Defocus
    prior: OpticsPrior
    options: AlignmentOptions
    own: OwnNoiseInReference | None

    def of(self, rows: Tensor) -> "_Problem":
        """Return the problem of some of the images."""
        defocus = Defocus(**{k: v[rows] for k, v in self.defocus.__dict__.items()})
        white, factor = (t if len(t) == 1 else t[rows] for t in (self.white, self.factor))
        own = None if self.own is None else self.own.at(rows)
        return replace(self, x=self.x[rows], white=white, factor=factor, defocus=defocus, own=own)

    def normal_equations(
        self, rotations: Tensor, shifts_px: Tensor, values: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return log-posterior (b,), gradient (b, 5 + m) and Gauss-Newton matrix."""
        size = max(1, _COEFFICIENTS_AT_ONCE // len(self.view.points))
        parts = [
            self.of(rows)._equations(rotations[rows], shifts_px[rows], values[rows])
            for rows in torch.arange(len(values)).split(size)
        ]
        score, g, h = (torch.cat(part) for part in zip(*parts, strict=True))
        limits = self.options.local
        return score, *freeze(g, h, turns=limits.turns, moves=limits.moves)

    def _equations(
        self, rotations: Tensor, shifts_px: Tensor, values: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        view = self.view
        own = with_defocus_change(self.defocus, values)
        c, slopes = contrast_transfer_and_slopes(view.group, own, view.s_per_A)
        c, slopes = c * self.factor, slopes * self.factor[..., None]
        matrix = magnification_matrix(values).float()
        value, gradient = extract_slices_with_gradient(
            self.grid, magnified(rotations, values), view.points
        )
        along = torch.einsum("maj,mpj->map", rotations.to(gradient.dtype), gradient)
        kx, ky = view.points.T
        px, py = torch.einsum("mab,pb->amp", matrix, view.points)
        kappa = view.k_px().to(kx) * (2 * math.pi / view.band.size_px)
        phase = shifts_px.to(kappa) @ kappa.T
        grey = (1 + values[:, :1]).float()
        offset = (view.band.radius == 0).float() * view.band.size_px**2 * self.white
        unscaled = c * value
        model = grey * unscaled
        u, gx, gy = (grey * c * along[:, a] for a in (2, 0, 1))
        columns = [-py * u, px * u, py * gx - px * gy]
        columns += [1j * kappa[:, a] * model for a in (0, 1)]
        columns += [unscaled, offset.to(value).expand_as(value)]
        columns += [kx * gx + ky * gy, kx * gx - ky * gy, ky * gx + kx * gy]
        columns += [grey * slopes[..., a] * value for a in range(3)]
        active = self.prior.active()
        chosen = [*range(5), *(5 + active).tolist()]
        jacobian = torch.stack([columns[a] for a in chosen], 1)
        centred = self.x * torch.polar(torch.ones_like(phase), -phase)
        model = model + values[:, 1:2].float() * offset
        residual = centred - model
        g = 2 * torch.einsum("map,mp->ma", jacobian.conj(), residual).real.double()
        h = 2 * torch.einsum("map,mbp->mab", jacobian.conj(), jacobian).real.double()
        score = (2 * (centred.conj() * model).real - model.abs().square()).double().sum(1)
        own_values, precision = values[:, active], self.prior.sigma()[active] ** -2
        shift_precision = self.options.shift_sigma_px**-2
        score = score - 0.5 * (precision * own_values.square()).sum(1)
        score = score - 0.5 * shift_precision * shifts_px.square().sum(1)
        g[:, 5:] -= precision * own_values
        g[:, 3:5] -= shift_precision * shifts_px
        if self.own is not None:
            gained, slope = own_noise_gain(self.own, rotations, shifts_px)
            score = score - gained
            g[:, :5] -= slope
        added = torch.tensor([0.0] * 3 + [shift_precision] * 2, dtype=torch.float64)
        return score, g, h + torch.diag(torch.cat([added, precision]))


def _make_problem(
    reference: Reference,
    images: GroupImages,
    rotations: Float[Tensor, "b 3 3"],
    prior: OpticsPrior,
    options: AlignmentOptions,
) -> _Problem:
    view, x = images.view, images.x * images.white
    # The coefficient at zero is real: all its variance lies in one component, not in two.
    halved = torch.where(view.band.radius == 0, math.sqrt(0.5), 1.0)
    white = images.white * halved
    factor = white * images.amplitude
    own = None
    if images.own is not None:
        c = contrast_transfer(view.group, images.defocus, view.s_per_A)
        every = torch.arange(len(x))
        own = images.own.beside(rotations, every, reference.symmetry, view, c * factor)
    return _Problem(
        reference.grid, view, x * halved, white, factor, images.defocus, prior, options, own
    )


def refine_particle_optics(
    reference: Reference,
    images: GroupImages,
    rotations: Float[Tensor, "b 3 3"],
    shifts_px: Float[Tensor, "b 2"],
    values: Float[Tensor, "b v"],
    prior: OpticsPrior,
    options: AlignmentOptions,
) -> RefinedOptics:
    """Refine pose and particle values together, from a pose near its maximum.

    Parameters
    ----------
    values
        Where to start.
    options
        Its limit and prior of shifts count, and whether rotations and shifts may change at all;
        how far from their starts poses may go is left to the caller.

    Notes
    -----
    A dozen evaluations at most, three or four on average, in plain torch.
    """
    problem = _make_problem(reference, images, rotations, prior, options)
    active, max_shift_px = prior.active(), options.max_shift_px
    rotations, shifts_px, values = (
        rotations.double().clone(),
        shifts_px.double().clone(),
        prior.bounded(values.double()),
    )
    score, g, h = problem.normal_equations(rotations, shifts_px, values)
    damping = torch.full_like(score, INITIAL_DAMPING)
    rows = torch.arange(len(score))  # those that are still refined
    for _ in range(_EVALUATIONS):
        diagonal = torch.diagonal(h[rows], dim1=1, dim2=2)
        # Relative to the diagonal alone: the values have very different units.
        lifted = h[rows] + torch.diag_embed((damping[rows, None] + RIDGE) * diagonal + 1e-30)
        step = torch.linalg.solve(lifted, g[rows])
        promises = 0.5 * (g[rows] * step).sum(1) >= PROMISE * TOLERANCE
        rows, step = rows[promises], step[promises]
        if len(rows) == 0:
            break
        new_values = values[rows]
        new_values[:, active] += step[:, 5:]
        new_values = prior.bounded(new_values)
        new_shifts = shifts_px[rows] + step[:, 3:5]
        length = new_shifts.norm(dim=1, keepdim=True)
        new_shifts = new_shifts * (max_shift_px / length.clamp_min(1e-30)).clamp(max=1.0)
        new_rotations = matrix_from_rotvec(step[:, :3]) @ rotations[rows]
        new = problem.of(rows).normal_equations(new_rotations, new_shifts, new_values)
        gain = new[0] - score[rows]
        better = gain > 0
        at = rows[better]
        for old, value in zip(
            (rotations, shifts_px, values, score, g, h),
            (new_rotations, new_shifts, new_values, *new),
            strict=True,
        ):
            old[at] = value[better]
        damping[rows] *= torch.where(better, DAMPING_FALLS, DAMPING_RISES)
        rows = rows[~(better & (gain < TOLERANCE)) & (damping[rows] < MAX_DAMPING)]
    diagonal = torch.diagonal(h, dim1=1, dim2=2)
    covariance = torch.linalg.inv(h + torch.diag_embed(RIDGE * diagonal + 1e-30))[:, :5, :5]
    return RefinedOptics(rotations, shifts_px, values, covariance, score)
