import pytest
import torch

from cryorefine.evaluate.symmetry_agreement import symmetry_agreement, without_radial_mean
from cryorefine.geometry.symmetry import parse_symmetry

SIZE = 40


def particle(symmetry, *, noise=0.0):
    """Return a map of some blobs and their copies, about a ball that has any symmetry."""
    generator = torch.Generator().manual_seed(3)
    group = parse_symmetry(symmetry)
    # A shell full of blobs would be a ball again.
    centres = torch.randn(max(1, 8 // group.order), 3, generator=generator, dtype=torch.float64)
    centres *= 10 / centres.norm(dim=1, keepdim=True)
    axis = torch.arange(SIZE, dtype=torch.float64) - SIZE // 2
    z, y, x = torch.meshgrid(axis, axis, axis, indexing="ij")
    volume = 3 * (-(x**2 + y**2 + z**2) / 50).exp()
    for cx, cy, cz in (centres @ group.matrices.transpose(1, 2)).reshape(-1, 3).tolist():
        volume += (-((x - cx) ** 2 + (y - cy) ** 2 + (z - cz) ** 2) / 18).exp()
    return volume.float() + noise * torch.randn(volume.shape, generator=generator)


@pytest.mark.parametrize(
    ("symmetry", "tested"),
    [
        ("d2", "d2"),
        ("d2", "c2"),
        ("d2", "c1"),
        ("c4", "c2"),
        ("d7", "d7"),
        ("o", "d2"),
        ("i1", "i1"),
    ],
)
def test_a_map_agrees_with_copies_by_its_own_symmetry_and_by_parts_of_it(symmetry, tested):
    assert symmetry_agreement(particle(symmetry), parse_symmetry(tested)).correlation > 0.95


@pytest.mark.parametrize(
    ("symmetry", "tested"),
    [("d2", "c4"), ("d2", "d7"), ("d2", "o"), ("d2", "i1"), ("c1", "c2"), ("c4", "d4")],
)
def test_a_map_does_not_agree_with_copies_by_another_symmetry(symmetry, tested):
    assert symmetry_agreement(particle(symmetry), parse_symmetry(tested)).correlation < 0.5


def test_the_copy_that_agrees_least_is_named():
    found = symmetry_agreement(particle("d2"), parse_symmetry("c4"))
    assert abs(found.axis[2]) == pytest.approx(1.0)
    assert found.angle_deg == pytest.approx(90.0)


def test_noise_takes_little_of_the_agreement():
    found = symmetry_agreement(particle("d2", noise=0.1), parse_symmetry("d2"))
    assert 0.6 < found.correlation < 1.0


def test_a_ball_has_any_symmetry():
    axis = torch.arange(SIZE, dtype=torch.float32) - SIZE // 2
    ball = (-(axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2) / 50).exp()
    for volume in (ball, torch.zeros(SIZE, SIZE, SIZE)):
        assert symmetry_agreement(volume, parse_symmetry("o")).correlation == 1.0


def test_what_depends_on_the_distance_only_is_taken_out_and_the_rest_stays():
    axis = torch.arange(SIZE, dtype=torch.float32) - SIZE // 2
    ball = (-(axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2) / 50).exp()
    volume = particle("c1")
    features, with_ball = without_radial_mean(volume), without_radial_mean(volume + 5 * ball)
    assert float((with_ball - features).norm()) < 0.02 * 5 * float(ball.norm())
    assert float(features.norm()) > 0.1 * float(volume.norm())
