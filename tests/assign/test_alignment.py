import math
from dataclasses import replace

import pytest
import torch

from cryorefine.assign import exhaustive
from cryorefine.assign.align import (
    AlignmentOptions,
    align_globally,
    align_locally,
    score_poses,
)
from cryorefine.assign.exhaustive import make_coarse_search, search_coarse, shift_grid
from cryorefine.fourier.band import phase_ramp
from cryorefine.geometry.rotation import geodesic_angle, matrix_from_rotvec, random_rotations
from cryorefine.geometry.so3 import rotation_grid
from cryorefine.geometry.symmetry import parse_symmetry
from cryorefine.kernels.grid import make_slice_grid
from cryorefine.model.atoms import project_atoms, scattering_basis, volume_from_atoms
from cryorefine.model.observe import make_group_band
from cryorefine.model.phantom import make_phantom
from cryorefine.optics.group import OpticsGroup

SIZE_PX, PIXEL_A, DIAMETER_A = 44, 4.0, 120.0
STEP_RAD = math.radians(15)


class Case:
    """Noisy images of a phantom with known poses, and what is needed to find them."""

    def __init__(
        self, symmetry: str, n: int, *, noise: float, shift_px: float = 2.0, seed: int = 0
    ):
        self.group = parse_symmetry(symmetry)
        generator = torch.Generator().manual_seed(seed)
        atoms = make_phantom(self.group, diameter_A=DIAMETER_A, seed=2)
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

    def search(self, **tilts):
        return make_coarse_search(
            self.grid,
            self.view,
            rotation_grid(STEP_RAD, group=self.group, **tilts),
            step_rad=STEP_RAD,
            max_shell=6,
            max_shift_px=6.0,
            shift_step_px=2.0,
        )

    def error_deg(self, rotations):
        return torch.rad2deg(self.group.distance(rotations, self.rotations))


OPTIONS = AlignmentOptions(max_shift_px=6.0, shift_sigma_px=6.0, resolution_turn_rad=10 / 60)


def test_a_search_tells_which_known_poses_it_would_have_missed():
    case = Case("d2", 12, noise=0.3)
    search, known = case.search(), (case.rotations, case.shifts)
    arguments = (case.view, case.x, case.c, case.group, OPTIONS)
    whole = align_globally(case.grid, search, *arguments, previous=known)
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
    found = align_globally(case.grid, poorer, *arguments, previous=known)
    assert found.is_missed[6:].all()
    assert float(case.error_deg(found.rotations).max()) < 5
    # What is found without help, or replaced by something better, is not missed.
    wrong = (random_rotations(12, torch.Generator().manual_seed(7)), case.shifts)
    assert not align_globally(case.grid, search, *arguments, previous=wrong).is_missed.any()
    assert not align_globally(case.grid, search, *arguments).is_missed.any()


@pytest.mark.parametrize("symmetry", ["c1", "d2", "o"])
def test_a_global_search_finds_the_poses_without_any_start(symmetry):
    case = Case(symmetry, 24, noise=0.7)
    found = align_globally(case.grid, case.search(), case.view, case.x, case.c, case.group, OPTIONS)
    assert float(case.error_deg(found.rotations).median()) < 2.0
    assert float((case.error_deg(found.rotations) > 10).double().mean()) <= 1 / 24
    assert float((found.shifts_px - case.shifts).norm(dim=1).median()) < 0.3


def test_a_global_search_reports_how_sure_it_is():
    clear = Case("c1", 16, noise=0.7)
    murky = Case("c1", 16, noise=6.0)
    results = [
        align_globally(k.grid, k.search(), k.view, k.x, k.c, k.group, OPTIONS)
        for k in (clear, murky)
    ]
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
        case.grid, case.view, case.x, case.c, start @ case.rotations, case.shifts + 1.0,
        case.group, OPTIONS,
    )  # fmt: skip
    assert float(case.error_deg(found.rotations).median()) < 2.0
    assert float((case.error_deg(found.rotations) > 5).double().mean()) <= 2 / 24


def test_scoring_changes_nothing():
    case = Case("c1", 6, noise=1.0)
    found = score_poses(
        case.grid, case.view, case.x, case.c, case.rotations, case.shifts, case.group, OPTIONS
    )
    assert torch.equal(found.rotations, case.rotations)
    torch.testing.assert_close(found.shifts_px, case.shifts)
    better = align_locally(
        case.grid, case.view, case.x, case.c, case.rotations, case.shifts, case.group, OPTIONS
    )
    assert bool((better.score >= found.score - 1e-6).all())


def test_a_previous_pose_that_explains_more_wins_over_what_the_search_finds():
    case = Case("c1", 8, noise=2.0)
    args = (case.grid, case.search(), case.view, case.x, case.c, case.group, OPTIONS)
    alone = align_globally(*args)
    helped = align_globally(*args, previous=(case.rotations, case.shifts))
    # Both climbs to one maximum stop when a step gains less than 0.05.
    assert bool((helped.score >= alone.score - 0.1).all())


def test_the_result_does_not_depend_on_the_batch():
    case = Case("d2", 12, noise=1.0)
    search = case.search()
    whole = align_globally(case.grid, search, case.view, case.x, case.c, case.group, OPTIONS)
    for part in (slice(0, 5), slice(5, 12)):
        alone = align_globally(
            case.grid, search, case.view, case.x[part], case.c[part], case.group, OPTIONS
        )
        angle = geodesic_angle(alone.rotations, whole.rotations[part])
        assert float(torch.rad2deg(angle).max()) < 1e-3


def test_poses_stay_within_the_allowed_tilts():
    case = Case("c1", 16, noise=1.0)
    low, high = math.radians(60), math.radians(120)
    options = AlignmentOptions(6.0, 6.0, 10 / 60, tilt_range_rad=(low, high))
    search = case.search(min_tilt_rad=low, max_tilt_rad=high)
    found = align_globally(case.grid, search, case.view, case.x, case.c, case.group, options)
    tilt = torch.acos(found.rotations[:, 2, 2].clamp(-1, 1))
    assert float(tilt.min()) >= low - 1e-6
    assert float(tilt.max()) <= high + 1e-6


def test_a_pose_outside_the_band_becomes_its_equivalent_inside_rather_than_another_pose():
    case = Case("d2", 12, noise=0.7)
    low, high = 0.0, math.radians(90)
    options = AlignmentOptions(6.0, 6.0, 10 / 60, tilt_range_rad=(low, high))
    below = torch.tensor([1.0, -1.0, -1.0]).diag().double()  # the 2-fold on x
    flipped = torch.where(
        (case.rotations[:, 2, 2] > 0)[:, None, None], case.rotations @ below, case.rotations
    )
    found = score_poses(
        case.grid, case.view, case.x, case.c, flipped, case.shifts, case.group, options
    )
    assert float(flipped[:, 2, 2].max()) <= 0
    assert float(found.rotations[:, 2, 2].min()) >= 0
    assert float(case.group.distance(found.rotations, flipped).max()) < 1e-6


def test_shifts_stay_within_their_limit_and_particles_at_it_are_flagged_not_dropped():
    case = Case("c1", 16, noise=0.7, shift_px=4.0)
    options = AlignmentOptions(3.0, 3.0, 10 / 60)
    found = align_globally(case.grid, case.search(), case.view, case.x, case.c, case.group, options)
    assert len(found.score) == 16
    assert float(found.shifts_px.norm(dim=1).max()) <= 3.0 + 1e-9
    far = case.shifts.norm(dim=1) > 4.0
    assert bool(found.at_edge[far].any())


def test_coarse_candidates_are_ranked_apart_and_contain_the_truth():
    case = Case("c1", 20, noise=1.0)
    search = case.search()
    index, shift, score = search_coarse(
        search, case.x, case.c, case.group, keep=10, window=1e9, any_scale=False
    )
    assert index.shape == shift.shape == score.shape == (20, 10)
    assert bool((score[:, :-1] >= score[:, 1:]).all())
    nearest = torch.stack(
        [
            geodesic_angle(search.rotations[row], pose.expand(10, 3, 3)).min()
            for row, pose in zip(index, case.rotations, strict=True)
        ]
    )
    assert float((nearest < STEP_RAD).double().mean()) >= 0.95


@pytest.mark.parametrize("any_scale", [False, True])
def test_candidates_are_the_best_of_all_shifts_however_the_product_is_cut(any_scale, monkeypatch):
    case = Case("c1", 7, noise=1.0)
    search = case.search()
    ask = {"keep": 4, "window": 1e9, "any_scale": any_scale}
    whole = search_coarse(search, case.x, case.c, case.group, **ask)
    p = search.last - search.first
    xc = case.x[:, search.first : search.last] * case.c[:, search.first : search.last]
    slices = torch.complex(search.slices[:p], search.slices[p:])
    cross = torch.einsum("bp,tp,pq->btq", xc, search.ramps, slices.conj()).real
    norm = case.c[:, search.first : search.last].square() @ search.power
    top, at = cross.max(1)
    score = top.clamp_min(0).square() / norm if any_scale else 2 * top - norm
    torch.testing.assert_close(whole[2], score.gather(1, whole[0]), rtol=1e-4, atol=1e-3)
    assert torch.equal(whole[0][:, 0], score.argmax(1))
    assert torch.equal(whole[1], at.gather(1, whole[0]))
    monkeypatch.setattr(exhaustive, "_TILE", (2 * len(search.shifts_px), 37))
    monkeypatch.setattr(exhaustive, "_PART_BYTES", 3 * 8 * p * len(search.shifts_px))
    cut = search_coarse(search, case.x, case.c, case.group, **ask)
    assert torch.equal(cut[0], whole[0])
    assert torch.equal(cut[1], whole[1])
    torch.testing.assert_close(cut[2], whole[2], rtol=1e-4, atol=1e-3)


def test_any_scale_ranks_alike_whatever_the_grey_level_of_the_reference():
    case = Case("d2", 8, noise=1.0)
    search = case.search()
    plain = search_coarse(search, case.x, case.c, case.group, keep=1, window=1e9, any_scale=True)
    faint = search_coarse(
        search, case.x, 0.01 * case.c, case.group, keep=1, window=1e9, any_scale=True
    )
    assert torch.equal(plain[0], faint[0])
    torch.testing.assert_close(plain[2], faint[2], rtol=1e-3, atol=1e-3)


def test_the_window_drops_what_cannot_compete():
    case = Case("c1", 8, noise=0.5)
    wide = search_coarse(
        case.search(), case.x, case.c, case.group, keep=20, window=1e9, any_scale=False
    )
    tight = search_coarse(
        case.search(), case.x, case.c, case.group, keep=20, window=5.0, any_scale=False
    )
    assert int((tight[0] >= 0).sum()) < int((wide[0] >= 0).sum())
    assert torch.equal(tight[0][:, 0], wide[0][:, 0])
    kept = tight[2] > -torch.inf
    assert float((tight[2][:, :1] - tight[2])[kept].max()) <= 5.0


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
