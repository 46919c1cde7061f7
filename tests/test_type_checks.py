"""Every test that calls the program also checks the shapes and types of its annotations."""

import pytest
import torch
from jaxtyping import TypeCheckError

from cryorefine.fourier.filter import low_pass
from cryorefine.geometry.rotation import geodesic_angle, random_rotations
from cryorefine.kernels.grid import make_slice_grid
from cryorefine.state.plan import IterationPlan
from tests.type_checks import CALLS_A_TEST, begin_test


def turns() -> torch.Tensor:
    return random_rotations(3, torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: geodesic_angle(torch.zeros(3, 4, 4), turns()),
        lambda: geodesic_angle(turns(), "identity"),
        lambda: low_pass(torch.zeros(8, 8), voxel_A=1.0, resolution_A=4.0),
        lambda: make_slice_grid(torch.zeros(8, 8, 9, dtype=torch.complex64), 4.0),
        lambda: IterationPlan("first", "global", 27.0, 1.0, True, 16.0, 1, 1, 1.0, None, False),
    ],
)
def test_a_wrong_shape_or_type_is_refused_in_functions_and_in_records(wrong):
    with pytest.raises(TypeCheckError):
        wrong()


def test_calls_are_checked_anew_in_each_test():
    for _ in range(2):
        for _ in range(CALLS_A_TEST + 1):
            geodesic_angle(turns(), turns())
        begin_test()  # what comes before each test
    with pytest.raises(TypeCheckError):
        geodesic_angle(torch.zeros(3, 4, 4), turns())


def test_this_test_began_with_all_calls_to_check():
    with pytest.raises(TypeCheckError):
        geodesic_angle(torch.zeros(3, 4, 4), turns())
    for _ in range(CALLS_A_TEST):
        geodesic_angle(turns(), turns())


test_the_next_test_does_too = test_this_test_began_with_all_calls_to_check
