import math

import pytest
import torch

from cryorefine.refine.own_noise_share import kept_noise

SSNR = torch.tensor([1e9, 3.0, 1.0, 0.0])


def test_a_reference_keeps_the_noise_within_its_mask_that_its_filter_lets_through():
    # The filter is ssnr / (1 + ssnr): all, three quarters, a half and nothing.
    kept = kept_noise(0.2, SSNR, None)
    assert kept.tolist() == pytest.approx([0.2, 0.15, 0.1, 0.0])


def test_outside_the_mask_noise_is_kept_as_the_curve_outside_says_up_to_the_sphere():
    outside = torch.tensor([1e9, 0.0, 1.0, 0.0])
    kept = kept_noise(0.2, SSNR, outside)
    rest = math.pi / 6 - 0.2
    assert kept.tolist() == pytest.approx([math.pi / 6, 0.15, 0.1 + rest / 2, 0.0])


def test_a_mask_larger_than_the_sphere_leaves_nothing_outside():
    full = torch.full((4,), 1e9)
    assert kept_noise(0.8, SSNR, full).tolist() == pytest.approx(
        kept_noise(0.8, SSNR, None).tolist()
    )
