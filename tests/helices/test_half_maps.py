"""What is imposed on half maps: where the filament lies, and which sections count."""

import torch

from cryorefine.geometry.helix import Helix
from cryorefine.helices.half_maps import Filament, imposed_on
from tests.builders import helical_map

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
