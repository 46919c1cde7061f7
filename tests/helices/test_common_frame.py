"""Two maps of one filament that lie turned, moved or upside down are brought onto each other."""

import math

import pytest
import torch

from cryorefine.geometry.helix import Helix
from cryorefine.helices.common_frame import Frame, frame_onto
from cryorefine.restore.rigid import move_volume
from tests.builders import helical_map

HELIX, VOXEL_A = Helix(33.0, 12.0), 3.0


@pytest.mark.parametrize("size_px", [48, 49])
@pytest.mark.parametrize("is_upside_down", [False, True])
def test_a_moved_filament_is_brought_back_onto_itself(size_px, is_upside_down):
    truth = helical_map(HELIX, size_px, VOXEL_A)
    away = Frame(1.1, 2.0, is_upside_down)
    noise = torch.randn(truth.shape, generator=torch.Generator().manual_seed(3))
    moved = move_volume(truth, away.rotation, away.shift_px) + 0.5 * truth.std() * noise
    found = frame_onto(truth, moved, HELIX, voxel_A=VOXEL_A, radius_px=18.0, resolution_A=10.0)
    assert found.is_upside_down == is_upside_down
    back = move_volume(moved, found.rotation, found.shift_px)
    middle = slice(size_px // 2 - 8, size_px // 2 + 8)
    alike = torch.corrcoef(torch.stack([truth[middle].flatten(), back[middle].flatten()]))[0, 1]
    before = torch.corrcoef(torch.stack([truth[middle].flatten(), moved[middle].flatten()]))[0, 1]
    assert float(alike) > 0.85 > 0.5 > float(before)


def test_a_filament_in_its_place_stays():
    truth = helical_map(HELIX, 48, VOXEL_A)
    found = frame_onto(truth, truth, HELIX, voxel_A=VOXEL_A, radius_px=18.0, resolution_A=10.0)
    assert abs(found.angle_rad) < math.radians(1)
    assert found.rise_px == 0
    assert not found.is_upside_down
