import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cryorefine.weigh.defocus_groups import defocus_groups

particles = st.lists(st.tuples(st.floats(1000, 40000), st.integers(1, 2)), max_size=200).map(
    lambda rows: (
        torch.tensor([row[0] for row in rows], dtype=torch.float64),
        torch.tensor([row[1] for row in rows], dtype=torch.int64),
    )
)


def in_turn(n):
    return torch.arange(n) % 2 + 1


@given(particles, st.integers(1, 12), st.integers(1, 30))
def test_each_half_has_enough_particles_in_each_group(given_particles, max_groups, least):
    defocus_A, half = given_particles
    group = defocus_groups(defocus_A, half, max_groups=max_groups, least=least)
    assert group.shape == defocus_A.shape
    if not len(group):
        return
    n_groups = int(group.max()) + 1
    assert n_groups <= max_groups
    for number in (1, 2):
        counts = torch.bincount(group[half == number], minlength=n_groups)
        assert n_groups == 1 or int(counts.min()) >= least


@given(particles)
def test_groups_are_ranges_of_defocus_the_same_for_both_halves(given_particles):
    defocus_A, half = given_particles
    group = defocus_groups(defocus_A, half, max_groups=7, least=3)
    for number in range(int(group.max()) if len(group) else 0):
        assert float(defocus_A[group == number].max()) < float(defocus_A[group > number].min())


@given(particles, st.randoms())
def test_the_order_of_the_file_does_not_matter(given_particles, random):
    defocus_A, half = given_particles
    order = list(range(len(defocus_A)))
    random.shuffle(order)
    options = {"max_groups": 6, "least": 4}
    shuffled = defocus_groups(defocus_A[order], half[order], **options)
    assert torch.equal(shuffled, defocus_groups(defocus_A, half, **options)[order])


def test_equal_defoci_are_one_group():
    assert defocus_groups(torch.full((200,), 15000.0), in_turn(200)).tolist() == [0] * 200


def test_two_thousand_particles_make_fifty_even_groups():
    group = defocus_groups(torch.arange(2000.0).flip(0), in_turn(2000))
    assert torch.bincount(group).tolist() == [40] * 50
    assert group[-1] == 0
    assert group[0] == 49


def test_halves_of_other_micrographs_still_share_their_ranges():
    """Micrographs of ten particles have a defocus each, and belong to one half each."""
    micrograph = torch.arange(1000) // 10
    defocus_A = 10000.0 + 100 * micrograph + torch.arange(1000) % 10
    half = (micrograph * 7 % 10 < 5).long() + 1
    group = defocus_groups(defocus_A, half)
    n_groups = int(group.max()) + 1
    assert n_groups > 10
    for number in (1, 2):
        assert int(torch.bincount(group[half == number], minlength=n_groups).min()) >= 20


@pytest.mark.parametrize("n", [1, 39, 78])
def test_few_particles_are_one_group(n):
    assert defocus_groups(torch.rand(n), in_turn(n)).tolist() == [0] * n


def test_particles_of_one_half_only_are_one_group():
    assert defocus_groups(torch.rand(100), torch.ones(100).long()).tolist() == [0] * 100


def test_no_particles_have_no_groups():
    assert defocus_groups(torch.zeros(0), torch.zeros(0).long()).shape == (0,)


def test_an_unknown_defocus_comes_last():
    defocus_A = torch.tensor([math.nan, 3.0, 1.0, 2.0])
    group = defocus_groups(defocus_A, torch.tensor([1, 2, 1, 2]), max_groups=2, least=1)
    assert group.tolist() == [1, 1, 0, 0]
