import pytest
import torch

from cryorefine.expectation.optics_refinement import optics_prior, without_common_part
from cryorefine.settings import make_settings


def settings(**values):
    return make_settings({"particles": "p.star", "reference": ["m.mrc"], **values})


def prior_of(values, *, is_last=False, has_defocus=True):
    return optics_prior(values, is_last=is_last, has_defocus=has_defocus)


def test_nothing_is_refined_unless_it_is_asked_for():
    assert prior_of(settings(), is_last=True) is None
    assert prior_of(settings(automatic_schedule="fixed"), is_last=True) is None


def test_the_schedule_of_highres_refines_scale_grey_and_defocus_in_its_last_iteration():
    as_highres = settings(automatic_schedule="highres")
    assert as_highres.max_iterations == 5
    assert as_highres.largest_magnification == 1.02
    assert prior_of(as_highres) is None
    assert prior_of(as_highres, is_last=True).active().tolist() == [0, 1, 2, 5, 6, 7]
    without = prior_of(as_highres, is_last=True, has_defocus=False)
    assert without.active().tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("option", "numbers"),
    [
        ("refine_grey", [0, 1]),
        ("refine_scale", [2]),
        ("refine_magnification", [2, 3, 4]),
        ("refine_defocus", [5, 6, 7]),
    ],
)
def test_an_option_refines_its_own_values_and_no_others(option, numbers):
    assert prior_of(settings(**{option: True})).active().tolist() == numbers


def test_limits_in_the_users_units_are_three_standard_deviations():
    prior = prior_of(
        settings(
            refine_grey=True, refine_defocus=True, max_grey_scale_change_percent=60,
            max_grey_offset=1.5, max_magnification_change_percent=3,
            max_defocus_change_angstrom=900,
        )
    )  # fmt: skip
    expected = [0.2, 0.5, 0.01, 0.01, 0.01, 300.0, 300.0, 300.0]
    assert prior.sigma().tolist() == pytest.approx(expected)


def test_what_all_particles_share_goes_to_the_map_and_ratios_stay():
    generator = torch.Generator().manual_seed(0)
    values = 0.1 * torch.randn(50, 8, generator=generator, dtype=torch.float64) + 0.05
    left = without_common_part(values)
    assert float((1 + left[:, 0]).mean()) == pytest.approx(1.0)
    assert float(left[:, 2].mean()) == pytest.approx(0.0, abs=1e-12)
    ratio = (1 + left[:, 0]) / (1 + values[:, 0])
    torch.testing.assert_close(ratio, ratio[0].expand_as(ratio))
    torch.testing.assert_close(left[:, 2].diff(), values[:, 2].diff())
    # Offsets, stretches and defocus are no property of the map.
    others = [1, 3, 4, 5, 6, 7]
    assert torch.equal(left[:, others], values[:, others])


def test_the_values_given_are_not_changed():
    values = torch.full((3, 8), 0.1, dtype=torch.float64)
    before = values.clone()
    without_common_part(values)
    assert torch.equal(values, before)
