import numpy as np
import pytest

from cryorefine.expectation.grey_scale import common_factor


def test_one_group_has_all_of_the_factor():
    assert common_factor(np.array([6.0]), np.array([3.0]), np.array([10])) == (2.0, (1.0,))


def test_groups_that_differ_keep_their_ratio_and_have_mean_one_over_the_particles():
    amplitude, counts = np.array([1.0, 3.0]), np.array([30, 10])
    power = np.array([5.0, 2.0])
    factor, relative = common_factor(amplitude * power, power, counts)
    assert relative[1] / relative[0] == pytest.approx(3.0)
    assert np.average(relative, weights=counts) == pytest.approx(1.0)
    # Factor times relative amplitude is what was measured of each group.
    np.testing.assert_allclose(factor * np.array(relative), amplitude)


def test_a_group_that_nothing_is_known_of_counts_as_the_average():
    factor, relative = common_factor(
        np.array([4.0, 0.0, -1.0]), np.array([2.0, 0.0, 1.0]), np.array([8, 0, 8])
    )
    assert factor == pytest.approx(2.0)
    assert relative == pytest.approx((1.0, 1.0, 1.0))


def test_a_reference_that_explains_nothing_has_no_factor():
    assert common_factor(np.array([-1.0]), np.array([2.0]), np.array([5])) == (0.0, (1.0,))
