import pytest
import torch

from cryorefine.evaluate.calibration import chi_squared, pose_errors
from cryorefine.geometry.rotation import matrix_from_rotvec, random_rotations
from cryorefine.geometry.symmetry import parse_symmetry

N = 800


def drawn(symmetry: str, *, turn_rad=(0.0, 0.0, 0.0), move_A=(0.0, 0.0, 0.0)):
    """True poses, poses with errors of known covariance in a frame that is turned and moved."""
    group = parse_symmetry(symmetry)
    generator = torch.Generator().manual_seed(5)
    true = random_rotations(N, generator)
    shift = torch.randn(N, 2, generator=generator, dtype=torch.float64)
    mixed = torch.randn(N, 5, 5, generator=generator, dtype=torch.float64)
    root = 0.01 * (torch.eye(5, dtype=torch.float64) + 0.3 * mixed)
    root = root * torch.tensor([1.0, 1, 1, 20, 20], dtype=torch.float64)[:, None]
    covariance = root @ root.transpose(1, 2)
    normal = torch.randn(N, 5, 1, generator=generator, dtype=torch.float64)
    error = (torch.linalg.cholesky(covariance) @ normal)[..., 0]
    frame = matrix_from_rotvec(torch.tensor(turn_rad, dtype=torch.float64))
    found = matrix_from_rotvec(error[:, :3]) @ true @ frame
    # Any of the equivalent poses may have been found.
    found = found @ group.matrices[torch.arange(N) % group.order]
    moved = shift + error[:, 3:] + true[:, :2] @ torch.tensor(move_A, dtype=torch.float64)
    return group, found, moved, true, shift, covariance


@pytest.mark.parametrize(
    ("symmetry", "turn", "move"),
    [
        ("c1", (0.03, -0.02, 0.01), (1.0, -2.0, 0.5)),
        ("c4", (0.0, 0.0, 0.04), (0.0, 0.0, 1.5)),
        ("d3", (0.0, 0.0, 0.0), (0.0, 0.0, 0.0)),
    ],
)
def test_right_covariances_hold_the_truth_for_95_percent_whatever_the_frame(symmetry, turn, move):
    group, found, moved, true, shift, covariance = drawn(symmetry, turn_rad=turn, move_A=move)
    errors = pose_errors(found, moved, true, shift, group)
    chi2 = chi_squared(errors, covariance, found, group)
    assert float((chi2 < 11.07).double().mean()) == pytest.approx(0.95, abs=0.025)
    assert float(chi2.median()) == pytest.approx(4.35, rel=0.1)


def test_a_turn_that_the_symmetry_forbids_counts_as_error():
    group, found, moved, true, shift, covariance = drawn("d3", turn_rad=(0.0, 0.0, 0.2))
    errors = pose_errors(found, moved, true, shift, group)
    assert float(chi_squared(errors, covariance, found, group).median()) > 20


def test_wrong_poses_do_not_hide_behind_a_fitted_frame():
    group, found, moved, true, shift, covariance = drawn("c1")
    found = torch.cat([random_rotations(40, torch.Generator().manual_seed(1)), found[40:]])
    errors = pose_errors(found, moved, true, shift, group)
    chi2 = chi_squared(errors, covariance, found, group)
    assert float(chi2[:40].median()) > 1000
    assert float((chi2[40:] < 11.07).double().mean()) == pytest.approx(0.95, abs=0.025)
