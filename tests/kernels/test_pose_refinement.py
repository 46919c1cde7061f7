import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cryorefine.fourier.band import make_band, phase_ramp
from cryorefine.geometry.rotation import geodesic_angle, matrix_from_rotvec, random_rotations
from cryorefine.geometry.symmetry import parse_symmetry
from cryorefine.kernels import dispatch, reference
from cryorefine.kernels.grid import make_slice_grid
from cryorefine.kernels.poses import LevenbergMarquardt, OwnNoiseInReference, PoseProblem
from cryorefine.model.atoms import project_atoms, scattering_basis, volume_from_atoms
from tests.builders import phantom

PIXEL_A = 3.5
REFINEMENT = LevenbergMarquardt(
    max_evaluations=15, max_shift_px=6.0, max_turn_rad=0.3, max_move_px=2.0, tolerance=1e-4
)


def make_problem(size_px: int, n: int, *, noise: float, turn_deg: float, move_px: float, seed=0):
    """Images of a phantom with known poses, and starts away from them."""
    generator = torch.Generator().manual_seed(seed)
    atoms = phantom("c1", 0.75 * size_px * PIXEL_A, 3)
    basis = scattering_basis(atoms, 0.6 / PIXEL_A)
    volume = volume_from_atoms(atoms, basis, size_px=size_px, voxel_A=PIXEL_A)
    band = make_band(size_px, size_px // 2 - 2, min_radius=0.5)
    rotations = random_rotations(n, generator)
    shifts = 1.5 * torch.randn(n, 2, generator=generator, dtype=torch.float64)
    slices = project_atoms(atoms, basis, rotations, band, PIXEL_A)
    sigma = noise * float(slices.abs().square().mean().sqrt())
    ctf = torch.cos(0.02 * band.radius**2)[None].expand(n, -1)
    images = ctf * slices * phase_ramp(band, -shifts.float())
    images = images + sigma * torch.randn(images.shape, generator=generator, dtype=images.dtype)
    tilt = torch.randn(n, 3, generator=generator, dtype=torch.float64)
    tilt = tilt / tilt.norm(dim=1, keepdim=True) * math.radians(turn_deg)
    k = torch.stack([band.kx, band.ky], -1)
    problem = PoseProblem(
        x=images / sigma,
        c=ctf / sigma,
        points=k.float(),
        k_px=k,
        image_size_px=size_px,
        image_of=torch.arange(n),
        rotations=matrix_from_rotvec(tilt) @ rotations,
        shifts_px=shifts + move_px,
        prior_shift_px=torch.zeros(n, 2, dtype=torch.float64),
    )
    return make_slice_grid(volume, size_px / 2), problem, rotations, shifts


def test_poses_are_recovered_from_five_degrees_and_a_pixel_away():
    grid, problem, rotations, shifts = make_problem(40, 30, noise=1.0, turn_deg=5, move_px=0.7)
    found = dispatch.refine_poses(grid, problem, REFINEMENT)
    angle = geodesic_angle(found.rotations, rotations)
    shift = (found.shifts_px - shifts).norm(dim=1)
    # As good as the noise allows: the inverse of the information is the least covariance.
    least = torch.diagonal(torch.linalg.inv(found.information), dim1=1, dim2=2)
    assert float(angle.median()) < 1.5 * float(least[:, :3].sum(1).sqrt().median())
    assert float(shift.median()) < 1.5 * float(least[:, 3:].sum(1).sqrt().median())


def test_without_noise_the_pose_is_found_to_a_tenth_of_a_degree():
    # What is left is the interpolation's error of half a percent.
    grid, problem, rotations, shifts = make_problem(40, 12, noise=0.02, turn_deg=3, move_px=0.3)
    found = dispatch.refine_poses(grid, problem, REFINEMENT)
    assert float(torch.rad2deg(geodesic_angle(found.rotations, rotations)).max()) < 0.1
    assert float((found.shifts_px - shifts).norm(dim=1).max()) < 0.05


@pytest.mark.parametrize("size_px", [31, 40])
def test_the_cpu_kernel_refines_as_the_reference_does(size_px):
    # With more noise some maxima are so flat that where both stop differs by half a degree.
    grid, problem, _, _ = make_problem(size_px, 10, noise=0.3, turn_deg=3, move_px=0.4)
    fast = dispatch.refine_poses(grid, problem, REFINEMENT)
    slow = reference.refine_poses(grid, problem, REFINEMENT)
    assert float(torch.rad2deg(geodesic_angle(fast.rotations, slow.rotations)).max()) < 0.1
    assert float((fast.shifts_px - slow.shifts_px).norm(dim=1).max()) < 0.02
    torch.testing.assert_close(fast.score, slow.score, rtol=1e-4, atol=0.05)
    torch.testing.assert_close(fast.power, slow.power, rtol=1e-3, atol=0.05)
    scale = slow.information.abs().amax((1, 2))[:, None, None]
    torch.testing.assert_close(
        fast.information / scale, slow.information / scale, rtol=0, atol=5e-3
    )


@pytest.mark.parametrize("run", [dispatch.refine_poses, reference.refine_poses])
@pytest.mark.parametrize("evaluations", [0, 1, 3, 15])
def test_poses_and_scores_are_the_same_whether_information_is_asked_for_or_not(run, evaluations):
    grid, problem, _, _ = make_problem(31, 8, noise=0.5, turn_deg=4, move_px=0.5)
    options = replace(REFINEMENT, max_evaluations=evaluations)
    told = run(grid, problem, options)
    untold = run(grid, problem, replace(options, informs=False))
    # The last evaluation adds up the score in another order, in single precision.
    torch.testing.assert_close(untold.score, told.score, rtol=1e-5, atol=1e-3)
    torch.testing.assert_close(untold.power, told.power, rtol=1e-5, atol=1e-3)
    torch.testing.assert_close(untold.rotations, told.rotations, rtol=0, atol=1e-6)
    torch.testing.assert_close(untold.shifts_px, told.shifts_px, rtol=0, atol=1e-6)
    assert bool((torch.diagonal(told.information, dim1=1, dim2=2) > 0).all())
    assert not bool(untold.information.any())


@pytest.mark.parametrize("run", [dispatch.refine_poses, reference.refine_poses])
def test_most_refinements_of_noisy_images_come_to_their_maximum_within_ten_evaluations(run):
    # By the Gauss-Newton matrix alone, without the curvature that noise adds, it is half of them.
    grid, problem, _, _ = make_problem(32, 100, noise=3.0, turn_deg=3, move_px=0.7)
    ten = replace(REFINEMENT, max_evaluations=10, tolerance=0.05)
    found = run(grid, problem, ten)
    end = run(grid, problem, replace(ten, max_evaluations=100, tolerance=1e-5))
    assert float((end.score - found.score < 0.3).double().mean()) > 0.75


@given(seed=st.integers(0, 2**31), log_noise=st.floats(-3, 3))
def test_a_learned_curvature_explains_how_the_gradient_fell_along_the_step(seed, log_noise):
    generator = torch.Generator().manual_seed(seed)
    root = torch.randn(4, 5, 8, generator=generator, dtype=torch.float64)
    matrix = root @ root.mT
    step = torch.randn(4, 5, generator=generator, dtype=torch.float64)
    fall = 10**log_noise * torch.randn(4, 5, generator=generator, dtype=torch.float64)
    known = 10**log_noise * torch.randn(4, 5, 5, generator=generator, dtype=torch.float64)
    known = known + known.mT
    change = reference.learned_curvature(step, fall, matrix, known)
    assert torch.equal(change, change.mT) or float((change - change.mT).abs().max()) < 1e-9
    explained = ((matrix + known + change) @ step[..., None])[..., 0]
    scale = float(fall.abs().max() + (known.abs().sum() + matrix.abs().sum()) * step.abs().max())
    assert float((explained - fall).abs().max()) < 1e-10 * scale
    # What was known already is not learned again.
    again = reference.learned_curvature(step, fall, matrix, known + change)
    assert float(again.abs().max()) < 1e-9 * float(change.abs().max() + known.abs().max() + 1)


def test_a_step_of_no_length_teaches_nothing():
    zero, matrix = torch.zeros(2, 5, dtype=torch.float64), torch.eye(5, dtype=torch.float64)
    change = reference.learned_curvature(
        zero, zero, matrix.expand(2, 5, 5), zero[..., None] * zero[:, None]
    )
    assert torch.equal(change, torch.zeros(2, 5, 5, dtype=torch.float64))


@pytest.mark.parametrize("run", [dispatch.refine_poses, reference.refine_poses])
def test_starts_without_a_prospect_of_their_floor_are_given_up_and_the_others_end_as_ever(run):
    grid, problem, _, _ = make_problem(32, 8, noise=1.0, turn_deg=6, move_px=0.8)
    free, start = (
        run(grid, problem, REFINEMENT),
        run(grid, problem, replace(REFINEMENT, max_evaluations=0)),
    )
    is_hopeless = torch.arange(8) % 2 == 1
    floor = torch.where(is_hopeless, free.score + 1e6, free.score - 1)
    found = run(grid, replace(problem, floor=floor), REFINEMENT)
    assert bool((free.score > start.score + 1)[is_hopeless].all())
    torch.testing.assert_close(found.score[is_hopeless], start.score[is_hopeless])
    torch.testing.assert_close(found.rotations[is_hopeless], problem.rotations[is_hopeless])
    torch.testing.assert_close(found.score[~is_hopeless], free.score[~is_hopeless])
    torch.testing.assert_close(found.rotations[~is_hopeless], free.rotations[~is_hopeless])


def test_no_start_that_reaches_its_floor_is_given_up():
    grid, problem, rotations, _ = make_problem(40, 40, noise=2.0, turn_deg=4, move_px=0.7)
    free = dispatch.refine_poses(grid, problem, REFINEMENT)
    raced = dispatch.refine_poses(grid, replace(problem, floor=free.score - 5), REFINEMENT)
    kept = raced.score > free.score - 1
    # The prospect is six times what the next step promises: an estimate, not a bound.
    assert int(kept.sum()) >= 38
    assert geodesic_angle(raced.rotations, rotations)[kept].median() < 0.1


def test_the_score_is_the_log_likelihood_over_that_of_an_empty_image():
    grid, problem, _, _ = make_problem(32, 6, noise=1.0, turn_deg=2, move_px=0.2)
    only_score = LevenbergMarquardt(0, 6.0, 0.3, 2.0)
    found = dispatch.refine_poses(grid, problem, only_score)
    model = problem.c * reference.extract_slices(grid, problem.rotations, problem.points)
    angle = problem.shifts_px @ problem.k_px.double().T * (2 * math.pi / 32)
    model = model * torch.polar(torch.ones_like(angle), angle)
    expected = problem.x.abs().square().sum(1) - (problem.x - model).abs().square().sum(1)
    torch.testing.assert_close(found.score, expected.double(), rtol=1e-4, atol=0.01)
    torch.testing.assert_close(found.rotations, problem.rotations)


def test_the_score_never_falls_and_the_analytic_gradient_vanishes_at_the_top():
    grid, problem, _, _ = make_problem(32, 8, noise=1.0, turn_deg=4, move_px=0.5)
    before = dispatch.refine_poses(grid, problem, LevenbergMarquardt(0, 6.0, 0.3, 2.0))
    after = dispatch.refine_poses(grid, problem, REFINEMENT)
    assert bool((after.score >= before.score).all())
    top = replace(problem, rotations=after.rotations, shifts_px=after.shifts_px)
    _, _, gradient, matrix = reference._normal_equations(grid, top)
    # What a further Newton step would still gain is far below one unit of log-likelihood.
    gain = 0.5 * (gradient * torch.linalg.solve(matrix, gradient)).sum(1)
    assert float(gain.abs().max()) < 0.1


def test_shifts_never_leave_their_limit_and_say_when_they_reach_it():
    grid, problem, _, shifts = make_problem(32, 8, noise=0.5, turn_deg=1, move_px=0.0)
    limit = float(shifts.norm(dim=1).median())
    refinement = LevenbergMarquardt(10, limit, 0.3, 2.0)
    start = shifts * (limit * 0.5 / shifts.norm(dim=1, keepdim=True)).clamp(max=1)
    problem = PoseProblem(**{**problem.__dict__, "shifts_px": start})
    for run in (dispatch.refine_poses, reference.refine_poses):
        found = run(grid, problem, refinement)
        assert float(found.shifts_px.norm(dim=1).max()) <= limit * (1 + 1e-9)
        assert bool(found.at_edge.any())
        assert not bool(found.at_edge.all())


@pytest.mark.parametrize("frozen", ["max_turn_rad", "max_move_px"])
def test_what_is_frozen_stays_and_the_rest_finds_its_own_maximum(frozen):
    grid, problem, _, _ = make_problem(32, 8, noise=0.5, turn_deg=2, move_px=0.5)
    refinement = replace(REFINEMENT, **{frozen: 0.0})
    fast, slow = (
        run(grid, problem, refinement) for run in (dispatch.refine_poses, reference.refine_poses)
    )
    for found in (fast, slow):
        turned = geodesic_angle(found.rotations, problem.rotations)
        moved = (found.shifts_px - problem.shifts_px).norm(dim=1)
        still, free = (turned, moved) if frozen == "max_turn_rad" else (moved, turned)
        assert float(still.max()) < 1e-7
        assert float(free.min()) > 1e-3
        # Nothing is left to gain by what may change, and nothing is said of the two together.
        top = replace(problem, rotations=found.rotations, shifts_px=found.shifts_px)
        _, _, gradient, matrix = reference._normal_equations(grid, top)
        part = slice(3, 5) if frozen == "max_turn_rad" else slice(0, 3)
        g, h = gradient[:, part], matrix[:, part, part]
        assert float((0.5 * (g * torch.linalg.solve(h, g)).sum(1)).abs().max()) < 0.1
        assert float(found.information[:, :3, 3:].abs().max()) == 0
    torch.testing.assert_close(fast.score, slow.score, rtol=1e-4, atol=0.05)


def test_a_tight_prior_holds_the_shift():
    grid, problem, _, _ = make_problem(32, 6, noise=1.0, turn_deg=1, move_px=0.0)
    held = PoseProblem(**{**problem.__dict__, "prior_precision": 1e9})
    for run in (dispatch.refine_poses, reference.refine_poses):
        assert float(run(grid, held, REFINEMENT).shifts_px.abs().max()) < 1e-2


def test_the_estimated_covariance_matches_the_scatter_of_the_errors():
    grid, problem, rotations, shifts = make_problem(40, 200, noise=1.5, turn_deg=1, move_px=0.1)
    found = dispatch.refine_poses(grid, problem, REFINEMENT)
    error = torch.linalg.solve(torch.eye(5).double(), torch.zeros(200, 5).double()[..., None])[
        ..., 0
    ]
    relative = rotations @ found.rotations.transpose(1, 2)
    error[:, :3] = torch.stack(
        [relative[:, 2, 1], relative[:, 0, 2], relative[:, 1, 0]], -1
    )  # small angles
    error[:, 3:] = shifts - found.shifts_px
    chi2 = torch.einsum("na,nab,nb->n", error, found.information, error)
    # Five degrees of freedom: the 95 % point of chi-square is 11.07.
    inside = float((chi2 < 11.07).double().mean())
    assert 0.88 <= inside <= 0.99


def test_candidates_that_are_picked_stand_apart_modulo_symmetry():
    group = parse_symmetry("d2")
    rotations = random_rotations(300, torch.Generator().manual_seed(0))
    score = torch.arange(300, 0, -1).float()[None]
    index, kept = dispatch.pick_separated(
        torch.arange(300)[None],
        score,
        rotations,
        group.matrices,
        cos_apart=math.cos(math.radians(25)),
        keep=40,
        window=1e9,
    )
    chosen = rotations[index[0][index[0] >= 0]]
    assert index[0, 0] == 0
    assert kept[0, 0] == 300
    n = len(chosen)
    distance = group.distance(
        chosen[:, None].expand(n, n, 3, 3), chosen[None].expand(n, n, 3, 3)
    ).clone()
    distance.fill_diagonal_(math.pi)
    assert float(torch.rad2deg(distance.min())) >= 25 - 1e-6


def test_picking_stops_at_the_window_and_at_the_count():
    rotations = random_rotations(50, torch.Generator().manual_seed(0))
    score = -torch.arange(50).float()[None]
    args = torch.arange(50)[None], score, rotations, torch.eye(3)[None].double()
    # Cosine 2: everything is apart.
    index, _ = dispatch.pick_separated(*args, cos_apart=2.0, keep=50, window=7.5)
    assert (index[0] >= 0).sum() == 8
    index, kept = dispatch.pick_separated(*args, cos_apart=2.0, keep=5, window=1e9)
    assert index.tolist() == [[0, 1, 2, 3, 4]]
    assert kept.shape == (1, 5)


def own_noise(problem: PoseProblem, *, bonus: float, turn_deg: float) -> OwnNoiseInReference:
    """Images that were inserted some way from where their refinement starts."""
    m = len(problem.image_of)
    generator = torch.Generator().manual_seed(5)
    turn = torch.randn(m, 3, generator=generator, dtype=torch.float64) * math.radians(turn_deg)
    return OwnNoiseInReference(
        rotations=matrix_from_rotvec(turn) @ problem.rotations,
        shifts_px=problem.shifts_px + 0.3,
        bonus=torch.full((m,), bonus, dtype=torch.float64),
        turn_decay=torch.tensor(
            [[150.0, 20.0, -30.0], [20.0, 100.0, 10.0], [-30.0, 10.0, 300.0]], dtype=torch.float64
        ).expand(m, 3, 3),
        move_decay=torch.full((m,), 0.4, dtype=torch.float64),
    )


def test_the_gain_by_own_noise_has_the_gradient_that_is_stated():
    _, problem, _, _ = make_problem(32, 6, noise=1.0, turn_deg=5, move_px=0.4)
    own = own_noise(problem, bonus=20.0, turn_deg=4)
    gained, gradient = reference.own_noise_gain(own, problem.rotations, problem.shifts_px)
    h = 1e-6
    for parameter in range(5):
        turn, move = torch.zeros(6, 3, dtype=torch.float64), torch.zeros(6, 2, dtype=torch.float64)
        (turn if parameter < 3 else move)[:, parameter if parameter < 3 else parameter - 3] = h
        up, down = (
            reference.own_noise_gain(
                own, matrix_from_rotvec(sign * turn) @ problem.rotations,
                problem.shifts_px + sign * move,
            )[0]
            for sign in (1, -1)
        )  # fmt: skip
        torch.testing.assert_close((up - down) / (2 * h), gradient[:, parameter])
    assert bool((gained > 0.5).all())


def test_own_noise_counts_nothing_beyond_a_quarter_of_a_turn():
    _, problem, _, _ = make_problem(32, 4, noise=1.0, turn_deg=5, move_px=0.4)
    own = own_noise(problem, bonus=20.0, turn_deg=0)
    half_turn = matrix_from_rotvec(torch.tensor([[math.pi, 0.0, 0.0]], dtype=torch.float64))
    gained, gradient = reference.own_noise_gain(
        own, half_turn @ problem.rotations, problem.shifts_px
    )
    assert not bool(gained.any())
    assert not bool(gradient.any())


@pytest.mark.parametrize("size_px", [31, 40])
def test_the_cpu_kernel_takes_own_noise_out_as_the_reference_does(size_px):
    grid, problem, _, _ = make_problem(size_px, 10, noise=0.3, turn_deg=3, move_px=0.4)
    problem = replace(problem, own=own_noise(problem, bonus=20.0, turn_deg=2))
    for options in (REFINEMENT, replace(REFINEMENT, max_evaluations=0)):
        fast = dispatch.refine_poses(grid, problem, options)
        slow = reference.refine_poses(grid, problem, options)
        assert float(torch.rad2deg(geodesic_angle(fast.rotations, slow.rotations)).max()) < 0.1
        assert float((fast.shifts_px - slow.shifts_px).norm(dim=1).max()) < 0.02
        torch.testing.assert_close(fast.score, slow.score, rtol=1e-4, atol=0.05)
    without = dispatch.refine_poses(grid, replace(problem, own=None), options)
    assert bool((without.score - fast.score > 1).all())
