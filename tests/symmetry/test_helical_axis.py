import pytest
import torch

import cryorefine as cr
from cryorefine.geometry.helix import Helix
from cryorefine.helices.filament import FilamentAxis
from cryorefine.model.filament import filament_atoms, filament_map, made_up_subunit
from cryorefine.restore.rigid import move_volume
from cryorefine.symmetry.helical_axis import density_axis, onto_z, require_along_z
from tests.builders import refused

SIZE_PX, VOXEL_A = 48, 3.0
HELIX = Helix(33.0, 7.3)
RANGES = {
    "twist_range_deg": (20.0, 45.0),
    "rise_range_angstrom": (5.0, 10.0),
    "resolution_angstrom": 9.0,
}


def noisy(volume, amount=1.0, seed=1):
    noise = torch.randn(volume.shape, generator=torch.Generator().manual_seed(seed))
    return volume + amount * volume.std() * noise


def off_z(axis, helix=HELIX):
    """Return the map of a helix about an axis, cut out of a larger one."""
    large = 72
    atoms = filament_atoms(made_up_subunit(80.0, seed=3), helix, box_A=large * VOXEL_A)
    whole = filament_map(atoms, size_px=large, voxel_A=VOXEL_A)
    x, y = (v / VOXEL_A for v in axis.offset_A)
    moved = move_volume(whole, axis.rotation, torch.tensor([x, y, 0.0], dtype=torch.float64))
    middle = slice(large // 2 - SIZE_PX // 2, large // 2 + SIZE_PX // 2)
    return moved[middle, middle, middle].contiguous()


@pytest.mark.slow
def test_an_axis_off_centre_and_tilted_is_found_with_twist_and_rise():
    axis = FilamentAxis((7.5, -4.5), (0.06, 0.05))  # 2.9 px and 4.5°
    volume = cr.Volume(noisy(off_z(axis)).numpy(), VOXEL_A)
    found = cr.helical_search(volume, **RANGES)
    assert abs(found.axis.offset_A[0] - 7.5) < 0.2
    assert abs(found.axis.offset_A[1] + 4.5) < 0.2
    assert abs(found.axis.slope[0] - 0.06) < 0.004
    assert abs(found.axis.slope[1] - 0.05) < 0.004
    assert abs(found.best.helix.twist_deg - HELIX.twist_deg) < 0.05
    assert abs(found.best.helix.rise_A - HELIX.rise_A) < 0.02
    assert found.best.correlation > 0.3


@pytest.mark.slow
def test_a_map_whose_axis_is_z_is_not_moved():
    volume = cr.Volume(noisy(off_z(FilamentAxis())).numpy(), VOXEL_A)
    assert cr.helical_search(volume, **RANGES).axis == FilamentAxis()


def test_density_shows_an_axis_and_moving_the_map_brings_it_to_z():
    axis = FilamentAxis((9.0, -6.0), (0.1, 0.0))
    volume = noisy(off_z(axis, Helix(-101.1, 5.13)))  # of which a turn is short
    found = density_axis(volume, VOXEL_A)
    assert abs(found.offset_A[0] - 9) < 1.5
    assert abs(found.offset_A[1] + 6) < 1.5
    assert abs(found.slope[0] - 0.1) < 0.02
    again = density_axis(onto_z(volume, axis, VOXEL_A), VOXEL_A)
    assert again.distance_A < 1.5
    assert again.tilt_deg < 1.5


def test_middles_of_sections_that_wind_show_the_axis_that_they_wind_about():
    axis = FilamentAxis((9.0, -6.0), (0.1, 0.0))
    volume = noisy(off_z(axis))  # 1.3 turns

    def apart_A(winds):
        found = density_axis(volume, VOXEL_A, winds=winds)
        offset = (found.offset_A[0] - 9.0, found.offset_A[1] + 6.0)
        return FilamentAxis(offset, (found.slope[0] - 0.1, found.slope[1])).farthest_A(100.0)

    assert apart_A(winds=True) < 6
    assert apart_A(winds=False) > 10


def test_a_filament_along_another_axis_is_refused_with_its_direction():
    axis = torch.arange(48) - 24.0
    thin = torch.exp(-(axis[:, None] ** 2 + axis**2) / 50)
    along_x = thin[:, :, None].expand(48, 48, 48).contiguous()
    with refused("does not lie along z", "(1.00, 0.00, 0.00)", "90° from z"):
        require_along_z(along_x, VOXEL_A)
    require_along_z(along_x.permute(2, 0, 1).contiguous(), VOXEL_A)


@pytest.mark.slow
def test_noise_is_no_helix_whatever_axis_is_tried():
    noise = torch.randn(32, 32, 32, generator=torch.Generator().manual_seed(2))
    with refused("the map is no helix of these ranges"):
        cr.helical_search(
            cr.Volume(noise.numpy(), VOXEL_A), radius_angstrom=30,
            **{**RANGES, "resolution_angstrom": 12.0},
        )  # fmt: skip
