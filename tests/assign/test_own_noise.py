"""What an image's own noise adds to scores, against a reference that really holds it."""

import math

import pytest
import torch

from cryorefine.assign.own_noise import NoiseInReference, OwnNoise, spread_A2
from cryorefine.geometry.rotation import matrix_from_rotvec, random_rotations
from cryorefine.geometry.symmetry import parse_symmetry
from cryorefine.kernels.dispatch import extract_slices, insert_slices
from cryorefine.kernels.grid import make_accumulator, make_slice_grid
from cryorefine.kernels.reference import own_noise_gain
from cryorefine.masks.soft import sphere_mask
from cryorefine.model.observe import make_group_band
from cryorefine.optics.group import OpticsGroup
from cryorefine.reconstruct.solve import fold, solve

SIZE_PX, VOXEL_A, RADIUS_PX, N = 48, 2.0, 15, 400
C1 = parse_symmetry("c1")


@pytest.fixture(scope="module", params=["sphere", "rod"])
def noise_in_reference(request):
    """Images of noise alone, and what each of a few leaves in the map that all are put into."""
    generator = torch.Generator().manual_seed(4)
    group = OpticsGroup("g", VOXEL_A, SIZE_PX, has_ctf=False)
    view = make_group_band(group, volume_size_px=SIZE_PX, voxel_A=VOXEL_A, resolution_A=5.0)
    rotations = random_rotations(N, generator)
    x = torch.randn(8, len(view.points), generator=generator, dtype=torch.complex64)
    mask = sphere_mask(SIZE_PX, RADIUS_PX, 2)
    if request.param == "rod":  # along an axis that is none of the box
        axis = torch.tensor([0.6, 0.0, 0.8])
        k = torch.arange(SIZE_PX).float() - SIZE_PX // 2
        at = torch.stack(torch.meshgrid(k, k, k, indexing="ij")[::-1], -1)
        across = (at.square().sum(-1) - (at @ axis).square()).clamp_min(0).sqrt()
        mask = ((across < 7) & ((at @ axis).abs() < 20)).float()
    grids = []
    for i in range(len(x)):
        acc = make_accumulator(SIZE_PX, SIZE_PX / 2)
        values = torch.zeros(N, len(view.points), dtype=torch.complex64)
        values[i] = x[i]
        insert_slices(acc, rotations, view.points, values, torch.ones(values.shape))
        grids.append(make_slice_grid(solve(fold(acc, C1)) * mask, SIZE_PX / 2))
    return view, rotations[:8], x, mask, grids


def measured(case, turn_rad, move_px) -> torch.Tensor:
    """Return by how much the images' noise raises scores so far from where it was inserted."""
    view, rotations, x, _, grids = case
    moved = matrix_from_rotvec(torch.tensor(turn_rad, dtype=torch.float64)[None]) @ rotations
    phase = torch.tensor(move_px) @ view.k_px().float().T * (2 * math.pi / SIZE_PX)
    ramp = torch.polar(torch.ones_like(phase), -phase)
    pairs = zip(grids, moved, strict=True)
    slices = torch.cat([extract_slices(grid, r[None], view.points) for grid, r in pairs])
    return 2 * (x * ramp).conj().mul(slices).real.sum(1)


def predicted(case, turn_rad, move_px) -> torch.Tensor:
    view, rotations, x, mask, _ = case
    k = torch.arange(SIZE_PX // 2 + 2).double().clamp_min(0.5)
    share = 2 * float(mask.mean()) / (N / (2 * k))
    share[0] = 0
    # In a mask that is one or zero, power and mask are one.
    noise = NoiseInReference(share, spread_A2(mask.square(), VOXEL_A))
    places = torch.zeros(8, 1, 2, dtype=torch.float64)
    own = OwnNoise(rotations[:, None], places, torch.ones(8, 1).double(), noise)
    moved = matrix_from_rotvec(torch.tensor(turn_rad, dtype=torch.float64)[None]) @ rotations
    shifts = torch.tensor(move_px, dtype=torch.float64).expand(8, 2)
    beside = own.beside(moved, torch.arange(8), C1, view, torch.ones(x.shape))
    return own_noise_gain(beside, moved, shifts)[0]


def test_an_image_gains_what_is_predicted_where_it_was_inserted(noise_in_reference):
    gained = measured(noise_in_reference, [0.0, 0.0, 0.0], [0.0, 0.0])
    expected = predicted(noise_in_reference, [0.0, 0.0, 0.0], [0.0, 0.0])
    assert float(gained.mean()) == pytest.approx(float(expected.mean()), rel=0.15)


@pytest.mark.parametrize("degrees", [1.0, 2.0, 4.0])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_the_gain_falls_with_a_turn_as_predicted(noise_in_reference, axis, degrees):
    turn_rad = [0.0, 0.0, 0.0]
    turn_rad[axis] = math.radians(degrees)
    none = [0.0, 0.0, 0.0]
    left = measured(noise_in_reference, turn_rad, [0.0, 0.0]).mean()
    left /= measured(noise_in_reference, none, [0.0, 0.0]).mean()
    expected = predicted(noise_in_reference, turn_rad, [0.0, 0.0]).mean()
    expected /= predicted(noise_in_reference, none, [0.0, 0.0]).mean()
    assert float(left) == pytest.approx(float(expected), abs=0.1)


@pytest.mark.parametrize("move_px", [0.3, 0.6])
def test_the_gain_falls_with_a_shift_as_predicted(noise_in_reference, move_px):
    none = [0.0, 0.0, 0.0]
    left = measured(noise_in_reference, none, [move_px, 0.0]).mean()
    left /= measured(noise_in_reference, none, [0.0, 0.0]).mean()
    expected = predicted(noise_in_reference, none, [move_px, 0.0]).mean()
    expected /= predicted(noise_in_reference, none, [0.0, 0.0]).mean()
    assert float(left) == pytest.approx(float(expected), abs=0.1)
