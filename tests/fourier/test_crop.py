import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cryorefine.fourier.crop import fit_box, resample_volume, resize_volume

PARITIES = [(32, 20), (32, 21), (31, 20), (31, 21), (20, 32), (20, 31), (21, 32), (21, 31)]
EPS = float(np.finfo(np.float64).eps)


def _axis(n: int, extent: float) -> torch.Tensor:
    """Return positions along a box of the given extent, origin at n // 2."""
    return (torch.arange(n, dtype=torch.float64) - n // 2) * (extent / n)


def _waves(n: int, ndim: int, largest: int, seed: int = 0) -> torch.Tensor:
    """Return a real trigonometric polynomial with frequencies up to ``largest``, sampled."""
    rng = np.random.default_rng(seed)
    axis = _axis(n, 1.0)
    grids = torch.meshgrid(*[axis] * ndim, indexing="ij")
    total = torch.full_like(grids[0], 0.37)
    for _ in range(12):
        k = rng.integers(-largest, largest + 1, ndim)
        angle = sum(2 * math.pi * int(ki) * g for ki, g in zip(k, grids, strict=True))
        total = total + rng.normal() * torch.cos(angle + rng.uniform(0, 6))
    return total


def _blob(
    n: int, voxel_A: float, *, centre_A: tuple[float, float, float], width_A: float
) -> torch.Tensor:
    """Return a Gaussian about (x, y, z), sampled in double precision."""
    x, y, z = (torch.exp(-((_axis(n, n * voxel_A) - c) ** 2) / (2 * width_A**2)) for c in centre_A)
    return z[:, None, None] * y[None, :, None] * x[None, None, :]


@pytest.mark.parametrize(("old", "new"), PARITIES)
def test_a_volume_without_fine_detail_is_the_same_function_at_the_new_sampling(old, new):
    largest = (min(old, new) - 1) // 2
    found = resize_volume(_waves(old, 3, largest), new)
    np.testing.assert_allclose(found, _waves(new, 3, largest), atol=200 * EPS)


@pytest.mark.parametrize(("old", "new"), PARITIES)
def test_resizing_keeps_the_mean_grey_level_of_anything(old, new):
    volume = torch.from_numpy(np.random.default_rng(0).normal(3.0, 1.0, (old, old, old)))
    np.testing.assert_allclose(resize_volume(volume, new).mean(), volume.mean(), rtol=100 * EPS)


@pytest.mark.parametrize("old", [20, 21])
@pytest.mark.parametrize("new", [31, 32])
def test_going_to_finer_sampling_and_back_changes_nothing_but_nyquist_terms(old, new):
    volume = torch.from_numpy(np.random.default_rng(1).normal(size=(old, old, old)))
    back = resize_volume(resize_volume(volume, new), old)
    spectrum = torch.fft.fftn(volume)
    if old % 2 == 0:
        middle = old // 2
        spectrum[middle], spectrum[:, middle], spectrum[:, :, middle] = 0, 0, 0
    np.testing.assert_allclose(back, torch.fft.ifftn(spectrum).real, atol=200 * EPS)


@pytest.mark.parametrize("n", [1, 7, 8])
def test_the_same_size_returns_the_very_values(n):
    volume = torch.randn(n, n, n, generator=torch.Generator().manual_seed(0))
    assert torch.equal(resize_volume(volume, n), volume)
    assert torch.equal(fit_box(volume, n), volume)
    assert torch.equal(resample_volume(volume, voxel_A=1.3, new_voxel_A=1.3, new_size_px=n), volume)


@pytest.mark.parametrize("new", [1, 2, 3])
def test_a_box_of_a_few_voxels_still_holds_the_mean(new):
    volume = torch.full((8, 8, 8), 2.5, dtype=torch.float64)
    np.testing.assert_allclose(resize_volume(volume, new), 2.5, atol=100 * EPS)


def test_resizing_takes_empty_batches():
    assert resize_volume(torch.zeros(0, 8, 8, 8), 6).shape == (0, 6, 6, 6)


@given(st.integers(1, 12), st.integers(1, 12))
def test_fitting_a_box_keeps_the_origin_and_what_lies_round_it(old, new):
    volume = torch.arange(1.0, old**3 + 1).reshape(old, old, old)
    fitted = fit_box(volume, new)
    assert fitted.shape == (new, new, new)
    n = min(old, new)
    for i in range(-(n // 2), (n + 1) // 2):
        assert fitted[new // 2 + i, new // 2, new // 2] == volume[old // 2 + i, old // 2, old // 2]
        assert fitted[new // 2, new // 2, new // 2 + i] == volume[old // 2, old // 2, old // 2 + i]
    assert int((fitted != 0).sum()) == n**3


# (old size, old voxel, new size, new voxel): odd and even, finer and coarser, larger and smaller
# boxes, and ratios so near to 1 that no whole number of voxels fits both lengths.
SAMPLINGS = [
    (48, 1.5, 64, 1.1),
    (49, 1.5, 64, 1.1),
    (48, 1.5, 41, 1.9),
    (64, 1.0, 33, 2.0),
    (48, 1.006, 48, 1.0),
    (49, 1.34, 48, 1.35),
    (48, 1.0, 48, 1.0 + 2e-5),
]


@pytest.mark.parametrize(("size_px", "voxel_A", "new_size_px", "new_voxel_A"), SAMPLINGS)
def test_a_blob_keeps_place_width_and_height_at_any_other_voxel_size(
    size_px, voxel_A, new_size_px, new_voxel_A
):
    blob = {"centre_A": (5.0, -7.0, 3.0), "width_A": 3.5}
    old, wanted = _blob(size_px, voxel_A, **blob), _blob(new_size_px, new_voxel_A, **blob)
    found = resample_volume(old, voxel_A=voxel_A, new_voxel_A=new_voxel_A, new_size_px=new_size_px)
    # Beyond the coarsest Nyquist frequency, 0.25/Å, the blob has exp(-2π² 3.5² 0.25²) = 3e-7 of
    # its transform; at the faces of the smallest box, 17 Å or more off, exp(-5) to none of itself,
    # but those lie outside the new box or are what is asked for.
    edge = 0.5 * min(size_px * voxel_A, new_size_px * new_voxel_A) - 7.0
    assert edge > 4.7 * 3.5
    np.testing.assert_allclose(found, wanted, atol=2e-5)


def test_single_precision_volumes_stay_single():
    blob = {"centre_A": (0.0, 0.0, 0.0), "width_A": 4.0}
    found = resample_volume(
        _blob(32, 2.0, **blob).float(), voxel_A=2.0, new_voxel_A=1.7, new_size_px=38
    )
    assert found.dtype == torch.float32
    assert found.is_contiguous()
    # A sum of 32 products along each of three axes, in eps of single precision.
    np.testing.assert_allclose(
        found, _blob(38, 1.7, **blob), atol=3 * math.sqrt(32) * np.finfo(np.float32).eps
    )


@pytest.mark.parametrize(("old", "new"), PARITIES)
def test_resampling_over_the_same_extent_is_resizing_away_from_the_faces(old, new):
    volume = torch.from_numpy(np.random.default_rng(2).normal(size=(old, old, old)))
    found = resample_volume(volume, voxel_A=1.3, new_voxel_A=1.3 * old / new, new_size_px=new)
    # An odd box reaches half a voxel less far on one side than an even one of the same extent.
    inner = (slice(1, -1),) * 3
    np.testing.assert_allclose(found[inner], resize_volume(volume, new)[inner], atol=1e-12)


@pytest.mark.parametrize(("size_px", "count"), [(20, 25), (21, 27)])
def test_beyond_the_old_box_there_is_zero(size_px, count):
    volume = torch.ones(size_px, size_px, size_px, dtype=torch.float64)
    found = resample_volume(volume, voxel_A=1.0, new_voxel_A=0.8, new_size_px=40)
    position = (torch.arange(40, dtype=torch.float64) - 20) * 0.8
    # Voxels reach half a voxel beyond their centres.
    inside = (position >= -(size_px // 2) - 0.5) & (position <= (size_px - 1) // 2 + 0.5)
    assert int(inside.sum()) == count
    box = inside[:, None, None] & inside[None, :, None] & inside[None, None, :]
    np.testing.assert_allclose(found, box.double(), atol=1e-12)


@pytest.mark.parametrize(
    ("size_px", "new_size_px", "ratio"), [(16, 21, 0.7), (17, 12, 1.45), (9, 9, 1.03), (1, 4, 0.5)]
)
def test_resampling_is_separable_linear_and_keeps_constants(size_px, new_size_px, ratio):
    rng = np.random.default_rng(0)
    a, b = (torch.from_numpy(rng.normal(size=(size_px,) * 3)) for _ in range(2))

    def resampled(volume: torch.Tensor) -> torch.Tensor:
        return resample_volume(volume, voxel_A=1.0, new_voxel_A=ratio, new_size_px=new_size_px)

    np.testing.assert_allclose(resampled(2 * a - b), 2 * resampled(a) - resampled(b), atol=1e-10)
    np.testing.assert_allclose(
        resampled(a.permute(2, 0, 1)), resampled(a).permute(2, 0, 1), atol=1e-10
    )
    inside = resampled(torch.ones_like(a))
    assert bool(((inside - 1).abs().minimum(inside.abs()) < 1e-10).all())
    assert abs(float(inside[(new_size_px // 2,) * 3]) - 1) < 1e-10
