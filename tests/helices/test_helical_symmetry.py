import pytest
import torch

from cryorefine.geometry.helix import Helix
from cryorefine.helices.helical_symmetry import impose_helix
from tests.builders import helical_map, refused

VOXEL_A = 3.0
INSIDE = slice(4, -4)  # without the faces of the box, where a map that ends does ring

HELICES = [
    (64, Helix(27.4, 1.4)),
    (65, Helix(-27.4, 1.4)),
    (64, Helix(29.4, 21.8, fold=6)),
    (48, Helix(33.0, 7.3, fold=2, is_dihedral=True)),
    (49, Helix(-33.0, 7.3, is_dihedral=True)),
    (64, Helix(0.0, 10.0)),
]


def imposed(volume, helix):
    return impose_helix(volume, helix, voxel_A=VOXEL_A, radius_px=0.4 * volume.shape[-1])


def relative(error, volume):
    return float(error[INSIDE].std() / volume.std())


@pytest.mark.parametrize(("size_px", "helix"), HELICES, ids=str)
def test_an_exact_helix_stays_as_it_is_and_a_second_time_changes_nothing(size_px, helix):
    volume = helical_map(helix, size_px, VOXEL_A)
    once = imposed(volume, helix)
    assert relative(once - volume, volume) < 1e-3
    assert relative(imposed(once, helix) - once, volume) < 1e-3


@pytest.mark.parametrize("change", [{"twist_deg": -33.0}, {"rise_A": 9.0}])
def test_another_hand_or_rise_changes_a_map(change):
    volume = helical_map(Helix(33.0, 7.3), 48, VOXEL_A)
    helix = Helix(**{"twist_deg": 33.0, "rise_A": 7.3, **change})
    assert relative(imposed(volume, helix) - volume, volume) > 0.3


def test_what_is_imposed_on_noise_is_a_helix_of_that_point_group():
    helix = Helix(33.0, 12.0, fold=2, is_dihedral=True)
    noise = torch.randn(48, 48, 48, generator=torch.Generator().manual_seed(2))
    found = imposed(noise, helix)
    # About voxel 24 of each axis; voxel 0 has no partner.
    turned = found.clone()
    turned[:, 1:, 1:] = found[:, 1:, 1:].flip(1, 2)
    assert relative(turned - found, found) < 1e-3
    over = found.clone()
    over[1:, 1:] = found[1:, 1:].flip(0, 1)
    assert relative(over - found, found) < 1e-3
    # It fills the box, and the noise of its copies is averaged.
    assert float(found[0].std()) > 0.5 * float(found[24].std())
    assert float(found.std()) < 0.5 * float(noise.std())


def test_noise_falls_as_copies_are_averaged():
    generator = torch.Generator().manual_seed(3)
    noise = torch.randn(48, 48, 48, generator=generator)
    few = impose_helix(noise, Helix(33.0, 30.0), voxel_A=VOXEL_A, radius_px=19)
    many = impose_helix(noise, Helix(33.0, 3.0), voxel_A=VOXEL_A, radius_px=19)
    # Four copies and forty: power as one to the number of copies, within the taper's share.
    assert 6 < float(few.var() / many.var()) < 14


def test_nothing_is_left_outside_the_cylinder():
    noise = torch.randn(32, 32, 32, generator=torch.Generator().manual_seed(4))
    found = impose_helix(noise, Helix(33.0, 6.0), voxel_A=2.0, radius_px=8, edge_px=3)
    y, x = torch.meshgrid(torch.arange(32) - 16, torch.arange(32) - 16, indexing="ij")
    beyond = (x**2 + y**2).sqrt() > 11
    assert float(found[:, beyond].abs().max()) == 0
    assert float(found[:, 16, 16].std()) > 0


@pytest.mark.parametrize("volume", [torch.zeros(24, 24, 24), torch.ones(24, 24, 24)])
def test_constant_maps_stay_finite(volume):
    found = impose_helix(volume, Helix(33.0, 6.0), voxel_A=2.0)
    assert bool(found.isfinite().all())
    assert abs(float(found[12, 12, 12] - volume[12, 12, 12])) < 0.01


def test_a_rise_that_does_not_repeat_in_the_central_part_is_refused():
    with refused("does not repeat within the central 43 Å"):
        impose_helix(torch.zeros(24, 24, 24), Helix(33.0, 30.0), voxel_A=2.0)
