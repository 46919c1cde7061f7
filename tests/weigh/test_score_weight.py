import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cryorefine.weigh.score_weight import cc_weight, share_of_percentile


def test_weights_rise_from_the_minimum_to_one():
    weight = cc_weight(torch.tensor([0.0, 0.5, 1.0]), minimum=0.4)
    np.testing.assert_allclose(weight, [0.4, 0.7, 1.0], rtol=1e-6)


@given(st.lists(st.floats(0, 1), max_size=30), st.floats(0, 1))
def test_weights_lie_between_the_minimum_and_one_and_rise(percentile, minimum):
    x = torch.tensor(percentile, dtype=torch.float64)
    weight = cc_weight(x, minimum=minimum)
    # To rounding.
    assert bool(((weight >= minimum - 1e-15) & (weight <= 1 + 1e-15)).all())
    assert bool((weight[x.argsort()].diff() >= 0).all())


def test_a_minimum_of_one_weighs_all_alike():
    assert cc_weight(torch.rand(5), minimum=1.0).tolist() == [1.0] * 5


def test_a_particle_without_percentile_weighs_one():
    assert cc_weight(torch.tensor([math.nan, 0.0]), minimum=0.5).tolist() == [1.0, 0.5]


def test_outliers_do_not_set_the_scale():
    score = torch.ones(100)
    score[7] = 1000.0
    assert share_of_percentile(score, 0.98).tolist() == [1.0] * 100


@pytest.mark.parametrize("score", [[], [math.nan]])
def test_no_known_score_is_left_as_it_is(score):
    share = share_of_percentile(torch.tensor(score), 0.95)
    assert share.shape == (len(score),)
    assert bool(share.isnan().all())
