import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from cryorefine.geometry.rotation import geodesic_angle, matrix_from_rotvec, random_rotations
from cryorefine.geometry.symmetry import parse_symmetry
from tests.builders import refused

ORDERS = {
    **{f"c{n}": n for n in range(1, 13)},
    **{f"d{n}": 2 * n for n in range(1, 10)},
    "d7y": 14,
    "t": 12,
    "t222": 12,
    "o": 24,
    **{f"i{n}": 60 for n in range(1, 5)},
}
# Products of rotations that are each snapped to rounding.
ROUNDING = 1e-12

# Fold and axis of the generators in the symmetry tables of Xmipp and RELION (SymList), to the
# digits given there.
TABLES = {
    "c5": [(5, (0, 0, 1))],
    "d7": [(7, (0, 0, 1)), (2, (1, 0, 0))],
    "t": [(3, (0, 0, 1)), (2, (0, 0.816496, 0.577350))],
    "o": [(3, (0.5773502, 0.5773502, 0.5773502)), (4, (0, 0, 1))],
    "i1": [
        (2, (1, 0, 0)),
        (5, (0.85065080702670, 0, -0.5257311142635)),
        (3, (0.9341723640, 0.3568220765, 0)),
    ],
    "i2": [(2, (0, 0, 1)), (5, (0.525731114, 0, 0.850650807)), (3, (0, 0.356822076, 0.934172364))],
    "i3": [
        (2, (-0.5257311143, 0, 0.8506508070)),
        (5, (0, 0, 1)),
        (3, (-0.4911234778630044, 0.3568220764705179, 0.7946544753759428)),
    ],
    "i4": [
        (2, (0.5257311143, 0, 0.8506508070)),
        (5, (0.8944271932547096, 0, 0.4472135909903704)),
        (3, (0.4911234778630044, 0.3568220764705179, 0.7946544753759428)),
    ],
}

names = st.sampled_from(sorted(ORDERS))


def _poses(n: int, seed: int) -> torch.Tensor:
    return random_rotations(n, torch.Generator().manual_seed(seed))


def _missing(a: torch.Tensor, b: torch.Tensor) -> float:
    """Return how far the farthest element of ``a`` is from all of ``b``, in matrix entries."""
    return float((a[:, None] - b[None]).abs().amax((-1, -2)).amin(1).max())


def _same_set(a: torch.Tensor, b: torch.Tensor, tolerance: float = ROUNDING) -> bool:
    return len(a) == len(b) and _missing(a, b) < tolerance and _missing(b, a) < tolerance


def _turn(axis: tuple[float, float, float], angle_rad: float) -> torch.Tensor:
    vector = torch.tensor(axis, dtype=torch.float64)
    return matrix_from_rotvec(vector / vector.norm() * angle_rad)


@pytest.mark.parametrize(("name", "order"), ORDERS.items())
def test_the_order_of_every_group_is_exact(name, order):
    group = parse_symmetry(name)
    assert group.name == name
    assert group.order == order
    apart = (group.matrices[:, None] - group.matrices[None]).flatten(-2).norm(dim=-1)
    # The nearest different elements of c12 are 30° apart, a chord of 2√2 sin 15°.
    assert float(apart.fill_diagonal_(9.0).min()) > 0.7


@pytest.mark.parametrize("name", ORDERS)
def test_every_group_is_closed_has_inverses_and_starts_with_the_identity(name):
    matrices = parse_symmetry(name).matrices
    assert matrices.dtype == torch.float64
    assert torch.equal(matrices[0], torch.eye(3, dtype=torch.float64))
    assert _missing((matrices[:, None] @ matrices[None]).flatten(0, 1), matrices) < ROUNDING
    assert _missing(matrices.mT, matrices) < ROUNDING


@pytest.mark.parametrize("name", ORDERS)
def test_every_element_is_a_proper_rotation_to_machine_precision(name):
    matrices = parse_symmetry(name).matrices
    identity = torch.eye(3, dtype=torch.float64).expand_as(matrices)
    np.testing.assert_allclose(matrices @ matrices.mT, identity, atol=ROUNDING)
    np.testing.assert_allclose(torch.linalg.det(matrices), 1.0, atol=ROUNDING)


@pytest.mark.parametrize(
    ("name", "scipy_name"),
    [(f"c{n}", f"C{n}") for n in range(1, 13)]
    + [(f"d{n}", f"D{n}") for n in range(2, 10)]
    + [("o", "O"), ("i1", "I")],
)
def test_groups_are_scipys_where_the_axes_agree(name, scipy_name):
    expected = torch.from_numpy(Rotation.create_group(scipy_name).as_matrix())
    assert _same_set(parse_symmetry(name).matrices, expected)


@pytest.mark.parametrize("name", TABLES)
def test_groups_hold_the_axes_of_relions_and_xmipps_tables(name):
    matrices = parse_symmetry(name).matrices
    for fold, axis in TABLES[name]:
        turn = _turn(axis, 2 * math.pi / fold)[None]
        assert _missing(turn, matrices) < 2e-6  # the tables have six decimals and more


def test_the_tetrahedron_stands_on_a_threefold_along_z_with_twofolds_off_it():
    angles = [Rotation.from_matrix(m).as_rotvec() for m in parse_symmetry("t").matrices[1:].numpy()]
    threefolds = [v for v in angles if abs(np.linalg.norm(v) - 2 * math.pi / 3) < 1e-9]
    twofolds = [v / np.linalg.norm(v) for v in angles if abs(np.linalg.norm(v) - math.pi) < 1e-9]
    assert len(threefolds) == 8
    assert len(twofolds) == 3
    assert any(np.allclose(v, [0, 0, 2 * math.pi / 3]) for v in threefolds)
    np.testing.assert_allclose(np.abs(np.array(twofolds)[:, 2]), math.sqrt(1 / 3), atol=ROUNDING)


def test_i2_is_i1_turned_90_degrees_about_z():
    quarter = _turn((0, 0, 1), math.pi / 2)
    i1, i2 = parse_symmetry("i1").matrices, parse_symmetry("i2").matrices
    assert _same_set(quarter @ i1 @ quarter.T, i2)
    assert not _same_set(i1, i2)


def test_i4_and_i3_are_i2_turned_actively_by_plus_and_minus_31_717_degrees_about_y():
    angle = math.atan(2 / (1 + math.sqrt(5)))
    assert abs(math.degrees(angle) - 31.717) < 5e-4
    i2, i3, i4 = (parse_symmetry(f"i{k}").matrices for k in (2, 3, 4))
    plus, minus = _turn((0, 1, 0), angle), _turn((0, 1, 0), -angle)
    assert _same_set(plus @ i2 @ plus.T, i4)
    assert _same_set(minus @ i2 @ minus.T, i3)
    assert not _same_set(plus @ i2 @ plus.T, i3)


# RELION's manual: seen from +z, in which plane the front-most 5-fold lies besides one on z itself.
@pytest.mark.parametrize(
    ("name", "plane", "side"), [("i1", "yz", 0), ("i2", "xz", 0), ("i3", "xz", -1), ("i4", "xz", 1)]
)
def test_the_front_most_fivefold_of_each_icosahedral_setting_lies_where_relion_has_it(
    name, plane, side
):
    turns = [Rotation.from_matrix(m).as_rotvec() for m in parse_symmetry(name).matrices[1:].numpy()]
    fifth = 2 * math.pi / 5
    axes = np.array([v / fifth for v in turns if abs(np.linalg.norm(v) - fifth) < 1e-9])
    axes = axes[axes[:, 2] < 1 - 1e-9]
    front = axes[axes[:, 2] > axes[:, 2].max() - 1e-9]
    in_plane = front[np.abs(front[:, 0 if plane == "yz" else 1]) < 1e-9]
    assert len(in_plane) >= 1
    if side:
        assert np.sign(in_plane[:, 0]).tolist() == [side]


@pytest.mark.parametrize(
    ("alias", "name"),
    [
        ("i", "i2"),
        ("I", "i2"),
        ("i222", "i1"),
        ("I222r", "i2"),
        ("in25", "i3"),
        ("In25r", "i4"),
        ("D7", "d7"),
        (" c3 ", "c3"),
        ("C03", "c3"),
        ("D07Y", "d7y"),
        ("T222", "t222"),
        ("O", "o"),
        ("tet", "t"),
        ("oct", "o"),
        ("icos", "i2"),
    ],
)
def test_other_spellings_mean_the_same_group(alias, name):
    assert parse_symmetry(alias).name == name
    assert torch.equal(parse_symmetry(alias).matrices, parse_symmetry(name).matrices)


@pytest.mark.parametrize(
    "name", ["ci", "cs", "s4", "c2v", "C3h", "d5h", "d2v", "td", "th", "oh", "ih", "i1h"]
)
def test_groups_with_mirrors_are_refused_with_the_groups_one_may_use(name):
    with refused("--symmetry", f"'{name}'", "mirrors", "Give its group of rotations", "c1, c2"):
        parse_symmetry(name)


@pytest.mark.parametrize(
    "name", ["", "c", "c0", "d0", "x", "5", "c-1", "c1.5", "i5", "c 3", "oo", "c3y", "d0y"]
)
def test_unknown_names_are_refused_with_the_names_one_may_use(name):
    with refused("--symmetry", f"'{name}'", "unknown", "Use one of c1, c2", "i4"):
        parse_symmetry(name)


@given(names, st.integers(0, 1000))
def test_equivalent_poses_see_a_symmetric_object_alike(name, seed):
    group = parse_symmetry(name)
    rng = np.random.default_rng(seed)
    unit = torch.from_numpy(rng.normal(size=(4, 3)))
    points = torch.cat([unit @ m.T for m in group.matrices])
    pose = _poses(1, seed)[0]
    seen = points @ pose.T
    for other in group.equivalents(pose):
        again = points @ other.T
        nearest = torch.cdist(again, seen).amin(1)
        # cdist takes squares apart and loses half the digits.
        assert float(nearest.max()) < 1e-6


@given(names, st.integers(0, 1000))
def test_the_distance_modulo_the_group_is_zero_for_equivalent_poses(name, seed):
    group = parse_symmetry(name)
    pose = _poses(1, seed)[0]
    equivalents = group.equivalents(pose)
    assert torch.equal(equivalents[0], pose)
    assert float(group.distance(equivalents, pose.expand_as(equivalents)).max()) < ROUNDING


@given(names, st.integers(0, 1000))
def test_the_distance_modulo_the_group_is_symmetric_and_never_above_the_plain_one(name, seed):
    group = parse_symmetry(name)
    a, b, c = _poses(3, seed)
    # The arc sine of the chord loses digits near half a turn, which c1 can reach.
    tolerance = 1e-7
    assert abs(float(group.distance(a, b) - group.distance(b, a))) < tolerance
    assert float(group.distance(a, b)) <= float(geodesic_angle(a, b)) + tolerance
    through = float(group.distance(a, c) + group.distance(c, b))
    assert float(group.distance(a, b)) <= through + tolerance


@given(names, st.integers(0, 1000))
def test_nearest_returns_the_equivalent_pose_that_attains_the_distance(name, seed):
    group = parse_symmetry(name)
    poses, targets = _poses(3, seed), _poses(3, seed + 1)
    found = group.nearest(poses, targets)
    assert float(group.distance(found, poses).max()) < ROUNDING
    np.testing.assert_allclose(
        geodesic_angle(found, targets), group.distance(poses, targets), atol=ROUNDING
    )


def test_distances_and_nearest_poses_take_any_batch_shape():
    group = parse_symmetry("d3")
    for shape in [(), (4,), (2, 3), (0,)]:
        poses = _poses(math.prod(shape), 0).reshape(*shape, 3, 3)
        assert group.equivalents(poses).shape == (*shape, 6, 3, 3)
        assert group.nearest(poses, poses).shape == (*shape, 3, 3)
        assert group.distance(poses, poses).shape == shape
