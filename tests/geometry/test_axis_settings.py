"""Settings of point groups, and the rotations between them."""

import itertools

import pytest
import torch

from cryorefine.geometry.axis_settings import is_signed_permutation, setting_rotation, settings_of
from cryorefine.geometry.symmetry import parse_symmetry
from tests.builders import refused

FAMILIES = [("i1", "i2", "i3", "i4"), ("t", "t222"), ("d2", "d2y"), ("d7", "d7y"), ("d3", "d3y")]
PAIRS = [pair for family in FAMILIES for pair in itertools.product(family, family)]
ROUNDING = 1e-12


def missing(a, b):
    """Return how far the farthest element of ``a`` is from all of ``b``, in matrix entries."""
    return float((a[:, None] - b[None]).abs().amax((-1, -2)).amin(1).max())


@pytest.mark.parametrize(("source", "target"), PAIRS)
def test_the_rotation_takes_every_element_of_one_setting_to_one_of_the_other(source, target):
    turn = setting_rotation(source, target)
    a, b = parse_symmetry(source).matrices, parse_symmetry(target).matrices
    assert missing(turn @ a @ turn.T, b) < ROUNDING
    assert len(a) == len(b)


@pytest.mark.parametrize(("source", "target"), PAIRS)
def test_there_and_back_is_an_element_of_the_group(source, target):
    there, back = setting_rotation(source, target), setting_rotation(target, source)
    assert missing((back @ there)[None], parse_symmetry(source).matrices) < ROUNDING


@pytest.mark.parametrize(("source", "target"), [("i1", "i2"), ("i3", "i4"), ("d7", "d7y")])
def test_a_rotation_that_takes_axes_to_axes_is_preferred(source, target):
    assert is_signed_permutation(setting_rotation(source, target))
    assert not is_signed_permutation(setting_rotation("i2", "i3"))


@pytest.mark.parametrize("name", ["d2", "d4", "d6"])
def test_even_dihedral_groups_have_twofolds_on_both_axes_and_need_no_rotation(name):
    assert torch.equal(setting_rotation(name, f"{name}y"), torch.eye(3, dtype=torch.float64))


def test_cryosparcs_tetrahedron_is_the_one_that_the_octahedron_of_the_axes_holds():
    tetrahedron = parse_symmetry("T222").matrices
    assert len(tetrahedron) == 12
    assert missing(tetrahedron, parse_symmetry("o").matrices) < ROUNDING
    halves = [torch.diag(torch.tensor(d)) for d in ([1.0, -1, -1], [-1.0, 1, -1], [-1.0, -1, 1])]
    assert missing(torch.stack(halves).double(), tetrahedron) < ROUNDING


@pytest.mark.parametrize("fold", [3, 5, 7])
def test_cryosparcs_odd_dihedral_groups_have_a_twofold_on_y_and_none_on_x(fold):
    matrices = parse_symmetry(f"D{fold}Y").matrices
    assert len(matrices) == 2 * fold
    about_x, about_y = (
        torch.diag(torch.tensor([1.0, -1, -1])),
        torch.diag(torch.tensor([-1.0, 1, -1])),
    )
    assert missing(about_y.double()[None], matrices) < ROUNDING
    assert missing(about_x.double()[None], matrices) > 0.1


def test_names_of_two_groups_are_no_two_settings():
    with refused("--to", "i1 and o are not the same group", "i1, i2, i3, i4"):
        setting_rotation("i1", "o")
    assert settings_of(parse_symmetry("c3")) == ("c3",)
