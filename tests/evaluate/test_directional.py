import math

import pytest
import torch

from cryorefine.evaluate.directional import directional_resolution
from cryorefine.evaluate.fsc import half_map_fsc
from cryorefine.geometry.symmetry import parse_symmetry
from cryorefine.masks.soft import sphere_mask

SIZE, VOXEL_A = 48, 2.0


def halves(is_lost=None):
    """Two noisy copies of a map without structure of its own; noise alone where signal is lost."""
    generator = torch.Generator().manual_seed(0)
    mask = sphere_mask(SIZE, 20)
    truth = torch.randn(SIZE, SIZE, SIZE, generator=generator) * mask
    k = torch.fft.fftfreq(SIZE, 1 / SIZE)
    z, y, x = torch.meshgrid(k, k, k, indexing="ij")
    radius = (x**2 + y**2 + z**2).sqrt().clamp_min(1e-6)
    gain = torch.exp(-((radius / 14) ** 2))
    if is_lost is not None:
        gain = torch.where(is_lost(x, y, z, radius), 0.0, gain)
    signal = torch.fft.ifftn(torch.fft.fftn(truth) * gain).real

    def noisy():
        noise = torch.randn(SIZE, SIZE, SIZE, generator=generator)
        return signal + 3 * float(signal.std()) * noise

    return noisy(), noisy(), mask


def measured(half1, half2, mask, symmetry="c1"):
    curves = half_map_fsc(half1, half2, voxel_A=VOXEL_A, mask=mask)
    found = directional_resolution(
        half1, half2, mask, curves, parse_symmetry(symmetry), voxel_A=VOXEL_A, threshold=0.143
    )
    return curves.resolution_A(), found


@pytest.mark.parametrize("symmetry", ["c1", "c4", "d2", "o"])
def test_maps_that_are_alike_in_all_directions_have_no_bad_one(symmetry):
    mean_A, found = measured(*halves(), symmetry)
    assert mean_A < found.worst_A < 1.2 * mean_A


@pytest.mark.parametrize(
    ("axis", "symmetry", "tilt_deg"),
    [((0, 0, 1), "c1", 0), ((0, 0, 1), "d7", 0), ((1, 0, 0), "c1", 90), ((0, -1, -1), "c1", 45)],
)
def test_the_direction_without_signal_is_found(axis, symmetry, tilt_deg):
    q = torch.nn.functional.normalize(torch.tensor(axis).float(), dim=0)

    def is_lost(x, y, z, radius):
        towards = (x * q[0] + y * q[1] + z * q[2]).abs() / radius
        return (towards > math.cos(math.radians(38))) & (radius > 5)

    mean_A, found = measured(*halves(is_lost), symmetry)
    assert mean_A < 8
    assert found.worst_A > 1.5 * mean_A
    assert found.tilt_deg == pytest.approx(tilt_deg, abs=15)
