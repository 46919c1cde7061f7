import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cryorefine.weigh.defocus_groups import defocus_groups

defoci = st.lists(st.floats(1000, 40000), max_size=200).map(
    lambda x: torch.tensor(x, dtype=torch.float64)
)


@given(defoci, st.integers(1, 12), st.integers(1, 30))
def test_groups_are_even_and_neither_too_many_nor_too_small(defocus_A, max_groups, least):
    group = defocus_groups(defocus_A, max_groups=max_groups, least=least)
    assert group.shape == defocus_A.shape
    if not len(group):
        return
    counts = torch.bincount(group)
    assert int(counts.max() - counts.min()) <= 1
    assert len(counts) <= max_groups
    assert len(counts) == 1 or int(counts.min()) >= least
    # No more groups would do: as many as allowed.
    assert len(counts) == max(1, min(max_groups, len(group) // least))


@given(defoci)
def test_groups_follow_the_defocus(defocus_A):
    group = defocus_groups(defocus_A, max_groups=7, least=3)
    assert bool((group[defocus_A.argsort(stable=True)].diff() >= 0).all())


@given(st.lists(st.floats(1000, 40000), min_size=1, max_size=100, unique=True), st.randoms())
def test_the_order_of_the_file_does_not_matter_but_for_ties(defocus_A, random):
    order = list(range(len(defocus_A)))
    random.shuffle(order)
    x = torch.tensor(defocus_A, dtype=torch.float64)
    options = {"max_groups": 6, "least": 4}
    assert torch.equal(defocus_groups(x[order], **options), defocus_groups(x, **options)[order])


def test_equal_defoci_are_split_in_the_order_of_the_file():
    group = defocus_groups(torch.full((10,), 15000.0), max_groups=2, least=5)
    assert group.tolist() == [0] * 5 + [1] * 5


def test_a_thousand_particles_make_fifty_groups_of_twenty():
    group = defocus_groups(torch.arange(1000.0).flip(0))
    assert torch.bincount(group).tolist() == [20] * 50
    assert group[-1] == 0
    assert group[0] == 49


@pytest.mark.parametrize("n", [1, 19, 39])
def test_few_particles_are_one_group(n):
    assert defocus_groups(torch.rand(n)).tolist() == [0] * n


def test_no_particles_have_no_groups():
    assert defocus_groups(torch.zeros(0)).shape == (0,)


def test_an_unknown_defocus_comes_last():
    group = defocus_groups(torch.tensor([math.nan, 3.0, 1.0, 2.0]), max_groups=2, least=2)
    assert group.tolist() == [1, 1, 0, 0]
