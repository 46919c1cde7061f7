import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cryorefine.events import EventLog
from cryorefine.particles.half_sets import assign_halves, find_duplicates
from tests.builders import make_table, refused

quick = settings(max_examples=80, deadline=None)


def halves(table, seed=0):
    """Return the halves and the warnings that drawing them gave."""
    heard = []
    events = EventLog()
    events.subscribe(heard.append)
    half = assign_halves(table, seed=seed, events=events)
    assert len(half) == len(table)
    assert set(half.tolist()) <= {1, 2}
    return half, [e.message for e in heard if e.kind == "warning"]


def sizes(half):
    return int((half == 1).sum()), int((half == 2).sum())


@quick
@given(counts=st.lists(st.integers(1, 30), min_size=1, max_size=12), seed=st.integers(0, 2**32 - 1))
def test_no_micrograph_is_split_and_halves_differ_by_the_largest_at_most(counts, seed):
    micrograph = np.repeat(np.arange(len(counts)), counts)
    micrograph = np.random.default_rng(seed).permutation(micrograph)
    if len(micrograph) < 2:
        return
    half, warnings = halves(make_table(len(micrograph), micrograph=micrograph.tolist()), seed)
    one, two = sizes(half)
    if warnings:
        assert "too few micrographs" in warnings[0]
        assert abs(one - two) <= 1
        # Only a large micrograph can make halves of whole ones as uneven as 2 to 3.
        assert max(counts) > 0.2 * len(micrograph)
    else:
        assert abs(one - two) <= max(counts)
        assert min(one, two) >= 0.4 * len(micrograph) - 1e-9
        for m in range(len(counts)):
            assert len(set(half[micrograph == m].tolist())) == 1


def test_micrographs_of_one_size_are_dealt_evenly():
    table = make_table(60, micrograph=np.repeat(np.arange(10), 6).tolist())
    for seed in range(20):
        half, warnings = halves(table, seed)
        assert sizes(half) == (30, 30)
        assert not warnings


def test_a_large_micrograph_is_evened_out_by_the_small_ones():
    micrograph = [0] * 10 + list(range(1, 11))
    for seed in range(20):
        half, _ = halves(make_table(20, micrograph=micrograph), seed)
        assert sizes(half) == (10, 10)


@pytest.mark.parametrize("n", [2, 3, 10, 11])
def test_without_micrographs_single_images_are_dealt_evenly(n):
    half, warnings = halves(make_table(n))
    assert sizes(half) in ((n // 2, n - n // 2), (n - n // 2, n // 2))
    assert ["no column _rlnMicrographName" in text for text in warnings] == [True]


def test_a_single_micrograph_is_dealt_by_image_with_a_warning():
    half, warnings = halves(make_table(10, micrograph=[0] * 10))
    assert sizes(half) == (5, 5)
    assert "too few micrographs" in warnings[0]


def test_a_seed_gives_the_same_halves_again_and_another_seed_others():
    table = make_table(200)
    first, again, other = (halves(table, seed)[0] for seed in (3, 3, 4))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_halves_do_not_follow_the_order_of_the_file():
    half, _ = halves(make_table(400))
    runs = int((np.diff(half) != 0).sum())
    assert 140 < runs < 260  # 200 ± 6 standard deviations if neighbours are independent


@quick
@given(
    st.lists(st.tuples(st.integers(0, 2), st.integers(0, 5)), min_size=1, max_size=20),
)
def test_duplicates_are_rows_of_the_same_image_of_the_same_stack(pairs):
    table = make_table(len(pairs), stack=[p[0] for p in pairs], image=[p[1] for p in pairs])
    assert find_duplicates(table).tolist() == [pairs.index(p) for p in pairs]


def test_an_empty_table_has_no_duplicates():
    assert find_duplicates(make_table(0)).tolist() == []


@quick
@given(
    pairs=st.lists(st.tuples(st.integers(0, 1), st.integers(0, 6)), min_size=2, max_size=30),
    data=st.data(),
)
def test_rows_that_show_one_image_stay_together_whatever_their_micrographs(pairs, data):
    if len(set(pairs)) < 2:
        return
    n = len(pairs)
    micrograph = data.draw(st.none() | st.lists(st.integers(0, 8), min_size=n, max_size=n))
    table = make_table(
        n, stack=[p[0] for p in pairs], image=[p[1] for p in pairs], micrograph=micrograph
    )
    half, warnings = halves(table)
    for pair in set(pairs):
        assert len({int(h) for h, p in zip(half, pairs, strict=True) if p == pair}) == 1
    assert set(half.tolist()) == {1, 2}
    repeated = n - len(set(pairs))
    assert any(f"{repeated} particles repeat" in w for w in warnings) == (repeated > 0)


def test_the_warning_names_the_first_repeated_image():
    _, warnings = halves(make_table(4, image=[0, 5, 5, 0]))
    assert "2 particles repeat an image" in warnings[0]
    assert "000006@s0.mrcs" in warnings[0]


def test_given_halves_are_kept():
    given = [2, 1, 1, 2, 2]
    half, warnings = halves(make_table(5, half=given, micrograph=[0] * 5))
    assert half.tolist() == given
    assert not warnings


def test_given_halves_with_duplicates_in_one_half_are_kept_with_a_warning():
    half, warnings = halves(make_table(4, half=[1, 1, 2, 2], image=[0, 0, 1, 2]))
    assert half.tolist() == [1, 1, 2, 2]
    assert "1 particles repeat" in warnings[0]


def test_halves_given_to_some_particles_only_are_refused():
    with refused("particles.star, column _rlnRandomSubset", "no half set", "first: 000003@s0.mrcs"):
        halves(make_table(4, half=[1, 2, 0, 1]))


@pytest.mark.parametrize(("half", "empty"), [([1, 1], 2), ([2, 2, 2], 1)])
def test_given_halves_of_which_one_is_empty_are_refused(half, empty):
    with refused("_rlnRandomSubset", f"no particle is in half set {empty}"):
        halves(make_table(len(half), half=half))


def test_an_image_given_to_both_halves_is_refused():
    with refused("_rlnRandomSubset", "both half sets", "first: 000001@s0.mrcs"):
        halves(make_table(4, half=[1, 2, 2, 1], image=[0, 1, 0, 2]))


@pytest.mark.parametrize("image", [[], [0], [4, 4, 4]])
def test_fewer_than_two_images_are_refused(image):
    with refused("particles.star", "two half sets"):
        halves(make_table(len(image), image=image))
