"""Axes of point groups: their number, and which are alike."""

import pytest

from cryorefine.geometry.symmetry import parse_symmetry
from cryorefine.symmetry.group_axes import group_axes


@pytest.mark.parametrize(
    ("name", "folds", "n_kinds"),
    [
        ("c1", {}, 0),
        ("c6", {6: 1}, 1),
        ("d2", {2: 3}, 3),
        ("d3", {3: 1, 2: 3}, 2),
        ("d4", {4: 1, 2: 4}, 3),
        ("d7", {7: 1, 2: 7}, 2),
        ("t", {3: 4, 2: 3}, 2),
        ("t222", {3: 4, 2: 3}, 2),
        ("o", {4: 3, 3: 4, 2: 6}, 3),
        ("i3", {5: 6, 3: 10, 2: 15}, 3),
    ],
)
def test_each_group_has_its_axes_in_their_classes(name, folds, n_kinds):
    axes = group_axes(parse_symmetry(name))
    assert {f: sum(a.fold == f for a in axes) for f in {a.fold for a in axes}} == folds
    assert len({axis.kind for axis in axes}) == n_kinds
    assert [a.fold for a in axes] == sorted((a.fold for a in axes), reverse=True)
