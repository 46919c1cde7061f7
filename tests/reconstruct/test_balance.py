import pytest
import torch

from cryorefine.evaluate.fsc import fsc
from cryorefine.reconstruct.balance import DataPerShell, balancing_curve
from cryorefine.reconstruct.solve import solve
from tests.reconstruct.test_reconstruction import phantom_and_images, sums_of, view_of


def test_steep_contrast_transfer_leaves_the_first_shells_as_they_are():
    size_px = 48
    group, truth, images, rotations = phantom_and_images("c1", size_px, 800)
    view = view_of(size_px)
    transfer = (0.05 + (view.band.radius / 12).clamp(max=1) ** 2).expand(images.shape)
    data = DataPerShell(size_px // 2 + 2)
    data.add(view, transfer, torch.ones(len(view.band)), len(images))
    curves = {}
    for name, balance in (("level", balancing_curve(data.mean())), ("steep", None)):
        sums = sums_of(images * transfer, rotations, group, size_px, c=transfer, balance=balance)
        curves[name] = fsc(solve(sums), truth)[1:8]
    assert float(curves["level"].min()) > 0.995
    assert float((1 - curves["steep"]).max()) > 3 * float((1 - curves["level"]).max())


def test_the_curve_levels_low_shells_and_leaves_the_rest():
    data = torch.tensor([1e-9, 0.01, 0.1, 1.0, 1.0, 2.0, 1.0, 0.0], dtype=torch.float64)
    curve = balancing_curve(data)
    torch.testing.assert_close(curve[1:4] * data[1:4], torch.ones(3, dtype=torch.float64))
    assert curve[3:].tolist() == [1.0] * 5
    assert float(curve[0]) == pytest.approx(1e4)


def test_no_data_at_all_gives_no_weight():
    assert balancing_curve(torch.zeros(5).double()).tolist() == [1.0] * 5


def test_groups_count_by_their_particles():
    view = view_of(16)
    ones, data = torch.ones(3, len(view.band)), DataPerShell(10)
    data.add(view, ones, torch.ones(len(view.band)), 30)
    data.add(view, 2 * ones[:1], torch.ones(len(view.band)), 10)
    torch.testing.assert_close(data.mean()[1:8], torch.full((7,), 1.75).double())
