import math
from dataclasses import replace

import pytest
import torch

from cryorefine.assign import align, exhaustive
from cryorefine.assign.align import (
    AlignmentOptions,
    Alternatives,
    align_globally,
    align_locally,
    score_poses,
)
from cryorefine.assign.comparison import Reference, WhitenedImages
from cryorefine.assign.exhaustive import (
    PoseGrid,
    Pruning,
    grid_posterior,
    make_coarse_search,
    search_coarse,
    shift_grid,
    within_mass,
)
from cryorefine.assign.own_noise import NoiseInReference, OwnNoise
from cryorefine.assign.search_depth import Search, SearchDepth
from cryorefine.fourier.band import phase_ramp
from cryorefine.geometry.rotation import (
    geodesic_angle,
    matrix_from_euler,
    matrix_from_rotvec,
    random_rotations,
)
from cryorefine.geometry.so3 import rotation_grid
from cryorefine.geometry.symmetry import parse_symmetry
from cryorefine.kernels.grid import make_slice_grid
from cryorefine.model.atoms import project_atoms, scattering_basis, volume_from_atoms
from cryorefine.model.observe import make_group_band
from cryorefine.optics.group import OpticsGroup
from tests.builders import phantom

SIZE_PX, PIXEL_A, DIAMETER_A = 44, 4.0, 120.0
STEP_RAD = math.radians(15)


def own_noise(case, rotations, shifts_px, *, bonus: float) -> OwnNoise:
    """Images that were inserted at these poses, and gain a log-likelihood there."""
    share = torch.ones(SIZE_PX // 2 + 2, dtype=torch.float64)
    of_one = case.c.double().square().sum(1)
    noise = NoiseInReference(share, spread_A2=400.0 * torch.eye(3, dtype=torch.float64))
    return OwnNoise(rotations[:, None], shifts_px[:, None], (bonus / of_one)[:, None], noise)


class Case:
    """Noisy images of a phantom with known poses, and what is needed to find them."""

    def __init__(
        self, symmetry: str, n: int, *, noise: float, shift_px: float = 2.0, seed: int = 0
    ):
        self.group = parse_symmetry(symmetry)
        generator = torch.Generator().manual_seed(seed)
        atoms = phantom(symmetry, DIAMETER_A, 2)
        basis = scattering_basis(atoms, 0.6 / PIXEL_A)
        volume = volume_from_atoms(atoms, basis, size_px=SIZE_PX, voxel_A=PIXEL_A)
        optics = OpticsGroup("g", PIXEL_A, SIZE_PX, has_ctf=False)
        self.view = make_group_band(
            optics, volume_size_px=SIZE_PX, voxel_A=PIXEL_A, resolution_A=10.0
        )
        band = self.view.band
        self.rotations = random_rotations(n, generator)
        self.shifts = shift_px * torch.randn(n, 2, generator=generator, dtype=torch.float64)
        slices = project_atoms(atoms, basis, self.rotations, band, PIXEL_A)
        sigma = noise * float(slices[:, 1:].abs().square().mean().sqrt())
        x = slices * phase_ramp(band, -self.shifts.float())
        x = x + sigma * torch.randn(x.shape, generator=generator, dtype=x.dtype)
        self.x, self.c = x / sigma, torch.ones(x.shape) / sigma
        self.grid = make_slice_grid(volume, SIZE_PX / 2)
        self.images = WhitenedImages(self.view, self.x, self.c)
        self.reference = Reference(self.grid, self.group)

    def search(self, weight=None, max_shell=6, **tilts):
        rotations = rotation_grid(STEP_RAD, group=self.group, **tilts)
        poses = PoseGrid(rotations, STEP_RAD, shift_grid(6.0, 2.0))
        return make_coarse_search(
            self.grid, self.view, poses, max_shell=max_shell, weight=weight
        )  # fmt: skip

    def globally(self, table=None, options=None, *, images=None, previous=None):
        """Align all images, or some, by a search with the standard depth."""
        search = Search(self.search() if table is None else table, DEPTH)
        return align_globally(
            self.images if images is None else images, self.reference, search,
            OPTIONS if options is None else options, previous=previous,
        )  # fmt: skip

    def error_deg(self, rotations):
        return torch.rad2deg(self.group.distance(rotations, self.rotations))


DEPTH = SearchDepth(6, STEP_RAD, 2.0, 256, 0.0, 0.0, 1.0, 1.0, 0.0)
EVERYTHING = Pruning(mass_lost=0.0, allowance=1e6, most=10_000)
OPTIONS = AlignmentOptions(max_shift_px=6.0, shift_sigma_px=6.0, resolution_turn_rad=10 / 60)


def test_a_search_tells_which_known_poses_it_would_have_missed():
    case = Case("d2", 12, noise=0.3)
    search, known = case.search(), (case.rotations, case.shifts)
    whole = case.globally(search, previous=known)
    assert not whole.is_missed.any()
    # Orientations that lie within 40° of the last six poses are left out.
    distances = [
        case.group.distance(search.rotations, known.expand_as(search.rotations))
        for known in case.rotations[6:]
    ]
    far = torch.stack(distances).amin(0) > math.radians(40)
    poorer = replace(
        search, rotations=search.rotations[far], slices=search.slices[:, far],
        power=search.power[:, far],
    )  # fmt: skip
    found = case.globally(poorer, previous=known)
    assert found.is_missed[6:].all()
    assert float(case.error_deg(found.rotations).max()) < 5
    # What is found without help, or replaced by something better, is not missed.
    wrong = (random_rotations(12, torch.Generator().manual_seed(7)), case.shifts)
    assert not case.globally(search, previous=wrong).is_missed.any()
    assert not case.globally(search).is_missed.any()


@pytest.mark.parametrize("symmetry", ["c1", "d2", "o"])
def test_a_global_search_finds_the_poses_without_any_start(symmetry):
    case = Case(symmetry, 24, noise=0.7)
    found = case.globally()
    assert float(case.error_deg(found.rotations).median()) < 2.0
    assert float((case.error_deg(found.rotations) > 10).double().mean()) <= 1 / 24
    assert float((found.shifts_px - case.shifts).norm(dim=1).median()) < 0.3


def test_a_global_search_reports_how_sure_it_is():
    clear = Case("c1", 16, noise=0.7)
    murky = Case("c1", 16, noise=6.0)
    results = [case.globally() for case in (clear, murky)]
    assert float(results[0].gap.median()) > float(results[1].gap.median())
    assert float(results[0].n_effective.mean()) < float(results[1].n_effective.mean())
    assert float(results[0].correlation.median()) > float(results[1].correlation.median())
    assert float(results[0].sigma_rotation_rad.median()) < float(
        results[1].sigma_rotation_rad.median()
    )
    assert float(results[0].scale.median()) == pytest.approx(1.0, abs=0.1)
    assert bool((results[0].n_effective >= 1 - 1e-9).all())


def test_local_alignment_returns_to_the_pose_from_the_width_of_the_resolution():
    case = Case("c1", 24, noise=0.7)
    axis = torch.randn(24, 3, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    start = matrix_from_rotvec(axis / axis.norm(dim=1, keepdim=True) * math.radians(8))
    found = align_locally(
        case.images, case.reference, start @ case.rotations, case.shifts + 1.0, OPTIONS
    )
    assert float(case.error_deg(found.rotations).median()) < 2.0
    assert float((case.error_deg(found.rotations) > 5).double().mean()) <= 2 / 24


def test_scoring_changes_nothing():
    case = Case("c1", 6, noise=1.0)
    found = score_poses(case.images, case.reference, case.rotations, case.shifts, OPTIONS)
    assert torch.equal(found.rotations, case.rotations)
    torch.testing.assert_close(found.shifts_px, case.shifts)
    better = align_locally(case.images, case.reference, case.rotations, case.shifts, OPTIONS)
    assert bool((better.score >= found.score - 1e-6).all())


def test_a_previous_pose_that_explains_more_wins_over_what_the_search_finds():
    case = Case("c1", 8, noise=2.0)
    search = case.search()
    alone = case.globally(search)
    helped = case.globally(search, previous=(case.rotations, case.shifts))
    # Both refinements to one maximum stop when a step gains less than 0.05.
    assert bool((helped.score >= alone.score - 0.1).all())


def test_the_result_does_not_depend_on_the_batch():
    case = Case("d2", 12, noise=1.0)
    search = case.search()
    whole = case.globally(search)
    for part in (slice(0, 5), slice(5, 12)):
        images = WhitenedImages(case.view, case.x[part], case.c[part])
        alone = case.globally(search, images=images)
        angle = geodesic_angle(alone.rotations, whole.rotations[part])
        assert float(torch.rad2deg(angle).max()) < 1e-3


def test_poses_stay_within_the_allowed_tilts():
    case = Case("c1", 16, noise=1.0)
    low, high = math.radians(60), math.radians(120)
    options = AlignmentOptions(6.0, 6.0, 10 / 60, tilt_range_rad=(low, high))
    search = case.search(min_tilt_rad=low, max_tilt_rad=high)
    found = case.globally(search, options)
    tilt = torch.acos(found.rotations[:, 2, 2].clamp(-1, 1))
    assert float(tilt.min()) >= low - 1e-6
    assert float(tilt.max()) <= high + 1e-6


def test_a_pose_tipped_onto_the_edge_of_the_band_has_the_score_of_that_pose():
    case = Case("c1", 16, noise=1.0)
    low, high = math.radians(60), math.radians(120)
    options = AlignmentOptions(6.0, 6.0, 10 / 60, tilt_range_rad=(low, high))
    args = (case.images, case.reference)
    found = align_locally(*args, case.rotations, case.shifts, options)
    rescored = score_poses(*args, found.rotations, found.shifts_px, OPTIONS)
    torch.testing.assert_close(found.score, rescored.score, rtol=1e-5, atol=1e-2)
    tilt = torch.acos(found.rotations[:, 2, 2].clamp(-1, 1))
    edge = torch.minimum((tilt - low).abs(), (tilt - high).abs()) < 1e-6
    assert bool(edge.any())
    assert torch.equal(found.at_tilt_limit, edge)
    free = align_locally(*args, case.rotations, case.shifts, OPTIONS)
    assert bool((found.score[edge] < free.score[edge]).all())


def test_a_pose_on_the_edge_of_the_band_wins_over_a_worse_one_inside():
    case = Case("c1", 16, noise=1.0)
    tilt = torch.acos(case.rotations[:, 2, 2].clamp(-1, 1))
    i = int((tilt - math.pi / 2).abs().argmin())
    # The band ends a quarter of a degree before the image's own tilt.
    low = float(tilt[i]) + math.radians(0.25)
    options = AlignmentOptions(6.0, 6.0, 10 / 60, tilt_range_rad=(low, math.pi))
    inside = matrix_from_euler(torch.tensor([[0.3, low + 0.7, 1.0]], dtype=torch.float64))
    shift = case.shifts[i : i + 1]
    images = WhitenedImages(case.view, case.x[i : i + 1], case.c[i : i + 1])
    args = (images, case.reference)
    worse = Alternatives(torch.zeros(1, dtype=torch.int64), inside, shift, torch.ones(1))
    alone = align_locally(*args, inside, shift, options, is_restarted=False)
    assert not alone.at_tilt_limit.any()
    found = align_locally(
        *args, case.rotations[i : i + 1], shift, options, is_restarted=False, others=worse
    )
    assert bool(found.at_tilt_limit.all())
    assert bool((found.score > alone.score + 10).all())
    assert float(geodesic_angle(found.rotations, case.rotations[i : i + 1])) < math.radians(3)


def test_scoring_outside_the_band_changes_no_pose_and_tells():
    case = Case("c1", 16, noise=1.0)
    low, high = math.radians(60), math.radians(120)
    options = AlignmentOptions(6.0, 6.0, 10 / 60, tilt_range_rad=(low, high))
    found = score_poses(case.images, case.reference, case.rotations, case.shifts, options)
    tilt = torch.acos(case.rotations[:, 2, 2].clamp(-1, 1))
    outside = (tilt < low) | (tilt > high)
    assert bool(outside.any())
    assert torch.equal(found.at_tilt_limit, outside)
    assert torch.equal(found.rotations, case.rotations)


def test_a_pose_outside_the_band_becomes_its_equivalent_inside_rather_than_another_pose():
    case = Case("d2", 12, noise=0.7)
    low, high = 0.0, math.radians(90)
    options = AlignmentOptions(6.0, 6.0, 10 / 60, tilt_range_rad=(low, high))
    below = torch.tensor([1.0, -1.0, -1.0]).diag().double()  # the 2-fold on x
    flipped = torch.where(
        (case.rotations[:, 2, 2] > 0)[:, None, None], case.rotations @ below, case.rotations
    )
    found = score_poses(case.images, case.reference, flipped, case.shifts, options)
    assert float(flipped[:, 2, 2].max()) <= 0
    assert float(found.rotations[:, 2, 2].min()) >= 0
    assert float(case.group.distance(found.rotations, flipped).max()) < 1e-6


def test_shifts_stay_within_their_limit_and_particles_at_it_are_flagged_not_dropped():
    case = Case("c1", 16, noise=0.7, shift_px=4.0)
    options = AlignmentOptions(3.0, 3.0, 10 / 60)
    found = case.globally(options=options)
    assert len(found.score) == 16
    assert float(found.shifts_px.norm(dim=1).max()) <= 3.0 + 1e-9
    far = case.shifts.norm(dim=1) > 4.0
    assert bool(found.at_edge[far].any())


def test_candidates_are_ranked_and_contain_the_truth():
    case = Case("c1", 20, noise=1.0)
    search = case.search()
    found = search_coarse(search, case.x, case.c, Pruning(0.001, 0.2, 64))
    is_near = torch.zeros(20, dtype=torch.bool)
    for i in range(20):
        mine = found.image_of == i
        score = found.score[mine]
        assert 1 <= len(score) <= 64
        assert bool((score[:-1] >= score[1:]).all())
        rotations = search.rotations[found.rotation[mine]]
        angle = geodesic_angle(rotations, case.rotations[i].expand_as(rotations))
        is_near[i] = bool((angle < STEP_RAD).any())
    assert float(is_near.double().mean()) >= 0.95


@pytest.mark.parametrize("precision", [0.0, 0.1])
def test_candidates_are_the_best_of_all_shifts_however_the_product_is_cut(precision, monkeypatch):
    case = Case("c1", 7, noise=1.0)
    search = case.search()
    p, t = search.last - search.first, len(search.shifts_px)
    xc = case.x[:, search.first : search.last] * case.c[:, search.first : search.last]
    slices = torch.complex(search.slices[:p], search.slices[p:])
    cross = torch.einsum("bp,tp,pq->btq", xc, search.ramps, slices.conj()).real
    norm = case.c[:, search.first : search.last].square() @ search.power
    prior = 0.5 * precision * search.shifts_px.square().sum(1).float()
    score, at = (2 * cross - norm[:, None] - prior[:, None]).max(1)
    pruning = Pruning(0.0, 1e6, 4)
    whole = search_coarse(search, case.x, case.c, pruning, shift_precision=precision)
    top = score.topk(4, 1)
    assert torch.equal(whole.image_of, torch.arange(7).repeat_interleave(4))
    assert torch.equal(whole.rotation, top.indices.flatten())
    torch.testing.assert_close(whole.score, top.values.flatten(), rtol=1e-4, atol=1e-3)
    assert torch.equal(whole.shift, at.gather(1, top.indices).flatten())
    monkeypatch.setattr(exhaustive, "_TILE", (2 * t, 37))
    monkeypatch.setattr(exhaustive, "_PART_BYTES", 3 * 8 * p * t)
    cut = search_coarse(search, case.x, case.c, pruning, shift_precision=precision)
    assert torch.equal(cut.image_of, whole.image_of)
    assert torch.equal(cut.rotation, whole.rotation)
    assert torch.equal(cut.shift, whole.shift)
    torch.testing.assert_close(cut.score, whole.score, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(("symmetry", "noise"), [("c1", 0.5), ("c1", 4.0), ("d2", 1.0)])
def test_slices_in_few_terms_score_as_in_all_but_for_the_power_left_out(symmetry, noise):
    case = Case(symmetry, 20, noise=noise)
    falling = case.c[0] * torch.linspace(1, 0, case.c.shape[1])  # as where images tell ever less
    for weight in (falling, case.c[0]):
        whole, few = case.search(max_shell=7), case.search(weight, max_shell=7)
        assert few.basis is not None
        assert few.slices.shape[0] < 0.8 * whole.slices.shape[0]
        first, last = whole.first, whole.last
        approximate, exact = few.basis @ few.slices, whole.slices
        stacked = weight[first:last].repeat(2)[:, None]
        lost = ((approximate - exact) * stacked).square().sum(0).mean()
        differing = (exact * stacked).var(1, correction=0).sum()
        assert 0 < float(lost) <= 0.0031 * float(differing)
    a, b = (search_coarse(search, case.x, case.c, EVERYTHING) for search in (whole, few))
    scores = [torch.zeros(20, len(whole.rotations)) for _ in range(2)]
    for score, found in zip(scores, (a, b), strict=True):
        score[found.image_of, found.rotation] = found.score
    power = 0.003 * float((case.c[:, first:last].square() @ whole.power).mean())
    # What is left out of the noise, and of the image's own slice.
    rms = float((scores[0] - scores[1]).square().mean().sqrt())
    assert rms < (2 * power) ** 0.5 + 2 * power
    best = scores[0].argmax(1, keepdim=True)
    assert float((scores[1].amax(1) - scores[1].gather(1, best)[:, 0]).max()) < 6 * rms


def test_slices_that_need_all_their_terms_keep_them():
    case = Case("c1", 2, noise=1.0)
    poses = PoseGrid(case.rotations, STEP_RAD, shift_grid(0.0, 1.0))
    few = make_coarse_search(case.grid, case.view, poses, max_shell=1, weight=case.c[0])
    nothing = case.search(torch.zeros_like(case.c[0]))
    for search in (few, nothing):
        terms = search.slices if search.basis is None else search.basis @ search.slices
        assert bool(terms.isfinite().all())
        assert terms.shape[0] == 2 * (search.last - search.first)


def test_candidates_that_are_refined_stand_apart_where_the_plan_says_so():
    case = Case("c1", 6, noise=3.0)
    search = case.search()
    found = search_coarse(search, case.x, case.c, Pruning(0.0, 1e6, 200))
    rotations = search.rotations[found.rotation]
    left = align._apart(found.image_of, found.score, rotations, 6, case.group, 1.2 * STEP_RAD)
    for i in range(6):
        mine = torch.nonzero(found.image_of == i)[:, 0]
        kept = left[found.image_of[left] == i]
        assert 1 <= len(kept) < len(mine)
        assert int(mine[0]) == int(kept[0])  # the best
        apart = geodesic_angle(
            *torch.broadcast_tensors(rotations[kept][:, None], rotations[kept][None])
        )
        apart.fill_diagonal_(math.inf)
        assert float(apart.min()) > 1.2 * STEP_RAD
        # Of those left out each has a better one beside it.
        for other in set(mine.tolist()) - set(kept.tolist()):
            beside = geodesic_angle(rotations[kept], rotations[other].expand(len(kept), 3, 3))
            assert bool(
                ((beside <= 1.2 * STEP_RAD) & (found.score[kept] >= found.score[other])).any()
            )


def test_candidates_hold_the_posterior_but_for_the_share_that_may_be_lost():
    case = Case("c1", 12, noise=3.0)
    search = case.search()
    every = search_coarse(search, case.x, case.c, EVERYTHING)
    few = search_coarse(search, case.x, case.c, Pruning(0.05, 0.0, 10_000))
    wider = search_coarse(search, case.x, case.c, Pruning(0.05, 0.2, 10_000))
    assert len(few.score) < len(wider.score) < len(every.score)
    for i in range(12):
        p = torch.softmax(every.score[every.image_of == i].double(), 0)
        kept = int((few.image_of == i).sum())
        assert float(p[:kept].sum()) >= 0.95 - 1e-6
        assert float(p[: kept - 1].sum()) < 0.95


def test_no_image_is_left_without_a_candidate_whatever_its_scores():
    score = torch.tensor([[5.0, 4.0, -torch.inf], [-900.0, -901.0, -902.0]])
    total = torch.logsumexp(score, 1)
    kept = within_mass(score, total, torch.ones(2), Pruning(0.5, 0.0, 3))
    assert kept.tolist() == [[True, False, False], [True, False, False]]
    kept = within_mass(score, total, torch.ones(2), Pruning(0.0, 1.0, 2))
    assert kept.tolist() == [[True, True, False], [True, True, False]]


def test_the_evidence_is_the_mean_likelihood_over_the_grid_and_finds_amplitude_and_spread():
    case = Case("c1", 16, noise=1.5)
    search = case.search()
    amplitudes = torch.tensor([0.25, 0.5, 0.7, 1.0, 1.4, 2.0, 4.0], dtype=torch.float64)
    found = grid_posterior(search, case.x, case.c, amplitudes, shift_precision=0.25)
    p = search.last - search.first
    xc = case.x[:1, search.first : search.last] * case.c[:1, search.first : search.last]
    slices = torch.complex(search.slices[:p], search.slices[p:])
    cross = torch.einsum("bp,tp,pq->tq", xc, search.ramps, slices.conj()).real.double()
    norm = case.c[:1, search.first : search.last].square() @ search.power
    prior = torch.softmax(-0.125 * search.shifts_px.square().sum(1), 0)
    likelihood = (2 * 0.7 * cross - 0.49 * norm.double()).exp() * prior[:, None]
    expected = likelihood.sum(0).mean().log()
    assert float(found.log_evidence[0, 2]) == pytest.approx(float(expected), abs=1e-2)
    assert float(amplitudes[found.log_evidence.sum(0).argmax()]) in (0.7, 1.0)
    true_px2 = float(case.shifts.square().sum(1).mean())
    # The grid's step is 2 pixels: a variance of 2/3 comes to that of the shifts.
    assert float(found.squared_shift_px2[:, 3].mean()) == pytest.approx(true_px2, rel=0.3)


def test_a_pose_that_wins_by_its_own_noise_only_loses():
    case = Case("c1", 8, noise=1.0)
    search = case.search()
    plain = case.globally(search)
    wrong = random_rotations(8, torch.Generator().manual_seed(3))
    at_wrong = align_locally(
        case.images, case.reference, wrong, case.shifts, OPTIONS, is_restarted=False
    )
    # As if the images' noise were in the reference there: the wrong poses score more.
    own = own_noise(case, at_wrong.rotations, at_wrong.shifts_px, bonus=1e4)
    previous = (at_wrong.rotations, at_wrong.shifts_px)
    found = case.globally(search, images=replace(case.images, own=own), previous=previous)
    assert float(torch.rad2deg(geodesic_angle(found.rotations, plain.rotations)).max()) < 0.5
    # A pose that is right stays, and its score says what it says without its noise.
    own = own_noise(case, plain.rotations, plain.shifts_px, bonus=1.0)
    previous = (plain.rotations, plain.shifts_px)
    again = case.globally(search, images=replace(case.images, own=own), previous=previous)
    assert float(torch.rad2deg(geodesic_angle(again.rotations, plain.rotations)).max()) < 0.5
    torch.testing.assert_close(again.score, plain.score - 1.0, rtol=0, atol=0.1)


@pytest.mark.parametrize(("reach", "step"), [(5.0, 1.0), (4.0, 1.7), (0.5, 1.0)])
def test_shift_grids_fill_their_disc_from_the_centre(reach, step):
    grid = shift_grid(reach, step)
    assert grid[0].tolist() == [0.0, 0.0]
    assert float(grid.norm(dim=1).max()) <= reach + 1e-9
    expected = sum(
        (i * step) ** 2 + (j * step) ** 2 <= reach**2 + 1e-9
        for i in range(-9, 10)
        for j in range(-9, 10)
    )
    assert len(grid) == expected


@pytest.mark.parametrize(("noise", "same"), [(2.0, 1.0), (6.0, 0.95)])
def test_candidates_that_are_given_up_would_not_have_become_the_pose(noise, same, monkeypatch):
    case = Case("c1", 60, noise=noise)
    search = case.search()
    raced = case.globally(search)
    monkeypatch.setattr(align, "_NO_RIVAL", math.inf)
    whole = case.globally(search)
    is_same = case.group.distance(raced.rotations, whole.rotations) < math.radians(2)
    assert float(is_same.double().mean()) >= same
    # A pose that is missed was hardly better, or one of several that are as likely.
    worse = (whole.score - raced.score)[~is_same]
    assert bool((worse < 3).all())
    # How undecided images are is told alike; single ones differ by half a pose (7 % of them).
    assert float(raced.n_effective.mean() / whole.n_effective.mean()) == pytest.approx(1, abs=0.03)
