from dataclasses import replace

import pytest
import torch

from cryorefine.model.observe import ImageStatistics, make_group_band, observe
from cryorefine.optics.ctf import (
    Defocus,
    contrast_transfer,
    contrast_transfer_and_slopes,
    division_by_transfer,
)
from cryorefine.optics.group import OpticsGroup

GROUP = OpticsGroup(name="one", pixel_A=2.0, box_px=48)


def defocus(n: int, **values: float) -> Defocus:
    column = {"u_A": 12000.0, "v_A": 11000.0, "angle_rad": 0.3, "phase_shift_rad": 0.0,
              "bfactor_A2": 0.0, "scale": 1.0, **values}  # fmt: skip
    return Defocus(**{k: torch.full((n,), v, dtype=torch.float64) for k, v in column.items()})


def frequencies() -> torch.Tensor:
    return torch.randn(200, 2, generator=torch.Generator().manual_seed(1)).double() * 0.1


def test_phase_flipped_images_have_the_absolute_transfer():
    s = frequencies()
    plain = contrast_transfer(GROUP, defocus(3), s)
    flipped = contrast_transfer(replace(GROUP, correction="phase_flipped"), defocus(3), s)
    assert bool((plain < 0).any())
    torch.testing.assert_close(flipped, plain.abs())


def test_slopes_of_phase_flipped_images_are_those_of_the_absolute_transfer():
    group, s, h = replace(GROUP, correction="phase_flipped"), frequencies(), 0.01
    c, slopes = contrast_transfer_and_slopes(group, defocus(1), s)
    up = contrast_transfer(group, defocus(1, u_A=12000 + h, v_A=11000 + h), s)
    down = contrast_transfer(group, defocus(1, u_A=12000 - h, v_A=11000 - h), s)
    far = c[0] > 1e-3
    torch.testing.assert_close(
        slopes[0, far, 0], ((up - down) / (2 * h))[0, far], atol=1e-8, rtol=1e-3
    )


def test_without_envelope_the_b_factor_does_nothing():
    s = frequencies()
    damped = contrast_transfer(GROUP, defocus(1, bfactor_A2=100.0), s)
    bare = contrast_transfer(replace(GROUP, has_envelope=False), defocus(1, bfactor_A2=100.0), s)
    torch.testing.assert_close(bare, contrast_transfer(GROUP, defocus(1), s))
    assert float((bare - damped).abs().max()) > 0.1


def test_multiplied_images_are_brought_back_to_white_noise_but_near_the_zeros():
    group, s = replace(GROUP, correction="premultiplied"), frequencies()
    c = contrast_transfer(GROUP, defocus(1), s)[0]
    left = contrast_transfer(group, defocus(1), s)[0]
    division = division_by_transfer(group, defocus(1), s)[0]
    # An object o and noise n arrive as c (c o + n).
    torch.testing.assert_close(division * c * c, left)
    gain = division * c  # of the noise
    assert float(gain.max()) <= 1
    assert float(gain[c.abs() > 0.3].min()) > 0.97


@pytest.mark.parametrize("correction", ["none", "phase_flipped", "premultiplied"])
def test_corrected_images_are_seen_as_transfer_times_object(correction):
    group = replace(GROUP, correction=correction)
    view = make_group_band(group, volume_size_px=48, voxel_A=2.0, resolution_A=5.0)
    values = defocus(2)
    generator = torch.Generator().manual_seed(0)
    thing = torch.fft.rfft2(torch.randn(2, 48, 48, generator=generator))
    full = torch.stack(
        torch.meshgrid(torch.fft.fftfreq(48), torch.fft.rfftfreq(48), indexing="ij")[::-1], -1
    )
    c = contrast_transfer(GROUP, values, (full / 2.0).reshape(-1, 2)).reshape(2, 48, 25).float()
    applied = {"none": c, "phase_flipped": c.abs(), "premultiplied": c * c}[correction]
    images = torch.fft.fftshift(torch.fft.irfft2(thing * applied, s=(48, 48)), dim=(1, 2))
    statistics = ImageStatistics(torch.zeros(2), torch.ones(2))
    x, transfer = observe(images, statistics, view, values)
    expected = view.band.take(thing) * transfer
    torch.testing.assert_close(x, expected, atol=2e-2, rtol=1e-3)
