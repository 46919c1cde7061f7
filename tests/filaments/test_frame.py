"""Half 2 of a helix that lies otherwise than half 1 is moved with its poses."""

import numpy as np
import torch

from cryorefine.api.projection import project
from cryorefine.filaments.frame import moved_poses
from cryorefine.geometry.helix import Helix
from cryorefine.geometry.rotation import random_rotations
from cryorefine.helices.common_frame import Frame
from cryorefine.restore.rigid import move_volume
from cryorefine.state.state import Poses
from tests.builders import helical_map

VOXEL_A = 4.0


def test_moved_poses_show_of_a_moved_map_what_they_showed_before():
    volume = helical_map(Helix(33.0, 12.0), 40, VOXEL_A)
    axis = torch.arange(40) - 20
    ball = axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2 < 12**2
    volume = volume * ball
    frame = Frame(0.7, 1.5, True)
    moved = move_volume(volume, frame.rotation, frame.shift_px)
    rotations = random_rotations(4, torch.Generator().manual_seed(1))
    poses = Poses(rotations, torch.tensor([[3.0, -5.0]] * 4, dtype=torch.float64))
    found = moved_poses(poses, np.array([True, True, False, True]), frame, VOXEL_A)
    before = project(volume.numpy(), rotations.numpy(), poses.shift_A.numpy(), voxel_A=VOXEL_A)
    after = project(moved.numpy(), found.rotations.numpy(), found.shift_A.numpy(), voxel_A=VOXEL_A)
    alike = [np.corrcoef(a.ravel(), b.ravel())[0, 1] for a, b in zip(before, after, strict=True)]
    assert min(alike[i] for i in (0, 1, 3)) > 0.98
    torch.testing.assert_close(found.rotations[2], rotations[2])
