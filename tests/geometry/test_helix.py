import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cryorefine.geometry.helix import Helix
from cryorefine.geometry.protocol import Symmetry
from cryorefine.geometry.rotation import random_rotations
from tests.builders import refused

twists = st.floats(-720, 720, allow_nan=False)


@pytest.mark.parametrize("rise_A", [0.0, -1.4, math.nan, math.inf])
def test_a_rise_that_is_not_positive_is_refused_with_any_twist(rise_A):
    for twist_deg in (0.0, 27.4):
        with refused("cannot have a rise of"):
            Helix(twist_deg, rise_A)


def test_a_twist_that_is_no_number_and_an_axis_of_no_order_are_refused():
    with refused("twist of nan"):
        Helix(math.nan, 1.0)
    with refused("0-fold"):
        Helix(10.0, 1.0, fold=0)


@given(twists)
def test_twists_are_brought_to_half_a_turn_either_way(twist_deg):
    found = Helix(twist_deg, 1.0).twist_deg
    assert -180 < found <= 180
    assert math.isclose(math.cos(math.radians(found - twist_deg)), 1, abs_tol=1e-9)


def test_a_step_of_positive_twist_goes_from_x_towards_y_and_up_as_a_right_handed_screw():
    copies = Helix(90.0, 5.0).within(10.0)
    assert copies.order == 3  # 0, 1 and -1
    moved = copies.matrices @ torch.tensor([2.0, 0.0, 0.0], dtype=torch.float64) + copies.shifts_A
    expected = torch.tensor([[2.0, 0, 0], [0, 2, 5], [0, -2, -5]], dtype=torch.float64)
    torch.testing.assert_close(moved, expected, rtol=0, atol=1e-12)


def test_copies_are_all_steps_with_all_rotations_of_the_point_group():
    copies = Helix(-29.4, 21.8, fold=3, is_dihedral=True).within(100.0)
    assert isinstance(copies, Symmetry)
    assert copies.order == 5 * 6 == len(copies.matrices) == len(copies.shifts_A)
    assert torch.equal(copies.matrices[0], torch.eye(3, dtype=torch.float64))
    assert len(copies.point_group) == 6
    # With each operator its inverse is one: x -> M'(x - s).
    pairs = torch.cat([copies.matrices, copies.shifts_A[..., None]], -1)
    inverse = copies.matrices.mT
    back = torch.cat([inverse, -(inverse @ copies.shifts_A[..., None])], -1)
    distance = (pairs[:, None] - back[None]).abs().amax((-1, -2))
    assert float(distance.amin(0).max()) < 1e-9


def test_poses_that_are_steps_apart_are_the_same_pose():
    copies = Helix(22.03, 1.408).within(14.08)
    poses = random_rotations(4, torch.Generator().manual_seed(1))
    others = copies.equivalents(poses)[:, 7]
    assert float(copies.distance(others, poses).max()) < 1e-6
    torch.testing.assert_close(copies.nearest(others, poses), poses, rtol=0, atol=1e-9)
