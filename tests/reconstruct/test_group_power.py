from itertools import pairwise

import numpy as np
import pytest
import torch

from cryorefine.fourier.band import make_band
from cryorefine.reconstruct.group_power import band_edges, power_in_bands, power_sums


@pytest.mark.parametrize("n_shells", [1, 3, 4, 5, 33, 200])
def test_bands_hold_every_shell_once_and_do_not_move_with_the_last_one(n_shells):
    edges = band_edges(n_shells)
    assert edges[0] == 0
    assert edges[-1] == n_shells
    assert all(first < last for first, last in pairwise(edges))
    assert edges[:-1] == band_edges(500)[: len(edges) - 1]


def test_the_power_of_a_band_is_the_mean_over_its_coefficients():
    band = make_band(32, 12)
    power = torch.rand(3, len(band.shell), dtype=torch.float64)
    count = torch.bincount(band.shell)
    of_shells = torch.zeros(3, len(count), dtype=torch.float64)
    of_shells = of_shells.index_add(1, band.shell, power) / count
    found = power_in_bands(of_shells, count)
    for b, (first, last) in enumerate(pairwise(band_edges(len(count)))):
        inside = (band.shell >= first) & (band.shell < last)
        torch.testing.assert_close(found[:, b], power[:, inside].mean(1))


def test_sums_of_parts_are_those_of_all_images():
    band = make_band(32, 12)
    n_shells = band.n_shells
    power = torch.rand(7, n_shells, dtype=torch.float64)
    group_of = np.array([2, 0, 2, 2, 0, 0, 2])
    whole, first, second = (power_sums([n_shells, n_shells + 4, n_shells]) for _ in range(3))
    whole.add_images(group_of, power, band)
    first.add_images(group_of[:3], power[:3], band)
    second.add_images(group_of[3:], power[3:], band)
    both = first.merge(second)
    torch.testing.assert_close(both.power, whole.power)
    torch.testing.assert_close(both.squares, whole.squares)
    torch.testing.assert_close(whole.power[2, :n_shells], power[group_of == 2].sum(0))
    squares = power_in_bands(power, torch.bincount(band.shell)).square()
    torch.testing.assert_close(whole.squares[0, : squares.shape[1]], squares[group_of == 0].sum(0))
    assert not whole.power[1].any()
