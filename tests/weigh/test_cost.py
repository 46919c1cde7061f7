import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cryorefine.weigh.cost import cost_weight


def tensor(values: list[float]) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_correlations_are_divided_by_the_98th_percentile():
    cost = torch.arange(101, dtype=torch.float64) / 200
    np.testing.assert_allclose(cost_weight(cost), (cost / 0.49).clamp(0, 1), atol=1e-12)


def test_junk_gets_less_weight_than_particles():
    generator = torch.Generator().manual_seed(0)
    particles = 0.2 + 0.03 * torch.randn(200, generator=generator)
    junk = 0.02 * torch.randn(50, generator=generator)
    weight = cost_weight(torch.cat([particles, junk]))
    assert float(weight[:200].min()) > float(weight[200:].max())


@given(st.lists(st.floats(-1, 1), max_size=60))
def test_weights_lie_between_zero_and_one_and_rise_with_the_correlation(cost):
    weight = cost_weight(tensor(cost))
    assert weight.shape == (len(cost),)
    assert bool(((weight >= 0) & (weight <= 1)).all())
    assert bool((weight[tensor(cost).argsort()].diff() >= 0).all())


@given(st.lists(st.floats(0.01, 1), min_size=1, max_size=60), st.floats(0.1, 10), st.randoms())
def test_weights_depend_neither_on_scale_nor_on_order(cost, scale, random):
    order = list(range(len(cost)))
    random.shuffle(order)
    x = tensor(cost)
    np.testing.assert_allclose(
        cost_weight(scale * x[order]), cost_weight(x)[order], rtol=0, atol=1e-12
    )


def test_particles_that_were_not_aligned_locally_keep_their_weight():
    weight = cost_weight(tensor([0.2, math.nan, 0.4, 0.4]))
    np.testing.assert_allclose(weight, [0.5, 1, 1, 1])


@pytest.mark.parametrize("cost", [[-0.1, -0.2, 0.0], [0.0], [math.nan, math.nan], [0.3], []])
def test_correlations_that_tell_nothing_weigh_all_alike(cost):
    assert cost_weight(tensor(cost)).tolist() == [1.0] * len(cost)
