import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from cryorefine.geometry.rotation import (
    euler_from_matrix,
    geodesic_angle,
    matrix_from_euler,
    matrix_from_quaternion,
    matrix_from_rotvec,
    quaternion_from_matrix,
    random_rotations,
    rotvec_from_matrix,
)
from cryorefine.geometry.so3 import rotations_from

EPS = float(np.finfo(np.float64).eps)
# An entry of a rotation matrix is a sum of two or three products of rounded sines and cosines.
ROUNDING = 16 * EPS

angles = st.floats(-7.0, 7.0)
near_pole = st.sampled_from([0.0, math.pi]).flatmap(
    lambda pole: st.sampled_from([0.0, 1e-17, 1e-15, 1e-12, 1e-8, 1e-4]).map(lambda d: pole - d)
)
euler_triples = st.tuples(angles, st.one_of(angles, near_pole), angles)
rotations = st.integers(0, 2**32 - 1).map(
    lambda seed: random_rotations(1, torch.Generator().manual_seed(seed))[0]
)
# Powers of ten from far below rounding to well above it, both sides of where series take over from
# sines, and what lies near half a turn.
turns = st.one_of(
    st.sampled_from([0.0, 1e-12, 1e-8, 1e-6, 3e-5, 0.99e-4, 1.01e-4, 1e-3, math.pi]),
    st.floats(-20.0, 0.49).map(lambda p: 10.0**p),
    st.floats(-16.0, -1.0).map(lambda p: math.pi - 10.0**p),
)
directions = (
    st.integers(0, 2**32 - 1)
    .map(lambda seed: torch.from_numpy(np.random.default_rng(seed).normal(size=3)))
    .map(lambda v: v / v.norm())
)


def _draw(n: int, seed: int = 0) -> torch.Tensor:
    return random_rotations(n, torch.Generator().manual_seed(seed))


def _euler(*triple_deg: float) -> torch.Tensor:
    return torch.deg2rad(torch.tensor(triple_deg, dtype=torch.float64))


def test_the_matrix_of_three_angles_is_the_one_the_specification_writes_out():
    # RELION's and Xmipp's A(31°, 47°, -112°), to the four decimals given.
    expected = [
        [0.2585, -0.9263, 0.2740],
        [0.7350, 0.0046, -0.6781],
        [0.6269, 0.3767, 0.6820],
    ]
    found = matrix_from_euler(_euler(31.0, 47.0, -112.0))
    np.testing.assert_allclose(found, expected, atol=0.5e-4)


@given(euler_triples)
def test_the_matrix_is_the_transpose_of_scipys_intrinsic_zyz_rotation(triple):
    found = matrix_from_euler(torch.tensor(triple, dtype=torch.float64))
    expected = Rotation.from_euler("ZYZ", triple).as_matrix().T
    np.testing.assert_allclose(found, expected, atol=ROUNDING)


def test_the_third_row_is_the_viewing_direction():
    rot, tilt = math.radians(25.0), math.radians(70.0)
    row = matrix_from_euler(torch.tensor([rot, tilt, 0.4], dtype=torch.float64))[2]
    expected = [
        math.sin(tilt) * math.cos(rot),
        math.sin(tilt) * math.sin(rot),
        math.cos(tilt),
    ]
    np.testing.assert_allclose(row, expected, atol=ROUNDING)


@given(euler_triples)
def test_a_half_turn_of_rot_and_psi_undoes_a_change_of_tilts_sign(triple):
    rot, tilt, psi = triple
    one = matrix_from_euler(torch.tensor([rot, tilt, psi], dtype=torch.float64))
    other = matrix_from_euler(
        torch.tensor([rot + math.pi, -tilt, psi - math.pi], dtype=torch.float64)
    )
    np.testing.assert_allclose(one, other, atol=ROUNDING)


@given(euler_triples)
def test_a_half_turn_of_tilt_with_psi_negated_mirrors_the_image_in_x(triple):
    rot, tilt, psi = triple
    pose = matrix_from_euler(torch.tensor([rot, tilt, psi], dtype=torch.float64))
    mirrored = matrix_from_euler(torch.tensor([rot, tilt + math.pi, -psi], dtype=torch.float64))
    flip = torch.diag(torch.tensor([-1.0, 1.0, -1.0], dtype=torch.float64))
    np.testing.assert_allclose(mirrored, flip @ pose, atol=ROUNDING)


@given(euler_triples, rotations)
def test_angles_reproduce_their_matrix_at_and_near_the_poles_too(triple, detour):
    exact = matrix_from_euler(torch.tensor(triple, dtype=torch.float64))
    # By way of another rotation every entry gets its own rounding error, as in real life.
    for matrix in (exact, (exact @ detour) @ detour.T):
        again = matrix_from_euler(euler_from_matrix(matrix))
        np.testing.assert_allclose(again, matrix, atol=ROUNDING)


@given(euler_triples)
def test_angles_lie_in_their_ranges(triple):
    rot, tilt, psi = euler_from_matrix(matrix_from_euler(torch.tensor(triple))).tolist()
    half_turn = float(np.float32(np.pi))
    assert 0 <= tilt <= half_turn
    assert -half_turn <= rot <= half_turn
    assert -half_turn <= psi <= half_turn


@given(st.floats(-3.1, 3.1), st.floats(0.01, 3.13), st.floats(-3.1, 3.1))
def test_away_from_the_poles_the_very_angles_come_back(rot, tilt, psi):
    euler = torch.tensor([rot, tilt, psi], dtype=torch.float64)
    found = euler_from_matrix(matrix_from_euler(euler))
    # rot and psi are angles in a circle of radius sin(tilt) >= 0.01.
    np.testing.assert_allclose(found, euler, atol=ROUNDING / 0.01)


@pytest.mark.parametrize("tilt", [0.0, math.pi])
def test_at_the_poles_rot_is_zero_and_psi_holds_the_whole_turn(tilt):
    euler = torch.tensor([0.7, tilt, 0.4], dtype=torch.float64)
    found = euler_from_matrix(matrix_from_euler(euler))
    expected = [0.0, tilt, 1.1 if tilt == 0 else -0.3]
    np.testing.assert_allclose(found, expected, atol=ROUNDING)


@given(euler_triples)
def test_single_precision_angles_reproduce_single_precision_matrices(triple):
    matrix = matrix_from_euler(torch.tensor(triple, dtype=torch.float32))
    again = matrix_from_euler(euler_from_matrix(matrix))
    assert again.dtype == torch.float32
    np.testing.assert_allclose(again, matrix, atol=16 * np.finfo(np.float32).eps)


@pytest.mark.parametrize("shape", [(), (5,), (2, 3), (0,)])
def test_conversions_keep_any_batch_shape(shape):
    matrices = _draw(math.prod(shape)).reshape(*shape, 3, 3)
    assert euler_from_matrix(matrices).shape == (*shape, 3)
    assert matrix_from_euler(euler_from_matrix(matrices)).shape == (*shape, 3, 3)
    assert quaternion_from_matrix(matrices).shape == (*shape, 4)
    assert matrix_from_quaternion(quaternion_from_matrix(matrices)).shape == (*shape, 3, 3)
    assert rotvec_from_matrix(matrices).shape == (*shape, 3)
    assert matrix_from_rotvec(rotvec_from_matrix(matrices)).shape == (*shape, 3, 3)
    assert geodesic_angle(matrices, matrices).shape == shape


@given(turns, directions)
def test_a_rotation_vector_turns_actively_as_scipys_does(angle, axis):
    found = matrix_from_rotvec(axis * angle)
    expected = Rotation.from_rotvec((axis * angle).numpy()).as_matrix()
    np.testing.assert_allclose(found, expected, atol=ROUNDING)


@given(turns, directions)
def test_rotation_vectors_survive_the_round_trip_up_to_half_a_turn(angle, axis):
    rotvec = axis * angle
    found = rotvec_from_matrix(matrix_from_rotvec(rotvec))
    assert float(found.norm()) <= math.pi * (1 + EPS)
    # Half a turn about an axis and about its opposite are one rotation.
    same, opposite = float((found - rotvec).norm()), float((found + rotvec).norm())
    if angle > math.pi - 1e-6:
        missed = min(same, opposite + 2 * abs(math.pi - angle))
    else:
        missed = same
    assert missed <= math.pi * ROUNDING


@given(rotations)
def test_quaternions_have_unit_length_and_no_negative_real_part_and_agree_with_scipy(matrix):
    found = quaternion_from_matrix(matrix)
    assert found[0] >= 0
    assert abs(float(found.norm()) - 1) <= ROUNDING
    x, y, z, w = Rotation.from_matrix(matrix.numpy()).as_quat(canonical=True)
    np.testing.assert_allclose(found, [w, x, y, z], atol=ROUNDING)


@given(turns, directions, st.floats(0.01, 100.0))
def test_quaternions_of_any_length_give_back_the_matrix(angle, axis, length):
    matrix = matrix_from_rotvec(axis * angle)
    found = matrix_from_quaternion(length * quaternion_from_matrix(matrix))
    np.testing.assert_allclose(found, matrix, atol=ROUNDING)


@pytest.mark.parametrize("axis", [(1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 0), (0, -1, 1)])
def test_half_turns_have_quaternions_without_a_real_part(axis):
    unit = torch.tensor(axis, dtype=torch.float64)
    unit = unit / unit.norm()
    found = quaternion_from_matrix(matrix_from_rotvec(unit * math.pi))
    assert abs(float(found[0])) <= ROUNDING
    assert abs(abs(float(found[1:] @ unit)) - 1) <= ROUNDING


@given(rotations, turns, directions)
def test_the_geodesic_angle_is_the_angle_turned_precise_near_zero(pose, angle, axis):
    found = float(geodesic_angle(pose, matrix_from_rotvec(axis * angle) @ pose))
    # The chord sin(angle / 2) is known to rounding; its arc sine loses half the digits at 180°.
    error = abs(found - angle)
    assert error <= 2 * ROUNDING / max(math.cos(angle / 2), math.sqrt(ROUNDING))


def test_the_geodesic_angle_of_half_a_turn_is_pi_to_eight_digits_and_never_nan():
    poses = _draw(200)
    about = torch.randn(200, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    about = about / about.norm(dim=1, keepdim=True) * math.pi
    found = geodesic_angle(poses, matrix_from_rotvec(about) @ poses)
    np.testing.assert_allclose(found, math.pi, atol=4 * math.sqrt(ROUNDING))


@given(rotations, rotations, rotations, rotations)
def test_the_geodesic_angle_does_not_depend_on_the_frame_and_is_symmetric(a, b, left, right):
    angle = geodesic_angle(a, b)
    bound = 8 * ROUNDING / max(float((angle / 2).cos()), math.sqrt(ROUNDING))
    assert abs(float(geodesic_angle(b, a) - angle)) <= bound
    assert abs(float(geodesic_angle(left @ a @ right, left @ b @ right) - angle)) <= bound


def test_the_geodesic_angle_agrees_with_scipy():
    a, b = _draw(500, 1), _draw(500, 2)
    expected = (Rotation.from_matrix(a) * Rotation.from_matrix(b).inv()).magnitude()
    cosine = np.maximum(np.cos(expected / 2), math.sqrt(ROUNDING))
    assert (np.abs(geodesic_angle(a, b).numpy() - expected) <= 8 * ROUNDING / cosine).all()


def test_random_rotations_are_rotations_and_come_again_from_the_same_seed():
    first, again, other = _draw(50, 3), _draw(50, 3), _draw(50, 4)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    identity = torch.eye(3, dtype=torch.float64).expand(50, 3, 3)
    np.testing.assert_allclose(first @ first.mT, identity, atol=ROUNDING)
    np.testing.assert_allclose(torch.linalg.det(first), 1.0, atol=ROUNDING)
    assert _draw(0).shape == (0, 3, 3)


def test_random_rotations_are_uniform_over_so3():
    n = 20_000
    drawn = _draw(n, 5)
    # Each entry has mean 0 and variance 1/3; products of two different entries have mean 0.
    assert float(drawn.mean(0).abs().max()) < 5 * math.sqrt(1 / 3 / n)
    np.testing.assert_allclose(drawn.square().mean(0), 1 / 3, atol=5 * math.sqrt(4 / 45 / n))
    # The angle to any fixed rotation is distributed as (θ - sin θ) / π.
    fixed = _draw(1, 6).expand(n, 3, 3)
    angle = geodesic_angle(drawn, fixed).sort().values
    expected = (angle - angle.sin()) / math.pi
    steps = torch.arange(n, dtype=torch.float64) / n
    # Kolmogorov and Smirnov: exceeded once in a thousand seeds.
    assert float((expected - steps).abs().max()) < 1.95 / math.sqrt(n) + 1 / n


def test_poses_from_directions_look_along_them_and_turn_in_plane():
    looking = _draw(20, 7)[:, 2]
    psi = torch.tensor([0.0, 0.3, -2.0], dtype=torch.float64)
    poses = rotations_from(looking, psi)
    assert poses.shape == (20, 3, 3, 3)
    # tilt comes from an arc cosine, which loses half the digits at the poles only.
    sine = (1 - looking[:, 2] ** 2).sqrt().clamp_min(1e-8)
    missed = (poses[:, :, 2] - looking[:, None]).abs().amax((1, 2))
    assert bool((missed <= ROUNDING / sine).all())
    turned = matrix_from_rotvec(torch.tensor([[0, 0, -0.3], [0, 0, 2.0]], dtype=torch.float64))
    np.testing.assert_allclose(poses[:, 1:], turned @ poses[:, :1], atol=ROUNDING)
