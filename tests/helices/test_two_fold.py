import math

import pytest
import torch

import cryorefine as cr
from cryorefine.geometry.helix import Helix
from cryorefine.helices.helical_search import prepared_map
from cryorefine.helices.two_fold import NEEDED, find_two_fold
from cryorefine.model.filament import filament_atoms, filament_map, made_up_subunit
from cryorefine.restore.rigid import move_volume
from tests.builders import helical_map, refused

SIZE_PX, VOXEL_A, RESOLUTION_A = 64, 2.0, 6.0
TURN_DEG, MOVE_A = 25.0, 1.0


def noisy(volume, seed=1):
    noise = torch.randn(volume.shape, generator=torch.Generator().manual_seed(seed))
    return volume + 1.5 * volume.std() * noise


def turned_about_z(volume, angle_deg, move_px):
    c, s = math.cos(math.radians(angle_deg)), math.sin(math.radians(angle_deg))
    turn = torch.tensor([[c, -s, 0], [s, c, 0], [0, 0, 1]], dtype=torch.float64)
    return move_volume(volume, turn, torch.tensor([0, 0, move_px], dtype=torch.float64))


def found_across(helix):
    """Return what is found in a noisy map that was turned about and moved along its axis."""
    unit = made_up_subunit(0.6 * SIZE_PX * VOXEL_A, seed=3)
    atoms = filament_atoms(unit, helix, box_A=SIZE_PX * VOXEL_A)
    volume = filament_map(atoms, size_px=SIZE_PX, voxel_A=VOXEL_A)
    moved = noisy(turned_about_z(volume, TURN_DEG, MOVE_A / VOXEL_A))
    small, step_A = prepared_map(moved, voxel_A=VOXEL_A, resolution_A=RESOLUTION_A)
    return find_two_fold(
        small, helix, voxel_A=step_A, radius_A=0.35 * SIZE_PX * VOXEL_A,
        resolution_A=RESOLUTION_A, fraction=0.9,
    )  # fmt: skip


@pytest.mark.parametrize(
    "helix",
    [
        Helix(27.4, 1.4, 1, True),
        Helix(-101.1, 5.13, 1, True),
        Helix(33.0, 12.0, 2, True),
        Helix(29.4, 21.8, 6, True),
    ],
    ids=str,
)
def test_a_dihedral_helix_is_said_to_be_one_and_where_its_axes_lie(helix):
    across = found_across(helix)
    assert across.is_supported
    assert 0.95 < across.agreement < 1.05
    # The axis lay on x: it is at the turn, and half of the move... or where steps make another.
    step = round((across.height_A - MOVE_A) / (helix.rise_A / 2))
    expected_deg = TURN_DEG + step * helix.twist_deg / 2
    off_deg = math.remainder(across.angle_deg - expected_deg, 180 / helix.fold)
    assert abs(across.height_A - MOVE_A - step * helix.rise_A / 2) < 0.1
    assert abs(off_deg) < 1.0 if helix.rise_A < 2 else abs(off_deg) < 0.3
    assert abs(across.height_A) <= helix.rise_A / 4 + 1e-6
    assert abs(across.angle_deg) <= 90 / helix.fold + 1e-6


@pytest.mark.parametrize(
    "helix",
    [Helix(27.4, 1.4), Helix(-101.1, 5.13), Helix(33.0, 12.0, 2), Helix(29.4, 21.8, 6)],
    ids=str,
)
def test_a_polar_helix_is_said_to_have_no_axes_across(helix):
    across = found_across(helix)
    assert not across.is_supported
    assert across.agreement < NEEDED - 0.2


RANGES = {
    "twist_range_deg": (20.0, 45.0),
    "rise_range_angstrom": (5.0, 10.0),
    "resolution_angstrom": 9.0,
}


@pytest.mark.slow
def test_a_polar_helix_that_is_to_be_dihedral_is_refused():
    volume = cr.Volume(noisy(helical_map(Helix(33.0, 7.3), 48, 3.0, bfactor_A2=400)).numpy(), 3.0)
    with refused("symmetry", "no two-fold axes across the helix of 33.", "is needed"):
        cr.helical_search(volume, symmetry="d1", **RANGES)
