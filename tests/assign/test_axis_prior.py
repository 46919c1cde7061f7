"""Searches that know where a filament lies."""

import math

import numpy as np
import torch

from cryorefine.assign.axis_prior import AxisPrior
from cryorefine.geometry.rotation import matrix_from_euler


def prior(psi_deg, tilt_deg, has_both, psi_reach_deg=10.0, tilt_reach_deg=15.0) -> AxisPrior:
    return AxisPrior(
        torch.tensor([math.radians(psi_deg)]),
        torch.tensor([math.radians(tilt_deg)]),
        torch.tensor([has_both]),
        math.radians(psi_reach_deg),
        math.radians(tilt_reach_deg),
    )


def allowed(given: AxisPrior, *angles: tuple[float, float, float]) -> list[bool]:
    rotations = matrix_from_euler(torch.from_numpy(np.radians(angles)))
    return given.allows(rotations, math.radians(1.0))[0].tolist()


POSES = (
    (10, 85, 25), (200, 85, 45), (10, 85, -157), (10, 95, -157), (10, 110, 25), (10, 70, -157),
)  # fmt: skip


def test_rot_is_free_and_psi_and_tilt_near_the_prior_or_with_both_directions_its_opposite():
    assert allowed(prior(20, 85, False), *POSES) == [True, False, False, False, False, False]
    assert allowed(prior(20, 85, True), *POSES) == [True, False, True, True, False, False]


def test_psi_is_known_across_half_a_turn():
    assert allowed(prior(178, 90, False), (0, 90, -176), (0, 90, 2)) == [True, False]


def test_what_is_not_known_allows_everything():
    assert all(allowed(prior(math.nan, math.nan, False), *POSES))
    assert allowed(prior(20, math.nan, False), *POSES) == [True, False, False, False, True, False]


def test_where_no_rotation_of_the_grid_would_be_left_all_are():
    assert all(allowed(prior(120, 90, False), *POSES))
