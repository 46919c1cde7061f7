"""Every test that calls the program also checks the shapes and types of its annotations."""

import pytest
import torch
from jaxtyping import TypeCheckError

from cryorefine.fourier.filter import low_pass
from cryorefine.geometry.rotation import geodesic_angle, random_rotations
from cryorefine.kernels.grid import make_slice_grid
from cryorefine.state.plan import IterationPlan
from tests.type_checks import CALLS_OF_A_TEST, begin_test


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


def angle_from(first: torch.Tensor) -> torch.Tensor:
    """Call a checked function from one and the same place."""
    return geodesic_angle(first, turns())


WRONG = torch.zeros(3, 4, 4)


def test_calls_are_checked_anew_in_each_test():
    for _ in range(2):
        for _ in range(CALLS_OF_A_TEST + 1):
            angle_from(turns())
        begin_test()  # what comes before each test
    with pytest.raises(TypeCheckError):
        angle_from(WRONG)


def test_this_test_began_with_all_calls_to_check():
    with pytest.raises(TypeCheckError):
        angle_from(WRONG)
    for _ in range(CALLS_OF_A_TEST):
        angle_from(turns())


test_the_next_test_does_too = test_this_test_began_with_all_calls_to_check


def test_calls_from_one_place_leave_those_from_another_to_be_checked():
    for _ in range(CALLS_OF_A_TEST + 1):
        angle_from(turns())
    with pytest.raises(TypeCheckError):
        geodesic_angle(WRONG, turns())


def test_calls_of_the_program_itself_are_checked(monkeypatch):
    monkeypatch.setattr("cryorefine.fourier.filter.volume_to_half", lambda _: "no transform")
    with pytest.raises(TypeCheckError, match="multiply_radially"):
        low_pass(torch.zeros(8, 8, 8), voxel_A=1.0, resolution_A=4.0)
