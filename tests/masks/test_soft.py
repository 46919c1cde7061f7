import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cryorefine.compiled import kernel_threads, use_kernel_threads
from cryorefine.masks.soft import disc_mask, soft_edge, solvent_mask, sphere_mask

EPS32 = float(np.finfo(np.float32).eps)


def _radius(size_px: int, ndim: int, centre: tuple[float, ...] | None = None) -> torch.Tensor:
    """Return distances from a point given as x, y, z relative to the origin."""
    axis = torch.arange(size_px, dtype=torch.float64) - size_px // 2
    grids = torch.meshgrid(*[axis] * ndim, indexing="ij")
    offsets = (0.0,) * ndim if centre is None else tuple(reversed(centre))
    return sum((g - o) ** 2 for g, o in zip(grids, offsets, strict=True)).sqrt()


@pytest.mark.parametrize("size_px", [1, 16, 17])
@pytest.mark.parametrize(("make", "ndim"), [(sphere_mask, 3), (disc_mask, 2)])
def test_a_mask_is_one_up_to_its_radius_and_falls_as_half_a_cosine(size_px, make, ndim):
    mask, radius = make(size_px, 5.0, 2.5), _radius(size_px, ndim)
    assert mask.shape == (size_px,) * ndim
    t = ((radius - 5.0) / 2.5).clamp(0, 1)
    np.testing.assert_allclose(mask, 0.5 + 0.5 * (math.pi * t).cos(), atol=8 * EPS32)
    assert bool((mask[radius <= 5.0] == 1).all())
    assert bool((mask[radius >= 7.5] <= EPS32).all())


@pytest.mark.parametrize("size_px", [16, 17])
def test_the_sphere_stands_at_the_origin_of_odd_and_even_boxes(size_px):
    mask = sphere_mask(size_px, 0.0, 0.0)
    assert torch.nonzero(mask > 0.5).tolist() == [[size_px // 2] * 3]
    assert torch.nonzero(disc_mask(size_px, 0.0, 0.0) > 0.5).tolist() == [[size_px // 2] * 2]


def test_an_edge_of_no_width_makes_a_binary_mask():
    mask = sphere_mask(16, 5.0, 0.0)
    assert torch.equal(mask > 0.5, _radius(16, 3) <= 5.0)
    assert float((mask * (1 - mask)).max()) < EPS32


@given(st.floats(0, 12), st.floats(0, 8))
def test_masks_lie_between_zero_and_one_and_never_rise_outwards(radius_px, edge_px):
    mask = disc_mask(21, radius_px, edge_px)
    assert 0 <= float(mask.min()) <= float(mask.max()) <= 1
    outwards = mask.flatten()[_radius(21, 2).flatten().argsort()]
    assert float(outwards.diff().max()) <= EPS32


@pytest.mark.parametrize("size_px", [20, 21])
@pytest.mark.parametrize(("grow_px", "edge_px"), [(0.0, 4.0), (2.0, 5.0), (3.0, 0.0)])
def test_a_soft_edge_depends_on_the_distance_to_the_mask_only(size_px, grow_px, edge_px):
    binary = torch.zeros(size_px, size_px, size_px)
    binary[9, 10, 11] = binary[12, 10, 9] = 1
    mask = soft_edge(binary, grow_px=grow_px, edge_px=edge_px)
    origin = size_px // 2
    points = [(11 - origin, 10 - origin, 9 - origin), (9 - origin, 10 - origin, 12 - origin)]
    distance = torch.minimum(*(_radius(size_px, 3, p) for p in points))
    t = ((distance - grow_px) / max(edge_px, 1e-6)).clamp(0, 1)
    np.testing.assert_allclose(mask, 0.5 + 0.5 * (math.pi * t).cos(), atol=8 * EPS32)
    assert bool((mask[binary > 0.5] == 1).all())


def test_an_empty_mask_stays_empty_and_a_full_one_full():
    empty, full = torch.zeros(8, 8, 8), torch.ones(8, 8, 8)
    assert torch.equal(soft_edge(empty, grow_px=3.0, edge_px=2.0), empty)
    assert torch.equal(soft_edge(full, grow_px=3.0, edge_px=2.0), full)


def _blob_map(size_px: int, *, noise: float = 0.0, seed: int = 0) -> tuple[torch.Tensor, ...]:
    """Return a map of two touching balls off centre, and the distance to their surface."""
    first = _radius(size_px, 3, (4.0, -2.0, 1.0)) - 8.0
    second = _radius(size_px, 3, (-6.0, 3.0, 0.0)) - 6.0
    distance = torch.minimum(first, second)
    volume = torch.sigmoid(-2 * distance).float()
    generator = torch.Generator().manual_seed(seed)
    return volume + noise * torch.randn(volume.shape, generator=generator), distance


@pytest.mark.parametrize("size_px", [48, 49])
@pytest.mark.parametrize("noise", [0.0, 0.5])
def test_the_solvent_mask_covers_the_particle_and_leaves_the_solvent_out(size_px, noise):
    volume, distance = _blob_map(size_px, noise=noise)
    mask = solvent_mask(
        volume, voxel_A=2.0, radius_px=22.0, resolution_A=12.0, grow_px=3.0, edge_px=5.0
    )
    assert 0 <= float(mask.min()) <= float(mask.max()) <= 1
    # The low-passed surface lies within half a resolution (3 voxels) of the true one.
    assert bool((mask[distance <= 0] == 1).all())
    assert float(mask[distance >= 3.0 + 3.0 + 5.0].max()) == 0


def test_the_solvent_mask_does_not_depend_on_the_grey_scale():
    volume, _ = _blob_map(40, noise=0.2)
    options = {"voxel_A": 2.0, "radius_px": 18.0}
    mask = solvent_mask(volume, **options)
    for scale, offset in ((1e-3, 0.0), (50.0, -7.0)):
        again = solvent_mask(scale * volume + offset, **options)
        # A voxel at the threshold may change sides by rounding, no more.
        assert int((again != mask).sum()) <= 2e-3 * mask.numel()


def test_specks_far_from_the_particle_are_dropped():
    volume, distance = _blob_map(48)
    volume[4:7, 24, 24] = 3.0  # 20 voxels off, far less than a hundredth of the particle
    mask = solvent_mask(volume, voxel_A=2.0, radius_px=22.0, resolution_A=6.0)
    assert float(mask[3:8, 24, 24].max()) == 0
    assert bool((mask[distance <= 0] == 1).all())


def test_density_outside_the_particles_sphere_is_never_in_the_mask():
    volume, _ = _blob_map(48)
    volume[:, :, 44:] = 5.0
    mask = solvent_mask(volume, voxel_A=2.0, radius_px=18.0, grow_px=2.0, edge_px=3.0)
    radius = _radius(48, 3)
    # The mask is sampled at a third of the 15 Å that it is found at: known to half of that.
    assert float(mask[radius > 18.0 + 2.0 + 3.0 + 1.25].max()) == 0
    assert float(mask.max()) == 1


@pytest.mark.parametrize("size_px", [16, 21])
@pytest.mark.parametrize("value", [0.0, 0.1, -3.0, 1e4 / 3])
def test_a_constant_map_has_an_empty_mask(size_px, value):
    volume = torch.full((size_px,) * 3, value)
    mask = solvent_mask(volume, voxel_A=2.0, radius_px=size_px / 2)
    assert torch.equal(mask, torch.zeros_like(volume))


@pytest.mark.parametrize("size_px", [70, 101])
def test_masks_have_the_same_bits_with_any_number_of_threads(size_px):
    volume, _ = _blob_map(size_px, noise=0.2)
    before, found = kernel_threads(), []
    try:
        for threads in (1, 2, 5):
            use_kernel_threads(threads)
            found.append(
                solvent_mask(volume, voxel_A=2.0, radius_px=size_px / 2, resolution_A=24.0)
            )
    finally:
        use_kernel_threads(before)
    assert 0 < float(found[0].mean()) < 1
    assert all(torch.equal(mask, found[0]) for mask in found)
