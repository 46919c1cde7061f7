import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cryorefine.weigh.fit import fit_z, half_sample_mode


def _scores(n, junk, power, seed=0):
    """Return scores of n images, the first of which show nothing: the best of 1e6 poses."""
    generator = torch.Generator().manual_seed(seed)
    p = power * (0.8 + 0.4 * torch.rand(n, generator=generator, dtype=torch.float64))
    width = (2 * p).sqrt()
    score = 0.9 * p + width * torch.randn(n, generator=generator, dtype=torch.float64)
    score[:junk] = (-p + width * (5 + 0.2 * torch.randn(n, generator=generator)))[:junk]
    return score, p


@pytest.mark.parametrize("junk", [0, 100, 300])
def test_right_poses_have_z_of_a_normal_variable_and_junk_lies_far_below(junk):
    score, power = _scores(1000, junk, 150.0)
    z = fit_z(score, power)
    good = z[junk:]
    assert abs(float(good.median())) < 0.35
    assert 0.8 < float(good.std()) < 1.25
    assert float((good < -3).double().mean()) < 0.01
    if junk:
        assert float((z[:junk] < -3).double().mean()) > 0.98


def test_wider_scores_of_unequal_grey_values_do_not_make_right_poses_suspect():
    score, power = _scores(1000, 0, 150.0)
    grey = 1 + 0.1 * torch.randn(1000, generator=torch.Generator().manual_seed(1)).double()
    z = fit_z(score + 2 * (grey - 1) * power, power)
    assert float((z < -3).double().mean()) < 0.01


def test_few_or_empty_images_give_no_verdict():
    none = torch.zeros(0, dtype=torch.float64)
    assert fit_z(none, none).shape == (0,)
    two = torch.tensor([1.0, 5.0], dtype=torch.float64)
    assert fit_z(two, two).tolist() == [0.0, 0.0]
    nothing = torch.zeros(5, dtype=torch.float64)
    assert fit_z(nothing, nothing).tolist() == [0.0] * 5


@given(st.floats(-1e3, 1e3), st.integers(20, 200))
def test_the_mode_is_where_most_values_are(centre, n):
    generator = torch.Generator().manual_seed(n)
    values = torch.cat([
        centre + torch.randn(n, generator=generator, dtype=torch.float64),
        centre - 50 + 20 * torch.rand(n // 2, generator=generator, dtype=torch.float64),
    ])  # fmt: skip
    assert half_sample_mode(values) == pytest.approx(centre, abs=2.5)
