import pytest
import torch

from cryorefine.fourier.filter import filter_volume, interpolate_shells, low_pass
from cryorefine.masks.soft import sphere_mask
from cryorefine.reconstruct.solvent import quieten_solvent


def ssnr(size_px: int, *, last: int, value: float) -> torch.Tensor:
    curve = torch.zeros(size_px // 2 + 1, dtype=torch.float64)
    curve[: last + 1] = value
    return curve


@pytest.fixture(params=[32, 31])
def volume(request) -> torch.Tensor:
    noise = torch.randn((request.param,) * 3, generator=torch.Generator().manual_seed(0))
    return low_pass(noise, voxel_A=1.0, resolution_A=4.0)


def test_inside_the_mask_nothing_changes(volume):
    n = volume.shape[-1]
    mask = sphere_mask(n, n / 4)
    inside, outside = ssnr(n, last=8, value=3.0), ssnr(n, last=4, value=1.0)
    found = quieten_solvent(volume, mask, inside_ssnr=inside, outside_ssnr=outside)
    assert torch.equal(found[mask == 1], volume[mask == 1])


def test_outside_the_mask_only_what_the_maps_support_there_is_left(volume):
    n = volume.shape[-1]
    nothing = torch.zeros_like(volume)
    inside, outside = ssnr(n, last=n // 2, value=3.0), ssnr(n, last=4, value=1.0)
    found = quieten_solvent(volume, nothing, inside_ssnr=inside, outside_ssnr=outside)
    before, after = (torch.fft.fftn(v).abs() for v in (volume, found))
    axis = torch.fft.fftfreq(n) * n
    radius = (axis[:, None, None] ** 2 + axis[None, :, None] ** 2 + axis**2).sqrt()
    # A Wiener filter for a ratio of 1 halves, one for 3 leaves three quarters.
    low, high = radius <= 4, radius >= 6
    torch.testing.assert_close(after[low], before[low] * (0.5 / 0.75), rtol=1e-4, atol=1e-4)
    assert float(after[high].max()) < 1e-4 * float(before.max())


def test_nowhere_is_the_reference_raised_where_the_fsc_outside_happens_to_be_higher(volume):
    n = volume.shape[-1]
    inside, outside = ssnr(n, last=n // 2, value=0.5), ssnr(n, last=n // 2, value=5.0)
    found = quieten_solvent(
        volume, torch.zeros_like(volume), inside_ssnr=inside, outside_ssnr=outside
    )
    torch.testing.assert_close(found, volume, rtol=1e-4, atol=1e-4)


def test_a_half_map_comes_closer_to_the_truth():
    n = 48
    generator = torch.Generator().manual_seed(1)
    mask = sphere_mask(n, 8.0)
    truth = low_pass(torch.randn((n,) * 3, generator=generator), voxel_A=1.0, resolution_A=3.0)
    truth = truth * mask
    noisy = truth + 0.5 * truth.std() * torch.randn((n,) * 3, generator=generator)

    def measured(region: torch.Tensor) -> torch.Tensor:
        signal, noise = (torch.fft.fftn(v * region).abs().square() for v in (truth, noisy - truth))
        axis = (torch.fft.fftfreq(n) * n).abs()
        shell = (axis[:, None, None] ** 2 + axis[None, :, None] ** 2 + axis**2).sqrt().round()
        total = [
            torch.bincount(shell.long().flatten(), p.flatten().double()) for p in (signal, noise)
        ]
        return (total[0] / total[1])[: n // 2 + 1]

    inside, outside, overall = map(measured, (mask, 1 - mask, torch.ones_like(mask)))
    wiener = inside / (1 + inside)
    plain = filter_volume(noisy, lambda radius: interpolate_shells(wiener, radius))
    quiet = quieten_solvent(plain, mask, inside_ssnr=inside, outside_ssnr=outside)
    less = quieten_solvent(plain, mask, inside_ssnr=inside, outside_ssnr=overall)
    wrong, without, with_overall = (float((v - truth).norm()) for v in (quiet, plain, less))
    assert wrong < 0.8 * without
    assert wrong < 0.95 * with_overall
