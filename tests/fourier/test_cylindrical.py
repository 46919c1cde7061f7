import math

import numpy as np
import pytest
import torch

from cryorefine.fourier.cylindrical import (
    angular_orders,
    cylindrical_grid,
    sections_from_orders,
)


def blob(size_px, at, sigma_px=2.0):
    axis = torch.arange(size_px, dtype=torch.float64) - size_px // 2
    z, y, x = torch.meshgrid(axis, axis, axis, indexing="ij")
    square = (x - at[0]) ** 2 + (y - at[1]) ** 2 + (z - at[2]) ** 2
    return torch.exp(-square / (2 * sigma_px**2)).float()


@pytest.mark.parametrize("size_px", [32, 33])
def test_orders_are_the_angular_series_of_each_section(size_px):
    volume = blob(size_px, (5.0, 3.0, 1.0))
    grid = cylindrical_grid(size_px, 14.0)
    orders = angular_orders(volume, grid)
    # A Gaussian's series on a circle, by many angles.
    angle = np.arange(512) * 2 * math.pi / 512
    x, y = grid.radius_px[:, None] * np.cos(angle), grid.radius_px[:, None] * np.sin(angle)
    values = np.exp(-((x - 5) ** 2 + (y - 3) ** 2) / 8)
    expected = np.fft.fft(values) / 512
    section = size_px // 2 + 1
    for order in (0, 1, 4):
        np.testing.assert_allclose(orders[order, section], expected[:, order], atol=2e-5)


@pytest.mark.parametrize("size_px", [32, 33])
def test_sections_come_back_from_their_orders(size_px):
    volume = blob(size_px, (5.0, -3.0, 1.0)) - 0.5 * blob(size_px, (-4.0, 2.0, -6.0))
    grid = cylindrical_grid(size_px, size_px / 2)
    found = sections_from_orders(angular_orders(volume, grid), grid)
    torch.testing.assert_close(found, volume, rtol=0, atol=2e-4)


def test_weights_are_those_of_an_integral_over_the_disc():
    grid = cylindrical_grid(32, 10.0)
    assert math.isclose(2 * math.pi * grid.weight.sum(), math.pi * 100, rel_tol=1e-9)


@pytest.mark.parametrize("radius_px", [0.0, -3.0, 17.0])
def test_a_cylinder_that_is_not_in_the_box_is_refused(radius_px):
    with pytest.raises(ValueError, match="in a box of 32 px"):
        cylindrical_grid(32, radius_px)
