import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cryorefine.masks.cylinder import cylinder_mask

EPS32 = float(np.finfo(np.float32).eps)


def _axis_distance(size_px: int) -> torch.Tensor:
    """Return how far each voxel is from the z axis."""
    axis = torch.arange(size_px, dtype=torch.float64) - size_px // 2
    _, y, x = torch.meshgrid(axis, axis, axis, indexing="ij")
    return (y**2 + x**2).sqrt()


@pytest.mark.parametrize("size_px", [1, 16, 17])
def test_a_cylinder_is_one_up_to_its_radius_and_falls_as_half_a_cosine(size_px):
    mask, distance = cylinder_mask(size_px, 5.0, 2.5), _axis_distance(size_px)
    assert mask.shape == (size_px,) * 3
    assert mask.dtype == torch.float32
    t = ((distance - 5.0) / 2.5).clamp(0, 1)
    np.testing.assert_allclose(mask, 0.5 + 0.5 * (math.pi * t).cos(), atol=8 * EPS32)
    assert bool((mask[distance <= 5.0] == 1).all())
    assert bool((mask[distance >= 7.5] <= EPS32).all())


@pytest.mark.parametrize("size_px", [16, 17])
def test_the_thinnest_cylinder_is_the_z_axis_of_odd_and_even_boxes(size_px):
    inside = cylinder_mask(size_px, 0.0, 0.0) > 0.5
    origin = size_px // 2
    assert torch.nonzero(inside).tolist() == [[z, origin, origin] for z in range(size_px)]


@given(st.floats(0, 12), st.floats(0, 8), st.integers(1, 14))
def test_a_cylinder_is_the_same_at_all_heights_and_lies_between_zero_and_one(
    radius_px, edge_px, size_px
):
    mask = cylinder_mask(size_px, radius_px, edge_px)
    assert torch.equal(mask, mask[:1].expand_as(mask))
    assert 0 <= float(mask.min()) <= float(mask.max()) == 1


def test_a_layer_of_a_cylinder_can_be_changed_without_the_others():
    mask = cylinder_mask(8, 3.0)
    mask[0] = 7
    assert float(mask[1:].max()) == 1
