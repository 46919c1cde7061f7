import numpy as np
import pytest

from cryorefine.expectation.grey_scale import believed_sums, common_factor


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


def images_of(amplitudes, counts, seed=0, spread=0.15):
    """Return cross terms, powers and groups of images whose amplitudes vary by ``spread``."""
    rng = np.random.default_rng(seed)
    group_of = np.repeat(np.arange(len(counts)), counts)
    power = rng.uniform(20.0, 40.0, len(group_of))
    own = np.asarray(amplitudes)[group_of] * rng.normal(1.0, spread, len(group_of))
    return own * power, power, group_of, np.asarray(counts)


@pytest.mark.parametrize("counts", [[2] * 300, [1] * 200 + [4] * 50, [500, 3], [1, 1, 1], [0, 5]])
def test_groups_whose_images_do_not_differ_have_one_amplitude(counts):
    cross, power = believed_sums(*images_of(np.full(len(counts), 1.7), counts))
    known = power > 0
    np.testing.assert_allclose(cross[known] / power[known], cross.sum() / power.sum(), rtol=1e-12)


@pytest.mark.parametrize("counts", [[10, 10], [800, 10], [40, 60]])
def test_groups_whose_images_differ_have_each_its_amplitude(counts):
    cross, power = believed_sums(*images_of([1.0, 2.0], counts))
    error = cross / power / np.array([1.0, 2.0]) - 1
    assert (np.abs(error) < 4 * 0.15 / np.sqrt(counts) + 0.02).all()


def test_the_amplitude_of_a_group_alone_is_that_of_its_images():
    cross, power, group_of, counts = images_of([1.3], [9])
    found = believed_sums(cross, power, group_of, counts)
    assert found[0][0] == np.bincount(group_of, cross)[0]
    assert found[1][0] == np.bincount(group_of, power)[0]
