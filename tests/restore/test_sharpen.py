import pytest
import torch

from cryorefine.evaluate.fsc import FscCurves, fsc
from cryorefine.fourier.filter import filter_volume
from cryorefine.masks.soft import sphere_mask
from cryorefine.restore.sharpen import fsc_weight, guinier_bfactor, sharpen, weight_map


def curves_ending_at(shell: int, size_px: int, voxel_A: float) -> FscCurves:
    n = size_px // 2 + 1
    frequency = torch.arange(n, dtype=torch.float64) / (size_px * voxel_A)
    values = (torch.arange(n) < shell).double()
    return FscCurves(
        frequency, values, values, torch.zeros(n).double(), values, torch.zeros(n).double(), 10.0
    )


def noise(size_px: int) -> torch.Tensor:
    return torch.randn((size_px,) * 3, generator=torch.Generator().manual_seed(0))


def faded_by(volume: torch.Tensor, *, voxel_A: float, bfactor_A2: float) -> torch.Tensor:
    """Multiply by ``exp(-B s² / 4)``, s in 1/Å."""
    box_A = volume.shape[-1] * voxel_A
    return filter_volume(volume, lambda k: (-bfactor_A2 / 4 * (k / box_A) ** 2).exp())


@pytest.mark.parametrize("bfactor_A2", [50.0, 150.0])
def test_the_bfactor_of_a_faded_map_is_found(bfactor_A2):
    faded = faded_by(noise(64), voxel_A=1.2, bfactor_A2=bfactor_A2)
    curves = curves_ending_at(30, 64, 1.2)
    fit = guinier_bfactor(faded, sphere_mask(64, 30), curves)
    assert fit.bfactor_A2 == pytest.approx(bfactor_A2, abs=8)


def test_sharpening_undoes_the_fading():
    original = noise(48)
    faded = faded_by(original, voxel_A=1.5, bfactor_A2=100)
    curves = curves_ending_at(25, 48, 1.5)
    back = sharpen(faded, curves, voxel_A=1.5, bfactor_A2=100)
    weighted = weight_map(original, curves)
    torch.testing.assert_close(back, weighted, atol=1e-3, rtol=1e-3)


def test_too_short_a_range_gives_no_bfactor():
    fit = guinier_bfactor(noise(48), sphere_mask(48, 20), curves_ending_at(6, 48, 2.0))
    assert fit.bfactor_A2 == 0


def test_a_fit_that_ends_early_is_trusted_less():
    faded = faded_by(noise(96), voxel_A=1.5, bfactor_A2=300)
    mask = sphere_mask(96, 40)
    far = guinier_bfactor(faded, mask, curves_ending_at(28, 96, 1.5)).bfactor_A2  # 5.1 Å
    near = guinier_bfactor(faded, mask, curves_ending_at(19, 96, 1.5)).bfactor_A2  # 7.6 Å
    assert far == pytest.approx(300, rel=0.15)
    assert 0 < near < 0.7 * far


def test_the_weight_is_one_for_perfect_shells_and_zero_well_beyond_the_resolution():
    curves = curves_ending_at(10, 48, 1.5)
    weight = fsc_weight(curves)
    torch.testing.assert_close(weight[:10], torch.ones(10).double())
    assert float(weight[14:].max()) == 0


def test_weighting_keeps_the_mean_of_the_map():
    volume = noise(32) + 2.0
    weighted = weight_map(volume, curves_ending_at(8, 32, 2.0))
    assert float(weighted.mean()) == pytest.approx(float(volume.mean()), abs=1e-4)
    assert float(fsc(weighted, volume)[1:7].min()) > 0.999
