"""What is imposed on half maps: where the filament lies, and which sections count."""

import pytest
import torch

from cryorefine.geometry.helix import Helix
from cryorefine.helices.half_maps import Filament, find_helix, imposed_on
from cryorefine.helices.helical_symmetry import impose_helix
from tests.builders import helical_map, refused

HELIX, SIZE_PX, VOXEL_A = Helix(33.0, 12.0), 48, 3.0


def test_a_filament_is_empty_beyond_its_radius_and_in_its_channel():
    volume = helical_map(HELIX, SIZE_PX, VOXEL_A) + 1.0
    axis = torch.arange(SIZE_PX) - SIZE_PX // 2
    radius_A = (axis[:, None] ** 2 + axis**2).sqrt() * VOXEL_A
    found = imposed_on(volume, HELIX, Filament(VOXEL_A, 42.0, 18.0, 0.9))
    assert float(found[:, radius_A > 42 + 6 * VOXEL_A].abs().max()) == 0
    assert float(found[:, radius_A < 8].abs().max()) == 0
    between = (radius_A > 20) & (radius_A < 40)
    error = (found - volume)[4:-4, between]
    assert float(error.std()) < 1e-3  # of the 1 that was added
    without = imposed_on(volume, HELIX, Filament(VOXEL_A, 42.0, None, 0.9))
    assert float(without[:, radius_A < 8].abs().min()) > 0


def test_sections_beyond_the_central_part_count_nothing():
    volume = helical_map(HELIX, SIZE_PX, VOXEL_A)
    damaged = volume.clone()
    damaged[:9], damaged[-9:] = 5.0, 5.0
    whole = imposed_on(volume, HELIX, Filament(VOXEL_A, 42.0, None, 0.6))
    for fraction, is_harmed in ((0.6, False), (0.95, True)):
        found = imposed_on(damaged, HELIX, Filament(VOXEL_A, 42.0, None, fraction))
        assert (float((found - whole).std()) > 0.1 * float(volume.std())) == is_harmed


def half_maps_of(volume):
    """Return a map twice, with noise."""
    return tuple(
        volume
        + 0.5
        * float(volume.std())
        * torch.randn(volume.shape, generator=torch.Generator().manual_seed(seed))
        for seed in (1, 2)
    )


NEAR = {"twist_deg": (29.7, 37.0), "rise_A": (10.8, 13.4)}


@pytest.mark.parametrize(
    ("true", "rival"),
    [(Helix(33.0, 12.0), None), (Helix(-163.5, 6.0), Helix(-163.5, 6.0))],
    ids=["in range", "half steps"],
)
def test_a_helix_out_of_range_that_scores_higher_than_the_one_found_is_named(true, rival):
    volume = helical_map(true, SIZE_PX, VOXEL_A, bfactor_A2=200)
    found = find_helix(half_maps_of(volume), HELIX, Filament(VOXEL_A, 42.0, None, 0.9), **NEAR)
    assert found.helix.twist_deg == pytest.approx(33.0, abs=0.2)
    assert found.helix.rise_A == pytest.approx(12.0, abs=0.1)
    if rival is None:
        assert found.rival is None
    else:
        assert found.rival.score > found.score
        assert found.rival.helix.twist_deg == pytest.approx(rival.twist_deg, abs=0.1)
        assert found.rival.helix.rise_A == pytest.approx(rival.rise_A, abs=0.05)
        assert "half steps" in found.rival.relation


def test_half_maps_that_are_alike_all_along_a_screw_tell_the_screw_and_no_rise():
    # The ribbon that segments slid along a cylinder's screw end as: layer lines of l = 0 alone.
    volume = helical_map(HELIX, SIZE_PX, VOXEL_A)
    ribbon = impose_helix(volume, Helix(2.75, 1.0), voxel_A=VOXEL_A, radius_px=14)
    filament = Filament(VOXEL_A, 42.0, None, 0.9)
    with refused("does not tell the rise: along a screw of 2.7"):
        find_helix(half_maps_of(ribbon), HELIX, filament, **NEAR)
