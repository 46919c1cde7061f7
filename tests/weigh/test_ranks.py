import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import rankdata

from cryorefine.weigh.ranks import percentiles

# Few different values, so that many are equal; some unknown.
rows = st.lists(
    st.tuples(st.sampled_from([-1.0, 0.0, -0.0, 0.25, 2.0, 7.5, math.nan]), st.integers(-2, 3)),
    max_size=80,
)


def tensors(table: list[tuple[float, int]]) -> tuple[torch.Tensor, torch.Tensor]:
    values = torch.tensor([v for v, _ in table], dtype=torch.float64)
    return values, torch.tensor([g for _, g in table], dtype=torch.int64)


@given(rows)
def test_ranks_are_those_of_scipy_within_each_group(table):
    values, group = tensors(table)
    found = percentiles(values, group)
    expected = np.full(len(table), np.nan)
    for g in group.unique():
        mine = ((group == g) & ~values.isnan()).numpy()
        if mine.any():
            expected[mine] = rankdata(values[mine]) / mine.sum()
    np.testing.assert_allclose(found, expected, rtol=1e-14)


@given(rows, st.floats(0.01, 100), st.floats(-5, 5), st.randoms())
def test_neither_scale_nor_order_nor_names_of_groups_matter(table, scale, offset, random):
    values, group = tensors(table)
    order = list(range(len(table)))
    random.shuffle(order)
    found = percentiles((scale * values + offset)[order], 1000 - group[order])
    np.testing.assert_array_equal(found, percentiles(values, group)[order])


def test_the_best_of_a_group_has_one_and_the_worst_one_over_n():
    values = torch.tensor([5.0, 1.0, 3.0, 10.0, 20.0])
    found = percentiles(values, torch.tensor([0, 0, 0, 1, 1]))
    np.testing.assert_allclose(found, [1, 1 / 3, 2 / 3, 1 / 2, 1], rtol=1e-6)


def test_ties_share_their_mean_rank():
    found = percentiles(torch.tensor([2.0, 2.0, 1.0, 2.0]), torch.zeros(4, dtype=torch.int64))
    assert found.tolist() == [0.75, 0.75, 0.25, 0.75]


def test_equal_values_of_different_groups_are_no_ties():
    found = percentiles(torch.tensor([2.0, 2.0, 1.0]), torch.tensor([0, 1, 1]))
    assert found.tolist() == [1.0, 1.0, 0.5]


def test_unknown_values_do_not_count():
    found = percentiles(torch.tensor([math.nan, 1.0, 2.0]), torch.zeros(3, dtype=torch.int64))
    np.testing.assert_array_equal(found, [math.nan, 0.5, 1.0])


@pytest.mark.parametrize(("values", "expected"), [([], []), ([3.0], [1.0])])
def test_none_and_one(values, expected):
    group = torch.zeros(len(values), dtype=torch.int64)
    assert percentiles(torch.tensor(values), group).tolist() == expected


def test_no_known_value_has_a_percentile():
    found = percentiles(torch.full((3,), math.nan), torch.tensor([0, 0, 1]))
    assert bool(found.isnan().all())
