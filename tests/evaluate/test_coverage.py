import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cryorefine.compiled import kernel_threads, use_kernel_threads
from cryorefine.evaluate.coverage import coverage_efficiency, direction_histogram
from cryorefine.geometry.rotation import matrix_from_euler, random_rotations
from cryorefine.geometry.symmetry import parse_symmetry


def about(tilt_deg: float, spread_deg: float, n: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    turn = torch.rand(n, 2, generator=generator).double() * 2 * math.pi
    tilt = torch.deg2rad(tilt_deg + spread_deg * torch.randn(n, generator=generator).double())
    return matrix_from_euler(torch.stack([turn[:, 0], tilt, turn[:, 1]], -1))


def test_even_views_have_an_efficiency_near_one():
    rotations = random_rotations(20000, torch.Generator().manual_seed(0))
    assert coverage_efficiency(rotations, parse_symmetry("c1")) > 0.97


def test_one_view_has_an_efficiency_near_zero():
    assert coverage_efficiency(about(0, 0.1, 1000), parse_symmetry("c1")) < 0.1


def test_narrower_distributions_are_worse():
    c1 = parse_symmetry("c1")
    values = [coverage_efficiency(about(0, s, 3000), c1) for s in (60, 30, 10)]
    assert values == sorted(values, reverse=True)


def test_side_views_alone_cover_everything():
    # Side views all round: their planes contain the axis and every direction.
    assert coverage_efficiency(about(90, 1, 4000), parse_symmetry("c1")) > 0.3


def test_symmetry_evens_out_a_preferred_view():
    views = about(20, 8, 2000)
    assert coverage_efficiency(views, parse_symmetry("o")) > 2 * coverage_efficiency(
        views, parse_symmetry("c1")
    )


def test_a_histogram_of_even_views_is_one_everywhere():
    rotations = random_rotations(60000, torch.Generator().manual_seed(0))
    cells, density = direction_histogram(rotations, parse_symmetry("c1"))
    assert len(cells) == len(density)
    assert float(density.mean()) == pytest.approx(1)
    assert float(density.std()) < 0.25


def test_weights_count_views():
    rotations = random_rotations(10, torch.Generator().manual_seed(0))
    weights = torch.zeros(10)
    weights[3] = 1.0
    cells, density = direction_histogram(rotations, parse_symmetry("c1"), weights=weights)
    nearest = (cells @ rotations[3, 2]).argmax()
    assert int(density.argmax()) == int(nearest)
    assert int((density > 0).sum()) == 1


def test_no_particles_have_no_coverage():
    assert coverage_efficiency(torch.zeros(0, 3, 3).double(), parse_symmetry("c1")) == 0.0


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(0, 80),
    seed=st.integers(0, 2**31),
    symmetry=st.sampled_from(["c1", "c2", "d3", "o"]),
    tilt_deg=st.floats(0, 180),
    spread_deg=st.floats(0, 90),
    is_even=st.booleans(),
)
def test_no_views_cover_more_than_everything(n, seed, symmetry, tilt_deg, spread_deg, is_even):
    generator = torch.Generator().manual_seed(seed)
    even = random_rotations(n, generator)
    turn = torch.rand(n, 2, generator=generator).double() * 2 * math.pi
    tilt = torch.deg2rad(tilt_deg + spread_deg * torch.randn(n, generator=generator).double())
    uneven = matrix_from_euler(torch.stack([turn[:, 0], tilt, turn[:, 1]], -1))
    value = coverage_efficiency(even if is_even else uneven, parse_symmetry(symmetry))
    assert 0 <= value <= 1 + 1e-12


def test_a_few_views_cover_little_however_they_are_spread():
    c1 = parse_symmetry("c1")
    views = random_rotations(40, torch.Generator().manual_seed(0))
    values = [coverage_efficiency(views[:n], c1) for n in (1, 3, 10, 40)]
    assert values[0] < 0.05
    assert values == sorted(values)


def test_the_coverage_does_not_depend_on_the_number_of_threads():
    rotations, group = (
        random_rotations(1500, torch.Generator().manual_seed(3)),
        parse_symmetry("d2"),
    )
    before = kernel_threads()
    try:
        found = set()
        for threads in (1, 2, 7):
            use_kernel_threads(threads)
            found.add(coverage_efficiency(rotations, group))
    finally:
        use_kernel_threads(before)
    assert len(found) == 1
