import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cryorefine.geometry.rotation import matrix_from_rotvec, random_rotations
from cryorefine.geometry.symmetry import parse_symmetry
from cryorefine.weigh.stability import pose_change, stability_weight

C1 = parse_symmetry("c1")


def tensor(values: list[float]) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def poses(n: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shift_A = torch.randn(n, 2, generator=generator, dtype=torch.float64)
    return random_rotations(n, generator), shift_A


@pytest.mark.parametrize("name", ["c1", "c7", "d2", "o", "i2"])
def test_symmetric_equivalents_are_no_change(name):
    group = parse_symmetry(name)
    rotations, shift_A = poses(12)
    pick = torch.arange(12) % group.order
    angle_deg, change_A = pose_change(
        rotations @ group.matrices[pick], shift_A, rotations, shift_A, group
    )
    # Some rounding errors of float64, in degrees.
    assert float(angle_deg.max()) < 1e-12
    assert change_A.tolist() == [0.0] * 12


@pytest.mark.parametrize("angle_deg", [0.0, 1e-6, 3.0, 90.0, 179.0])
def test_a_turn_is_measured_in_degrees_and_a_move_in_angstroms(angle_deg):
    rotations, shift_A = poses(5)
    axis = torch.nn.functional.normalize(tensor([1, 2, -2]), dim=0)
    turned = matrix_from_rotvec(math.radians(angle_deg) * axis) @ rotations
    found_deg, moved_A = pose_change(turned, shift_A + tensor([3, -4]), rotations, shift_A, C1)
    np.testing.assert_allclose(found_deg, angle_deg, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(moved_A, 5.0, rtol=1e-12)


def test_a_change_is_the_same_there_and_back():
    group = parse_symmetry("d3")
    first, second = poses(20), poses(20, seed=1)
    there, back = pose_change(*first, *second, group), pose_change(*second, *first, group)
    for a, b in zip(there, back, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9)
    # No pose is farther from its equivalents than the group's own rotations allow.
    assert float(there[0].max()) < float(pose_change(*first, *second, C1)[0].max())


def test_no_poses_have_no_change():
    angle_deg, change_A = pose_change(*poses(0), *poses(0), parse_symmetry("c3"))
    assert angle_deg.shape == change_A.shape == (0,)


@given(st.lists(st.floats(0, 180), max_size=60))
def test_weights_lie_between_zero_and_one_and_fall_with_the_angle(angle_deg):
    weight = stability_weight(tensor(angle_deg))
    assert weight.shape == (len(angle_deg),)
    assert bool(((weight >= 0) & (weight <= 1)).all())
    assert bool((weight[tensor(angle_deg).argsort()].diff() <= 0).all())
    assert bool((weight[tensor(angle_deg) == 0] == 1).all())


@given(st.lists(st.floats(1, 18), min_size=1, max_size=60), st.floats(1, 10), st.randoms())
def test_large_angles_count_relative_to_the_median_in_any_order(angle_deg, scale, random):
    order = list(range(len(angle_deg)))
    random.shuffle(order)
    x = tensor(angle_deg)
    np.testing.assert_allclose(
        stability_weight(scale * x[order]), stability_weight(x)[order], atol=1e-12
    )


def test_sigma_is_that_of_the_median_but_a_degree_at_least():
    x = tensor([0, 4, 8])
    sigma = 1.4826 * 4
    np.testing.assert_allclose(stability_weight(x), (-x.square() / (2 * sigma**2)).exp())
    x = tensor([0, 0.1, 1])
    np.testing.assert_allclose(stability_weight(x), (-x.square() / 2).exp())


def test_particles_that_jump_lose_their_weight():
    weight = stability_weight(tensor([0.5] * 20 + [90.0] * 5))
    assert float(weight[:20].min()) > 0.8
    assert float(weight[20:].max()) < 1e-6


@pytest.mark.parametrize("angle_deg", [[], [math.nan], [math.nan, math.nan], [0.0]])
def test_without_earlier_poses_all_weigh_one(angle_deg):
    assert stability_weight(tensor(angle_deg)).tolist() == [1.0] * len(angle_deg)


def test_a_new_particle_weighs_one_and_does_not_change_the_others():
    with_new = stability_weight(tensor([1, math.nan, 5, 9]))
    np.testing.assert_allclose(with_new[[0, 2, 3]], stability_weight(tensor([1, 5, 9])))
    assert with_new[1] == 1
