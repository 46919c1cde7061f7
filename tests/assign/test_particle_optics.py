import math
from dataclasses import replace

import pytest
import torch

from cryorefine.assign import particle_optics
from cryorefine.assign.align import AlignmentOptions
from cryorefine.assign.comparison import Reference
from cryorefine.assign.own_noise import NoiseInReference, OwnNoise
from cryorefine.assign.particle_optics import (
    GroupImages,
    OpticsPrior,
    _make_problem,
    magnification_matrix,
    magnified,
    refine_particle_optics,
    with_defocus_change,
    without_offset,
)
from cryorefine.geometry.rotation import geodesic_angle, matrix_from_rotvec, random_rotations
from cryorefine.geometry.symmetry import parse_symmetry
from cryorefine.kernels.grid import make_slice_grid
from cryorefine.kernels.reference import extract_slices
from cryorefine.model.atoms import scattering_basis, volume_from_atoms
from cryorefine.model.observe import make_group_band
from cryorefine.optics.ctf import Defocus, contrast_transfer, contrast_transfer_and_slopes
from cryorefine.optics.group import OpticsGroup
from tests.builders import phantom
from tests.kernels.problems import exact_slices

SIZE_PX, PIXEL_A = 48, 2.5
SHIFT_PRECISION = 0.3  # 1/px²
ALL = OpticsPrior(True, True, True, True, 0.9, 9.0, 0.1, 3000.0)


def only(*names: str) -> OpticsPrior:
    flags = [name in names for name in ("grey", "scale", "magnification", "defocus")]
    return OpticsPrior(*flags, 0.9, 9.0, 0.1, 3000.0)


class Case:
    """Noisy images of a phantom with particle values of their own, by an independent route."""

    def __init__(self, n: int, values: torch.Tensor, *, noise: float = 1.0, seed: int = 0):
        generator = torch.Generator().manual_seed(seed)
        atoms = phantom("c1", 85.0, 4)
        basis = scattering_basis(atoms, 0.6 / PIXEL_A)
        volume = volume_from_atoms(atoms, basis, size_px=SIZE_PX, voxel_A=PIXEL_A)
        self.group = OpticsGroup("g", PIXEL_A, SIZE_PX)
        self.view = make_group_band(
            self.group, volume_size_px=SIZE_PX, voxel_A=PIXEL_A, resolution_A=5.6
        )
        self.rotations = random_rotations(n, generator)
        self.shifts = torch.randn(n, 2, generator=generator, dtype=torch.float64)
        self.values = values.double().expand(n, 8)
        zero = torch.zeros(n)
        self.defocus = Defocus(zero + 9000, zero + 8600, zero + 0.4, zero, zero, zero + 1)
        matrices = magnification_matrix(self.values)
        points = self.view.points.double()
        slices = exact_slices(volume, self.rotations, points @ matrices.mT)
        own = with_defocus_change(self.defocus, self.values)
        c = contrast_transfer(self.group, own, self.view.s_per_A).double()
        k = self.view.k_px().double()
        ramp = torch.exp(2j * math.pi / SIZE_PX * (self.shifts @ k.T))
        image = (1 + self.values[:, :1]) * c * slices * ramp
        sigma = noise * float((c * slices).abs().square()[:, 1:].mean().sqrt())
        image = without_offset(self.view, image, -self.values[:, 1])
        random = torch.randn(image.shape, generator=generator, dtype=torch.complex128)
        at_zero = self.view.band.radius == 0
        random[:, at_zero] = random[:, at_zero].real * math.sqrt(2) + 0j
        x, white = (image + sigma * random).to(torch.complex64), 1 / sigma
        white = torch.full((len(points),), white)
        self.images = GroupImages(
            self.view, x, white[None], torch.full((1, 1), self.view.amplitude), self.defocus
        )
        grid = make_slice_grid(volume, SIZE_PX / 2 + 1)
        self.reference = Reference(grid, parse_symmetry("c1"))

    def problem(self, prior: OpticsPrior):
        options = AlignmentOptions(8.0, SHIFT_PRECISION**-0.5, 0.1)
        return _make_problem(self.reference, self.images, self.rotations, prior, options)

    def refine(self, prior: OpticsPrior, *, turn_deg: float = 0.3):
        n = len(self.rotations)
        turn = torch.randn(n, 3, generator=torch.Generator().manual_seed(9)).double()
        start = matrix_from_rotvec(math.radians(turn_deg) * turn) @ self.rotations
        return refine_particle_optics(
            self.reference, self.images, start, self.shifts + 0.1,
            torch.zeros(n, 8, dtype=torch.float64), prior, AlignmentOptions(8.0, math.inf, 0.1),
        )  # fmt: skip


PLANTED = torch.tensor([0.2, 0.02, 0.01, -0.008, 0.005, 250.0, -120.0, 80.0])


def with_own_noise(case: Case, *, turn_deg: float) -> GroupImages:
    """The images of a case, which went into the reference near their true poses."""
    turn = torch.tensor([math.radians(turn_deg), 0.0, 0.0], dtype=torch.float64)
    noise = NoiseInReference(
        torch.full((SIZE_PX,), 10.0, dtype=torch.float64),
        spread_A2=300.0 * torch.eye(3, dtype=torch.float64),
    )
    own = OwnNoise(
        (matrix_from_rotvec(turn) @ case.rotations)[:, None], case.shifts[:, None] + 0.2,
        torch.ones(len(case.shifts), 1, dtype=torch.float64), noise,
    )  # fmt: skip
    return replace(case.images, own=own)


@pytest.mark.parametrize("has_own_noise", [False, True])
def test_the_analytic_gradient_is_that_of_the_log_posterior(has_own_noise):
    case = Case(4, PLANTED, noise=1.0)
    if has_own_noise:
        case.images = with_own_noise(case, turn_deg=2)
        assert bool((case.problem(ALL).own.bonus > 1).all())
    problem = case.problem(ALL)
    theta = 0.5 * case.values
    _, gradient, _ = problem.normal_equations(case.rotations, case.shifts, theta)
    steps = [3e-3] * 3 + [0.03] * 2 + [0.02, 0.02, 0.004, 0.004, 0.004, 40.0, 40.0, 40.0]
    for a, step in enumerate(steps):
        ends = []
        for sign in (1, -1):
            turn, shift, value = torch.zeros(3).double(), torch.zeros(2).double(), theta.clone()
            if a < 3:
                turn[a] = sign * step
            elif a < 5:
                shift[a - 3] = sign * step
            else:
                value[:, a - 5] += sign * step
            ends.append(
                problem.normal_equations(
                    matrix_from_rotvec(turn) @ case.rotations, case.shifts + shift, value
                )[0]
            )
        numeric = (ends[0] - ends[1]) / (2 * step)
        # Turns and magnifications move the samples: the gradient of the interpolation kernel is
        # that of the slices to within 7 %, here weighted by the residual.
        error = (numeric - gradient[:, a]).norm() / numeric.norm()
        assert float(error) < (0.2 if a < 3 or 7 <= a < 10 else 0.01), (a, numeric, gradient[:, a])


def test_the_score_is_the_log_likelihood_less_the_priors():
    case = Case(3, PLANTED, noise=1.0)
    prior = ALL
    theta = 0.7 * case.values
    problem = case.problem(prior)
    score, _, _ = problem.normal_equations(case.rotations, case.shifts, theta)
    own = with_defocus_change(case.defocus, theta)
    c = contrast_transfer(case.group, own, case.view.s_per_A)
    model = c * extract_slices(
        case.reference.grid, magnified(case.rotations, theta), case.view.points
    )
    k = case.view.k_px().double()
    model = (1 + theta[:, :1]) * model * torch.exp(2j * math.pi / SIZE_PX * (case.shifts @ k.T))
    model = without_offset(case.view, model, -theta[:, 1]) * problem.white
    x = problem.x
    likelihood = x.abs().square().sum(1) - (x - model).abs().square().sum(1)
    penalty = 0.5 * (theta / prior.sigma()).square().sum(1)
    penalty = penalty + 0.5 * SHIFT_PRECISION * case.shifts.square().sum(1)
    torch.testing.assert_close(score, (likelihood - penalty).double(), rtol=1e-4, atol=0.1)


@pytest.mark.parametrize(
    ("prior", "planted"),
    [
        (only("grey"), torch.tensor([-0.2, 0.02, 0, 0, 0, 0, 0, 0])),
        (only("grey"), torch.tensor([0.2, -0.01, 0, 0, 0, 0, 0, 0])),
        (only("scale"), torch.tensor([0, 0, 0.015, 0, 0, 0, 0, 0])),
        (only("magnification"), torch.tensor([0, 0, 0.0, 0.008, -0.006, 0, 0, 0])),
        (only("defocus"), torch.tensor([0, 0, 0, 0, 0, 400.0, 0, 0])),
        (only("defocus"), torch.tensor([0, 0, 0, 0, 0, -250.0, 120.0, -80.0])),
        (ALL, PLANTED),
    ],
)
def test_planted_values_are_recovered_as_well_as_the_noise_allows(prior, planted):
    case = Case(48, planted, noise=1.5)
    found = case.refine(prior)
    _, _, information = case.problem(prior).normal_equations(
        case.rotations, case.shifts, case.values
    )
    least = torch.linalg.inv(information)
    active = prior.active()
    wanted = active.tolist()
    for a in wanted:
        sigma = least[:, 5 + wanted.index(a), 5 + wanted.index(a)].sqrt()
        z = (found.values[:, a] - case.values[:, a]) / sigma
        # The scatter is that of the bound; the mean of 48 is known to 0.15.
        assert float(z.std()) < 1.35, (a, z.std())
        assert abs(float(z.mean())) < 0.6, (a, z.mean())
    unused = [i for i in range(8) if i not in wanted]
    assert bool((found.values[:, unused] == 0).all())
    pose = geodesic_angle(found.rotations, case.rotations)
    bound = least[:, :3, :3].diagonal(dim1=1, dim2=2).sum(1).sqrt()
    assert float(pose.median()) < 1.3 * float(bound.median())


def test_values_stay_within_their_bounds():
    tight = OpticsPrior(True, True, True, True, 0.05, 0.001, 0.003, 60.0)
    found = Case(8, PLANTED, noise=0.5).refine(tight)
    values = found.values
    assert float(values[:, 0].abs().max()) <= 0.05 + 1e-9
    assert float(values[:, 1].abs().max()) <= 0.001 + 1e-9
    change = magnification_matrix(values) - torch.eye(2).double()
    assert float(torch.linalg.matrix_norm(change, 2).max()) <= 0.003 + 1e-9
    assert float((values[:, 5].abs() + values[:, 6:].norm(dim=1)).max()) <= 60 + 1e-6


def test_the_kernels_read_magnified_slices_with_magnified_rows():
    case = Case(2, PLANTED, noise=1.0)
    matrices = magnification_matrix(case.values).float()
    rows = extract_slices(
        case.reference.grid, magnified(case.rotations, case.values), case.view.points
    )
    for i in range(2):
        moved = extract_slices(
            case.reference.grid, case.rotations[i : i + 1], case.view.points @ matrices[i].T
        )
        torch.testing.assert_close(rows[i : i + 1], moved, rtol=1e-3, atol=0.2)


def test_slopes_of_the_contrast_transfer_are_its_derivatives():
    case = Case(3, PLANTED)
    s = case.view.s_per_A.double()
    defocus = Defocus(**{k: v.double() for k, v in case.defocus.__dict__.items()})
    c, slopes = contrast_transfer_and_slopes(case.group, defocus, s)
    torch.testing.assert_close(c, contrast_transfer(case.group, defocus, s))
    for a in range(3):
        ends = []
        for sign in (1, -1):
            change = torch.zeros(3, 8, dtype=torch.float64)
            change[:, 5 + a] = sign * 1.0
            ends.append(contrast_transfer(case.group, with_defocus_change(defocus, change), s))
        torch.testing.assert_close((ends[0] - ends[1]) / 2, slopes[..., a], rtol=1e-3, atol=1e-7)


def test_without_contrast_transfer_the_defocus_stays():
    group = OpticsGroup("g", PIXEL_A, SIZE_PX, has_ctf=False)
    case = Case(2, PLANTED)
    c, slopes = contrast_transfer_and_slopes(group, case.defocus, case.view.s_per_A)
    assert bool((c == 1).all())
    assert bool((slopes == 0).all())


def test_the_equations_do_not_depend_on_how_many_images_are_taken_at_once(monkeypatch):
    case = Case(5, PLANTED)
    arguments = (case.rotations, case.shifts, 0.5 * case.values)
    together = case.problem(ALL).normal_equations(*arguments)
    monkeypatch.setattr(particle_optics, "_COEFFICIENTS_AT_ONCE", 2 * len(case.view.points))
    apart = case.problem(ALL).normal_equations(*arguments)
    for a, b in zip(together, apart, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4 * float(a.abs().max()))
