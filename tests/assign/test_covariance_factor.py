import pytest
import torch

from cryorefine.assign.comparison import WhitenedImages
from cryorefine.assign.covariance_factor import lag_factor, split_disagreement, variance_factor
from cryorefine.assign.particle_optics import N_VALUES, magnified
from cryorefine.fourier.band import phase_ramp
from cryorefine.geometry.rotation import matrix_from_rotvec
from cryorefine.kernels.reference import extract_slices

from .test_alignment import Case


def factor(case, *, claimed=1.0):
    """Variance factor of a case whose noise is claimed to be this many times weaker than it is."""
    apart = split_disagreement(
        case.grid,
        WhitenedImages(case.view, case.x * claimed, case.c * claimed),
        case.rotations,
        case.shifts,
        max_turn_rad=0.1,
    )
    return variance_factor(apart)


def test_two_parts_of_an_image_agree_as_their_covariances_say_when_the_model_is_exact():
    # The 90 % quantile of 400 values of chi squared is known to 6 %.
    assert factor(Case("c1", 400, noise=1.0)) == pytest.approx(1.05, abs=0.15)


def test_an_underestimated_noise_shows_in_full():
    case = Case("c1", 400, noise=1.0)
    assert factor(case, claimed=1.5) / factor(case) == pytest.approx(1.5**2, rel=0.1)


@pytest.mark.parametrize("triple", [(0.05, 0.0, 0.0), (-0.02, 0.03, 0.02)])
def test_magnified_particles_agree_as_their_covariances_say_about_their_own_poses(triple):
    case = Case("c1", 400, noise=1.0)
    optics = torch.zeros(400, N_VALUES, dtype=torch.float64)
    optics[:, 2:5] = torch.tensor(triple)
    slices = extract_slices(case.grid, magnified(case.rotations, optics), case.view.points)
    generator = torch.Generator().manual_seed(5)
    noise = torch.randn(case.x.shape, generator=generator, dtype=case.x.dtype)
    x = case.c * slices * phase_ramp(case.view.band, -case.shifts.float()) + noise
    images = WhitenedImages(case.view, x, case.c)
    arguments = (case.grid, images, case.rotations, case.shifts)
    apart = split_disagreement(*arguments, max_turn_rad=0.1, optics=optics)
    # As for particles without a magnification, whose poses are compared as rotations.
    assert variance_factor(apart) == pytest.approx(1.05, abs=0.15)
    assert float(apart.median()) == pytest.approx(4.351, rel=0.2)
    misread = split_disagreement(*arguments, max_turn_rad=0.1)
    assert variance_factor(misread) > 1.3


def test_a_noisy_reference_shows_as_excess_variance():
    case = Case("c1", 300, noise=1.0)
    values = case.grid.values
    noise = torch.randn(
        values.shape, generator=torch.Generator().manual_seed(3), dtype=values.dtype
    )
    clean = factor(case)
    values += 0.5 * values.abs().square().mean().sqrt() * noise
    assert factor(case) > 1.2 * clean


def test_no_particles_and_accidental_agreement_leave_variances_as_they_are():
    assert variance_factor(torch.zeros(0, dtype=torch.float64)) == 1.0
    assert variance_factor(torch.full((9,), 0.1, dtype=torch.float64)) == 1.0


def test_a_few_particles_on_another_maximum_do_not_count():
    chi2 = torch.distributions.Chi2(5.0)
    torch.manual_seed(0)
    usual = chi2.sample((2000,)).double()
    wild = torch.cat([usual, torch.full((40,), 1e5, dtype=torch.float64)])
    assert variance_factor(wild) == pytest.approx(variance_factor(usual), rel=0.1)


def steps(covariance, length, *, seed=0):
    """Return rotations and shifts before and after random steps of a covariance times length²."""
    generator = torch.Generator().manual_seed(seed)
    n = len(covariance)
    drawn = torch.randn(n, 5, 1, generator=generator, dtype=torch.float64)
    step = length * (torch.linalg.cholesky(covariance) @ drawn)[..., 0]
    before = matrix_from_rotvec(torch.randn(n, 3, generator=generator, dtype=torch.float64))
    shifts = torch.randn(n, 2, generator=generator, dtype=torch.float64)
    return (before, matrix_from_rotvec(step[:, :3]) @ before), (shifts, shifts + step[:, 3:])


@pytest.mark.parametrize("length", [0.0, 0.3, 1.0])
def test_poses_that_still_move_are_less_certain_by_the_square_of_their_last_step(length):
    spread = torch.tensor([1e-2, 2e-2, 1e-2, 0.5, 0.3], dtype=torch.float64)
    covariance = torch.diag(spread**2).expand(4000, 5, 5)
    moved = lag_factor(*steps(covariance, length), covariance)
    assert moved == pytest.approx(length**2, rel=0.06, abs=1e-9)


def test_what_jumped_and_what_is_not_known_does_not_count_as_moving():
    covariance = 1e-4 * torch.eye(5, dtype=torch.float64).repeat(300, 1, 1)
    rotations, shifts = steps(covariance, 0.3)
    usual = lag_factor(rotations, shifts, covariance)
    rotations[1][:20] = rotations[0][:20].flip(1)
    covariance[20:30] = torch.nan
    covariance[30:40] = 0
    assert lag_factor(rotations, shifts, covariance) == pytest.approx(usual, rel=0.25)
    assert lag_factor(rotations, shifts, torch.zeros_like(covariance)) == 0.0
