"""The segments of a filament decide together which direction it has."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch

from cryorefine.filaments.direction import with_one_direction
from cryorefine.geometry.rotation import matrix_from_euler
from cryorefine.geometry.symmetry import parse_symmetry
from cryorefine.settings import make_settings
from cryorefine.state.scores import ParticleScores
from cryorefine.state.state import Inputs, OtherPoses, Poses
from tests.builders import make_table

SETTINGS = {"particles": "s.star", "helical_twist_deg": 30, "helical_rise_angstrom": 10}


def inputs_of(tubes: list[int], symmetry: str = "c1") -> Inputs:
    table = make_table(len(tubes), micrograph=[0] * len(tubes))
    table = replace(table, extra={"rlnHelicalTubeID": np.array(tubes)})
    found = SimpleNamespace(
        settings=make_settings({**SETTINGS, "symmetry": symmetry}),
        table=table,
        half=np.ones(len(tubes), np.int8),
        group=parse_symmetry(symmetry),
    )
    return cast(Inputs, cast(Any, found))


def poses_of(psi_deg: list[float], probability: list[float]) -> Poses:
    """Poses with one other pose each, of the opposite direction and what is left of the share."""

    def turned(degrees: np.ndarray) -> torch.Tensor:
        angles = np.stack([np.arange(n) * 10.0, np.full(n, 88.0), degrees], -1)
        return matrix_from_euler(torch.from_numpy(np.radians(angles)))

    n, psi = len(psi_deg), np.array(psi_deg)
    share = torch.tensor(probability, dtype=torch.float64)
    shift_A = torch.arange(2 * n, dtype=torch.float64).view(n, 2)
    others = OtherPoses(torch.arange(n), turned(psi + 180), shift_A + 100, 1 - share)
    scores = ParticleScores(score=torch.zeros(n).double(), probability=share, n_effective=share)
    return Poses(turned(psi), shift_A, scores, others=others)


def test_a_segment_that_hardly_tells_takes_the_direction_of_the_others():
    given = poses_of([20, 21, 19, 200], [0.9, 0.9, 0.9, 0.6])
    found = with_one_direction(inputs_of([1, 1, 1, 1]), given)
    assert given.others is not None
    torch.testing.assert_close(found.rotations[3], given.others.rotations[3])
    torch.testing.assert_close(found.shift_A[3], given.others.shift_A[3])
    torch.testing.assert_close(found.rotations[:3], given.rotations[:3])
    assert found.scores.probability is not None
    assert float(found.scores.probability.min()) > 0.95
    assert found.scores.score is not None
    assert float(found.scores.score[3]) < 0


def test_filaments_decide_each_for_itself():
    given = poses_of([20, 21, 200, 201], [0.9, 0.8, 0.9, 0.8])
    found = with_one_direction(inputs_of([1, 1, 2, 2]), given)
    torch.testing.assert_close(found.rotations, given.rotations)


def test_a_segment_that_tells_stays_and_shares_add_up_to_one():
    given = poses_of([20, 200, 201], [0.98, 0.7, 0.6])
    found = with_one_direction(inputs_of([1, 1, 1]), given)
    torch.testing.assert_close(found.rotations[0], given.rotations[0])
    assert found.others is not None
    assert found.scores.probability is not None
    total = found.scores.probability.clone()
    total.index_add_(0, found.others.row, found.others.probability)
    torch.testing.assert_close(total, torch.ones_like(total))


@pytest.mark.parametrize(("tubes", "symmetry"), [([1, 2, 3], "c1"), ([1, 1, 1], "d1")])
def test_single_segments_and_dihedral_helices_have_nobody_to_ask(tubes, symmetry):
    given = poses_of([20, 21, 200], [0.9, 0.9, 0.6])
    found = with_one_direction(inputs_of(tubes, symmetry), given)
    torch.testing.assert_close(found.rotations, given.rotations)
