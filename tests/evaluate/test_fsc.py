import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cryorefine.evaluate.fsc import (
    corrected_fsc,
    fsc,
    fsc_within,
    half_map_fsc,
    resolution,
)
from cryorefine.fourier.fft import volume_from_half, volume_to_half
from cryorefine.fourier.filter import low_pass
from cryorefine.fourier.radial import multiply_radially, radii, random_phases, wrapped_axis
from cryorefine.masks.soft import sphere_mask


def noise(size_px: int, seed: int) -> torch.Tensor:
    return torch.randn((size_px,) * 3, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("size_px", [31, 32])
def test_a_map_correlates_with_itself_and_against_its_negative(size_px):
    volume = noise(size_px, 0)
    torch.testing.assert_close(fsc(volume, volume), torch.ones(size_px // 2 + 1).double())
    torch.testing.assert_close(fsc(volume, -3 * volume), -torch.ones(size_px // 2 + 1).double())


@pytest.mark.parametrize("size_px", [31, 32])
def test_independent_noise_scatters_about_zero_as_one_over_the_root_of_the_count(size_px):
    curve = fsc(noise(size_px, 0), noise(size_px, 1))
    shells = torch.arange(5, size_px // 2)
    expected = 1 / (2 * math.pi * shells.double() ** 2).sqrt()  # half the points are independent
    z = curve[5 : size_px // 2] / expected
    assert float(z.abs().max()) < 4
    assert 0.4 < float(z.std()) < 1.6


def test_the_curve_follows_the_signal_to_noise_ratio():
    signal, n = 3 * noise(48, 0), 48
    curve = fsc(signal + noise(n, 1), signal + noise(n, 2))
    # SSNR 9 in every shell: FSC = 9 / (9 + 1).
    torch.testing.assert_close(curve[6:23], torch.full((17,), 0.9).double(), atol=0.03, rtol=0)


@pytest.mark.parametrize("turn", [(0, 1), (0, 2), (1, 2)])
def test_the_curve_does_not_change_when_both_maps_are_turned(turn):
    a, b = noise(32, 0), noise(32, 0) + noise(32, 1)
    # Turning about the voxel corner of an even box shifts both maps alike.
    turned = fsc(torch.rot90(a, 1, turn), torch.rot90(b, 1, turn))
    torch.testing.assert_close(turned, fsc(a, b), atol=1e-6, rtol=0)


def test_an_empty_map_has_no_correlation_and_no_nan():
    curve = fsc(torch.zeros(16, 16, 16), noise(16, 0))
    assert float(curve.abs().max()) == 0


def frequencies(n: int) -> torch.Tensor:
    return torch.arange(n, dtype=torch.float64) / 100.0


def test_the_crossing_is_interpolated_between_shells():
    curve = torch.tensor([1.0, 1.0, 0.9, 0.243, 0.043, 0.0, 0.0]).double()
    assert resolution(curve, frequencies(7), 0.143) == pytest.approx(100 / 3.5)


def test_a_single_unlucky_shell_does_not_end_the_curve():
    curve = torch.tensor([1.0, 1.0, 0.1, 0.9, 0.8, 0.6, 0.1, 0.0, 0.0]).double()
    assert 100 / 6 < resolution(curve, frequencies(9), 0.143) < 100 / 5


def test_a_single_lucky_shell_beyond_the_end_does_not_extend_it():
    curve = torch.tensor([1.0, 1.0, 0.9, 0.1, 0.0, 0.2, 0.0, 0.5, 0.0]).double()
    assert 100 / 3 < resolution(curve, frequencies(9), 0.143) < 100 / 2


def test_a_curve_that_never_falls_reaches_the_last_shell_and_one_without_signal_nothing():
    assert resolution(torch.ones(9).double(), frequencies(9)) == pytest.approx(100 / 8)
    assert resolution(torch.zeros(9).double(), frequencies(9)) == math.inf


@settings(deadline=None, max_examples=60)
@given(st.lists(st.floats(-1, 1), min_size=4, max_size=40), st.floats(0.05, 0.95))
def test_the_resolution_is_always_positive_and_never_finer_than_the_last_shell(values, threshold):
    curve = torch.tensor(values, dtype=torch.float64)
    value = resolution(curve, frequencies(len(values)), threshold)
    assert value >= 100 / (len(values) - 1) - 1e-9


@pytest.mark.parametrize("size_px", [31, 32])
def test_randomised_phases_keep_amplitudes_and_low_resolution(size_px):
    volume = noise(size_px, 0)
    half = random_phases(volume_to_half(volume), size_px, from_shell=6, seed=1)
    changed = volume_from_half(half, size_px)
    a, b = volume_to_half(volume), volume_to_half(changed)
    torch.testing.assert_close(b.abs(), a.abs(), rtol=1e-3, atol=1e-3 * float(a.abs().max()))
    curve = fsc(volume, changed)
    assert float(curve[:6].min()) > 0.999
    assert float(curve[8 : size_px // 2].abs().max()) < 0.35


def test_the_correction_is_zero_where_only_the_mask_correlates():
    masked = torch.tensor([1.0, 0.9, 0.7, 0.5, 0.5]).double()
    randomised = torch.tensor([0.0, 0.0, 0.5, 0.5, 0.2]).double()
    corrected = corrected_fsc(masked, randomised, 1)
    torch.testing.assert_close(corrected, torch.tensor([1.0, 0.9, 0.7, 0.0, 0.375]).double())


def test_a_tight_mask_on_noise_is_found_out():
    size_px, mask = 48, sphere_mask(48, 6, 2)
    common = low_pass(noise(size_px, 9), voxel_A=1.0, resolution_A=12.0) * 8
    a, b = common + noise(size_px, 0), common + noise(size_px, 1)
    curves = half_map_fsc(a, b, voxel_A=1.0, mask=mask, seed=3)
    beyond = slice(10, 24)
    # Tight masks smear low resolution into the shells beyond it: the correction takes it out.
    assert float(curves.corrected[beyond].mean().abs()) < 0.1


def test_without_mask_all_curves_are_the_plain_one():
    curves = half_map_fsc(noise(16, 0), noise(16, 1), voxel_A=2.0)
    assert torch.equal(curves.corrected, curves.unmasked)
    assert torch.equal(curves.masked, curves.unmasked)
    assert float(curves.frequency_per_A[-1]) == pytest.approx(8 / 32)


def test_the_result_is_reproducible_by_its_seed():
    mask = sphere_mask(24, 8)
    args = (noise(24, 0), noise(24, 0) + noise(24, 1))
    a, b = (half_map_fsc(*args, voxel_A=1.0, mask=mask, seed=5) for _ in range(2))
    assert torch.equal(a.corrected, b.corrected)


@pytest.mark.parametrize("size_px", [47, 48])
def test_noise_without_signal_in_fine_shells_does_not_spread_through_the_mask(size_px):
    voxel_A, mask = 2.0, sphere_mask(size_px, 10, 3)
    signal = low_pass(mask * noise(size_px, 0), voxel_A=voxel_A, resolution_A=10)
    halves = [signal + 0.01 * noise(size_px, i) for i in (1, 2)]
    fine = [volume - low_pass(volume, voxel_A=voxel_A, resolution_A=6)
            for volume in (noise(size_px, 3), noise(size_px, 4))]  # fmt: skip
    clean = half_map_fsc(*halves, voxel_A=voxel_A, mask=mask)
    loud = half_map_fsc(
        *(half + 300 * other for half, other in zip(halves, fine, strict=True)),
        voxel_A=voxel_A,
        mask=mask,
    )
    inside = int(size_px * voxel_A / 12)
    # All shells are as loud as their neighbours: the one beside the noise has a little of it.
    torch.testing.assert_close(
        loud.corrected[1:inside], clean.corrected[1:inside], atol=0.1, rtol=0
    )
    assert loud.resolution_A() == pytest.approx(clean.resolution_A(), rel=0.15)


@pytest.mark.parametrize("size_px", [31, 32])
def test_how_steep_the_spectra_of_both_maps_are_changes_no_curve(size_px):
    mask = sphere_mask(size_px, 8, 3)
    signal = 3 * low_pass(noise(size_px, 0), voxel_A=2, resolution_A=8)
    halves = [signal + noise(size_px, seed) for seed in (1, 2)]
    k = wrapped_axis(size_px)
    fall = torch.exp(-0.3 * radii(k).clamp(max=size_px // 2))
    steep = [
        volume_from_half(multiply_radially(volume_to_half(half), k, fall), size_px)
        for half in halves
    ]
    flat, fallen = (half_map_fsc(*pair, voxel_A=2, mask=mask) for pair in (halves, steep))
    for name in ("unmasked", "masked", "randomised", "corrected", "outside"):
        torch.testing.assert_close(getattr(flat, name), getattr(fallen, name), atol=0.05, rtol=0)


def test_strong_low_resolution_does_not_hide_what_fine_shells_hold():
    # Alike down to 6 voxels; the power falls by seven orders of magnitude down to Nyquist.
    n, k, mask = 48, wrapped_axis(48), sphere_mask(48, 12, 2)
    fall = torch.exp(-0.35 * radii(k).clamp(max=n // 2))
    signal = low_pass(noise(n, 0) * sphere_mask(n, 10, 2), voxel_A=1, resolution_A=8)
    halves = [
        volume_from_half(multiply_radially(volume_to_half(signal + 0.05 * e), k, fall), n)
        for e in (noise(n, 1), noise(n, 2))
    ]
    curves = half_map_fsc(*halves, voxel_A=1, mask=mask)
    assert float(curves.corrected[1:6].min()) > 0.9
    assert float(curves.corrected[9:].mean().abs()) < 0.1
    assert float(curves.randomised[9:].mean().abs()) < 0.1


def test_signal_that_the_mask_leaves_out_shows_in_the_curve_outside_it():
    n = 32
    mask = sphere_mask(n, 8, 4)
    inside = low_pass(noise(n, 0), voxel_A=1, resolution_A=4) * sphere_mask(n, 4, 4)
    outside = low_pass(noise(n, 1), voxel_A=1, resolution_A=4) * (1 - sphere_mask(n, 12, 2))
    noises = [0.02 * noise(n, seed) for seed in (2, 3)]
    alone = half_map_fsc(*(inside + e for e in noises), voxel_A=1, mask=mask)
    both = half_map_fsc(*(inside + outside + e for e in noises), voxel_A=1, mask=mask)
    strong = slice(2, n // 4 - 1)
    assert both.outside[strong].min() > 0.9
    assert alone.outside[strong].abs().mean() < 0.3


def test_without_a_mask_nothing_is_outside_it():
    curves = half_map_fsc(noise(16, 0), noise(16, 1), voxel_A=1.0)
    assert not curves.outside.any()


def test_half_maps_predict_the_correlation_with_the_truth_within_a_mask():
    # 2 h / (1 + h) is the square of the mean map's FSC with the truth where noises are independent.
    n, k, mask = 48, wrapped_axis(48), sphere_mask(48, 14, 4)
    fall = torch.exp(-0.15 * radii(k))
    truth = multiply_radially(volume_to_half(noise(n, 0) * sphere_mask(n, 12, 2)), k, fall)
    truth = volume_from_half(truth, n)
    spread = 4.0 * float(truth.std())
    first, second = (truth + spread * noise(n, seed) for seed in (1, 2))
    half = half_map_fsc(first, second, voxel_A=1, mask=mask).corrected[3:-2]
    found = fsc_within((first + second) / 2, truth, mask)[3:-2]
    predicted = (2 * half.clamp_min(0) / (1 + half)).sqrt()
    assert float(found.min()) < 0.5 < float(found.max())
    assert float((found - predicted).abs()[found > 0.4].max()) < 0.06
