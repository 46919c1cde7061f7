"""What two runs of one refinement on different devices must agree in."""

from pathlib import Path

import torch

from cryorefine.geometry.rotation import geodesic_angle
from cryorefine.run.checkpoint import load_state
from cryorefine.storage.layout import committed_iterations

_SAME_SIGMAS = 0.2
"""A climb ends within 0.14 standard deviations of its maximum; rounding decides at which step."""


def assert_same_result(run: Path, other: Path, *, map_error: float) -> None:
    """Compare all iterations: poses of 99.9 % of the particles, half maps, noise and curves."""
    iterations = committed_iterations(run)
    assert iterations == committed_iterations(other)
    assert iterations[-1] > 0
    for iteration in iterations[1:]:
        a, b = load_state(run, iteration).state, load_state(other, iteration).state
        turn = torch.rad2deg(geodesic_angle(a.poses.rotations, b.poses.rotations))
        shift_A = (a.poses.shift_A - b.poses.shift_A).norm(dim=1)
        scores = b.poses.scores
        same = (turn <= _SAME_SIGMAS * scores.sigma_rotation_deg) & (
            shift_A <= _SAME_SIGMAS * scores.sigma_shift_A
        )
        assert float(same.double().mean()) >= 0.999
        for half in (0, 1):
            difference = (a.halves[half] - b.halves[half]).norm() / b.halves[half].norm()
            assert float(difference) < map_error
            for ours, theirs in zip(a.noise[half], b.noise[half], strict=True):
                torch.testing.assert_close(ours, theirs, rtol=10 * map_error, atol=0)
        torch.testing.assert_close(
            a.evaluation.curves.unmasked, b.evaluation.curves.unmasked, rtol=0, atol=map_error
        )
