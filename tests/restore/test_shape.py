import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cryorefine.fourier.filter import low_pass
from cryorefine.masks.cylinder import cylinder_mask
from cryorefine.masks.soft import sphere_mask
from cryorefine.restore.shape import (
    ReferenceShaping,
    drop_voxels,
    shape_reference,
    without_negative,
)
from tests.other_device import OTHER, Elsewhere, OtherDevice

VOXEL_A = 2.0


def noise(size_px: int, seed: int = 0) -> torch.Tensor:
    return torch.randn((size_px,) * 3, generator=torch.Generator().manual_seed(seed))


def shaped(volume: torch.Tensor, **requested) -> torch.Tensor:
    """Shape a reference by what is asked for and nothing else."""
    seed = requested.pop("seed", 0)
    shaping = ReferenceShaping(**{"radius_px": volume.shape[-1] / 4, **requested})
    return shape_reference(volume, shaping, voxel_A=VOXEL_A, seed=seed)


@given(st.floats(0, 1), st.integers(0, 2**63 - 1))
def test_the_share_of_dropped_voxels_is_the_probability(probability, seed):
    volume = torch.ones(24, 24, 24)
    dropped = int((drop_voxels(volume, volume, probability=probability, seed=seed) == 0).sum())
    spread = math.sqrt(volume.numel() * probability * (1 - probability))
    # Five standard deviations of the binomial distribution, and a voxel for rounding.
    assert abs(dropped - volume.numel() * probability) <= 5 * spread + 1


@pytest.mark.parametrize("size_px", [1, 16, 17])
def test_no_voxel_goes_with_probability_zero_and_each_with_probability_one(size_px):
    volume, inside = 1 + noise(size_px).abs(), sphere_mask(size_px, 5.0)
    assert torch.equal(drop_voxels(volume, inside, probability=0.0, seed=3), volume)
    gone = drop_voxels(volume, inside, probability=1.0, seed=3) == 0
    assert torch.equal(gone, inside > 0.5)


def test_voxels_outside_and_those_that_stay_keep_their_values():
    volume, inside = 1 + noise(17).abs(), sphere_mask(17, 5.0) > 0.5
    before = volume.clone()
    after = drop_voxels(volume, inside, probability=0.5, seed=3)
    assert torch.equal(after[~inside], volume[~inside])
    assert bool(((after == volume) | (after == 0)).all())
    assert torch.equal(volume, before)


def test_a_seed_drops_the_same_voxels_again_and_another_seed_others():
    volume, inside = torch.ones(16, 16, 16), torch.ones(16, 16, 16, dtype=torch.bool)
    first, again, other = (
        drop_voxels(volume, inside, probability=0.5, seed=seed) for seed in (5, 5, 6)
    )
    assert torch.equal(first, again)
    # Two independent draws agree in half of the voxels.
    assert float((first == other).float().mean()) == pytest.approx(0.5, abs=0.05)


def test_dropout_leaves_other_random_numbers_alone():
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    drop_voxels(torch.ones(8, 8, 8), torch.ones(8, 8, 8), probability=0.5, seed=2)
    assert torch.equal(torch.rand(3), expected)


@given(st.floats(0, 1), st.floats(0, 1))
def test_a_higher_probability_drops_what_a_lower_one_drops_and_more(one, other):
    volume = torch.ones(9, 9, 9)
    low, high = (
        drop_voxels(volume, volume, probability=p, seed=1) for p in sorted((one, other))
    )  # fmt: skip
    assert bool((high <= low).all())


def test_what_goes_inside_a_mask_does_not_depend_on_the_mask():
    volume, inside = torch.ones(16, 16, 16), sphere_mask(16, 4.0, 0.0) > 0.5
    within = drop_voxels(volume, inside, probability=0.5, seed=1)
    everywhere = drop_voxels(volume, torch.ones_like(inside), probability=0.5, seed=1)
    assert torch.equal(within[inside], everywhere[inside])


def test_a_map_without_negative_values_keeps_the_others():
    volume = noise(9)
    positive = without_negative(volume)
    assert float(positive.min()) == 0
    assert torch.equal(positive[volume > 0], volume[volume > 0])
    assert bool((positive[volume <= 0] == 0).all())


@pytest.mark.parametrize("size_px", [1, 16, 17])
def test_a_map_of_which_nothing_is_asked_stays_as_it_is(size_px):
    volume = noise(size_px)
    assert torch.equal(shaped(volume), volume)


@pytest.mark.parametrize("size_px", [32, 33])
def test_each_step_alone_does_what_its_name_says(size_px):
    volume, mask = noise(size_px), sphere_mask(size_px, 6.0)
    for requested, expected in (
        ({"lowpass_A": 9.0}, low_pass(volume, voxel_A=VOXEL_A, resolution_A=9.0)),
        ({"shape": "sphere", "radius_px": 7.0}, volume * sphere_mask(size_px, 7.0)),
        ({"shape": "cylinder", "radius_px": 7.0}, volume * cylinder_mask(size_px, 7.0)),
        ({"positivity": True}, without_negative(volume)),
        ({"mask": mask}, volume * mask),
        (
            {"dropout": 0.3, "seed": 4},
            drop_voxels(volume, torch.ones_like(volume), probability=0.3, seed=4),
        ),
    ):
        assert torch.equal(shaped(volume, **requested), expected)


@pytest.mark.parametrize("shape", ["sphere", "cylinder", "none"])
def test_the_steps_follow_each_other_in_the_order_that_is_promised(shape):
    volume, mask = noise(32), sphere_mask(32, 5.0, 8.0)
    outline = {"sphere": sphere_mask, "cylinder": cylinder_mask}.get(shape)
    expected = low_pass(volume, voxel_A=VOXEL_A, resolution_A=9.0)
    if outline is not None:
        expected = expected * outline(32, 7.0)
    expected = expected.clamp_min(0) * mask
    expected = drop_voxels(expected, mask, probability=0.4, seed=8)
    found = shaped(
        volume, lowpass_A=9.0, shape=shape, radius_px=7.0, positivity=True, mask=mask,
        dropout=0.4, seed=8,
    )  # fmt: skip
    assert torch.equal(found, expected)
    # A filter at the end would have left negative values, and something in each voxel.
    assert float(found.min()) == 0


@given(st.sampled_from(["sphere", "cylinder", "none"]), st.floats(5, 40), st.booleans())
def test_a_positive_reference_has_no_negative_value(shape, lowpass_A, masked):
    mask = sphere_mask(15, 4.0) if masked else None
    found = shaped(noise(15), shape=shape, lowpass_A=lowpass_A, mask=mask, positivity=True)
    assert float(found.min()) >= 0


def test_voxels_are_dropped_in_the_mask_if_there_is_one_else_in_the_shape():
    volume, mask = torch.ones(24, 24, 24), sphere_mask(24, 3.0, 2.0)
    outline = sphere_mask(24, 6.0)
    in_mask = shaped(volume, mask=mask, shape="sphere", radius_px=6.0, dropout=1.0)
    assert torch.equal(in_mask, (mask * outline).masked_fill(mask > 0.5, 0.0))
    in_shape = shaped(volume, shape="sphere", radius_px=6.0, dropout=1.0)
    assert torch.equal(in_shape, outline.masked_fill(outline > 0.5, 0.0))
    assert not bool(shaped(volume, dropout=1.0).any())


def test_a_map_of_zeros_stays_one():
    empty = torch.zeros(8, 8, 8)
    found = shaped(
        empty, mask=empty, shape="sphere", lowpass_A=10.0, positivity=True, dropout=0.5
    )  # fmt: skip
    assert torch.equal(found, empty)


def test_a_reference_stays_on_its_device_and_is_the_same_there():
    volume, mask = noise(16), sphere_mask(16, 5.0)
    requested = {
        "shape": "cylinder",
        "lowpass_A": 9.0,
        "positivity": True,
        "dropout": 0.5,
        "seed": 2,
    }
    expected = shaped(volume, mask=mask, **requested)
    with OtherDevice():
        found = shaped(volume.to(OTHER), mask=mask, **requested)
        assert isinstance(found, Elsewhere)
        found = found.cpu()
    torch.testing.assert_close(found, expected)
    assert torch.equal(found == 0, expected == 0)
