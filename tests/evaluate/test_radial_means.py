import pytest
import torch

from cryorefine.evaluate.radial_means import radial_means


def test_values_that_depend_on_the_distance_alone_are_their_means():
    radius = torch.rand(500, generator=torch.Generator().manual_seed(0)) * 9
    linear = torch.stack([2 * radius + 1, torch.full_like(radius, -3.0)])
    found = radial_means(linear, radius)
    # Means are of places within a voxel on both sides, where this line changes by 2.
    assert (found - linear).abs().max() < 2
    torch.testing.assert_close(found[1], linear[1].double())


def test_means_are_of_each_map_for_itself_and_add_up_as_the_maps_do():
    generator = torch.Generator().manual_seed(1)
    radius = torch.rand(300, generator=generator).double() * 5
    one, other = torch.randn(2, 300, generator=generator).double()
    both = radial_means(torch.stack([one, other]), radius)
    torch.testing.assert_close(both[:1], radial_means(one[None], radius))
    torch.testing.assert_close(both.sum(0, keepdim=True), radial_means((one + other)[None], radius))


def test_at_whole_distances_means_are_those_of_their_places():
    radius = torch.tensor([0.0, 3.0, 3.0, 3.0, 7.0])
    values = torch.tensor([[5.0, 1.0, 2.0, 6.0, -1.0]])
    found = radial_means(values, radius)
    assert found.tolist() == [pytest.approx([5, 3, 3, 3, -1])]
