"""What of a filament's map goes around its axis, and is no cylinder."""

import pytest
import torch

from cryorefine.fourier.filter import low_pass
from cryorefine.geometry.helix import Helix
from cryorefine.helices.features import FEATURELESS, share_around_axis
from cryorefine.masks.cylinder import cylinder_mask
from tests.builders import helical_map


@pytest.mark.parametrize("size_px", [47, 48])
def test_a_cylinder_is_featureless_and_a_helix_is_not(size_px):
    cylinder = cylinder_mask(size_px, 14.0, 3.0)
    helix = helical_map(Helix(33.0, 12.0), size_px, 3.0)
    for volume, is_featureless in ((cylinder, True), (helix, False)):
        smooth = low_pass(volume, voxel_A=3.0, resolution_A=20.0)
        assert (share_around_axis(smooth) < FEATURELESS) == is_featureless


def test_scale_and_background_do_not_count_and_density_off_the_axis_does():
    axis = torch.arange(32) - 16.0
    off = torch.exp(-((axis[:, None, None] * 0 + axis[:, None] - 6) ** 2 + axis**2) / 18)
    share = share_around_axis(off)
    assert share > 0.5
    assert share_around_axis(-7 * off + 3) == pytest.approx(share, rel=1e-5)


def test_a_map_without_contrast_has_no_features():
    assert share_around_axis(torch.full((8, 8, 8), 2.0)) == 0.0
