import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cryorefine.weigh.combine import combine

weights = st.integers(1, 30).flatmap(
    lambda n: st.lists(st.lists(st.floats(0.01, 1), min_size=n, max_size=n), min_size=1, max_size=4)
)


def tensors(rows: list[list[float]]) -> list[torch.Tensor]:
    return [torch.tensor(row, dtype=torch.float64) for row in rows]


def test_weights_multiply():
    total = combine(torch.tensor([1.0, 0.5, 0.0]), torch.tensor([0.5, 0.5, 1.0]))
    # 0.5, 0.25, 0 over their mean of 0.25.
    np.testing.assert_allclose(total, [2, 1, 0])


@given(weights)
def test_the_mean_is_one_and_nothing_is_negative(rows):
    total = combine(*tensors(rows))
    assert float(total.mean()) == pytest.approx(1)
    assert float(total.min()) >= 0


@given(weights, st.floats(1e-3, 1e3))
def test_neither_the_scale_nor_the_order_of_weights_matters(rows, scale):
    w = tensors(rows)
    expected = combine(*w)
    np.testing.assert_allclose(combine(scale * w[0], *w[1:]), expected, rtol=1e-12)
    np.testing.assert_allclose(combine(*reversed(w)), expected, rtol=1e-12)
    np.testing.assert_allclose(combine(*(x.flip(0) for x in w)), expected.flip(0), rtol=1e-12)


def test_given_weights_are_left_as_they_are():
    first, second = torch.tensor([1.0, 3.0]), torch.tensor([2.0, 2.0])
    combine(first, second)
    assert first.tolist() == [1, 3]
    assert second.tolist() == [2, 2]


def test_a_single_particle_weighs_one():
    assert combine(torch.tensor([0.3]), torch.tensor([0.2])).tolist() == [1.0]


def test_no_particles_have_no_weights():
    assert combine(torch.zeros(0), torch.zeros(0)).shape == (0,)


def test_weights_that_leave_no_particle_are_refused():
    with pytest.raises(ValueError, match="no particle is left"):
        combine(torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0]))


def test_an_unknown_weight_is_refused():
    with pytest.raises(ValueError, match="NaN"):
        combine(torch.tensor([1.0, math.nan]))
