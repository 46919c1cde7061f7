import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cryorefine.reconstruct.solve import FoldedSums
from cryorefine.refine.schedule import next_plan
from cryorefine.refine.subset import mixed_sums, plain_poses
from cryorefine.settings import make_settings
from cryorefine.state.plan import Geometry
from cryorefine.state.scores import ParticleScores
from cryorefine.state.state import Poses, unknown_poses
from tests.builders import make_record


def plans(n_particles: int, n_iterations: int, **values):
    """Return the first iterations of a run that gains all the time."""
    geometry = Geometry(320.0, 5.0, 90.0, 32.0, 1, n_particles=n_particles)
    settings = make_settings({"particles": "p.star", "reference": ["m.mrc"], **values})
    history, out = [], []
    for i in range(n_iterations):
        plan = next_plan(settings, geometry, history)
        assert plan is not None
        out.append(plan)
        history.append(
            make_record(i + 1, resolution_A=20 * 0.9**i, jumped_fraction=0.0, share=plan.share)
        )
    return out


def test_an_automatic_run_begins_with_a_thousand_particles_and_doubles_them():
    counts = [len(s.rows(6000)) for s in plans(6000, 4)]
    assert counts == pytest.approx([1000, 2000, 4000, 6000], abs=2)


def test_small_sets_are_used_whole_from_the_first_iteration():
    assert all(s.share == 1 for s in plans(1200, 3))


def test_a_run_stays_global_until_it_has_used_all_particles():
    modes = [(s.mode, s.share == 1) for s in plans(6000, 5)]
    assert modes == [("global", False)] * 3 + [("global", True), ("local", True)]


@pytest.mark.parametrize("values", [{"alignment": "global"}, {"automatic_schedule": "fixed"}])
def test_only_a_data_driven_run_leaves_particles_out(values):
    assert all(s.share == 1 for s in plans(6000, 2, **values))


def test_the_last_iteration_uses_all_particles():
    assert plans(6000, 1, iterations=1)[0].share == 1


@given(n=st.integers(2000, 50000))
def test_particles_once_used_stay_in_use_and_are_spread_over_the_file(n):
    earlier, later = (s.rows(n) for s in plans(n, 2))
    assert set(earlier) <= set(later)
    assert np.diff(earlier).max() < 4 * n / len(earlier)


def test_poses_of_particles_that_were_left_out_stay_as_they_are():
    poses = unknown_poses(5)
    assert not poses.is_assigned.any()
    rows = np.array([1, 3])
    turned = torch.tensor([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]]).double().expand(2, 3, 3)
    found = Poses(
        turned, torch.ones(2, 2).double(), ParticleScores(score=torch.tensor([4.0, 5.0]).double())
    )
    after = poses.updated(rows, found)
    assert after.is_assigned.tolist() == [False, True, False, True, False]
    assert after.shift_A[:, 0].tolist() == [0, 1, 0, 1, 0]
    assert torch.equal(after.rotations[0], torch.eye(3).double())
    again = after.select(rows)
    assert torch.equal(again.rotations, turned)
    assert again.scores.score.tolist() == [4.0, 5.0]


@pytest.mark.parametrize("known", [False, True])
def test_covariances_and_particle_values_stay_with_their_particles(known):
    generator = torch.Generator().manual_seed(0)

    def drawn(n):
        return Poses(
            torch.randn(n, 3, 3, generator=generator, dtype=torch.float64),
            torch.randn(n, 2, generator=generator, dtype=torch.float64),
            ParticleScores(score=torch.randn(n, generator=generator, dtype=torch.float64)),
            torch.randn(n, 5, 5, generator=generator, dtype=torch.float64),
            torch.randn(n, 8, generator=generator, dtype=torch.float64),
        )

    rows, others = np.array([4, 1]), np.array([0, 2, 3])
    before, part = (drawn(5) if known else unknown_poses(5)), drawn(2)
    after = before.updated(rows, part)
    assert torch.equal(after.select(rows).covariance, part.covariance)
    assert torch.equal(after.select(rows).optics, part.optics)
    if known:
        assert torch.equal(after.select(others).covariance, before.select(others).covariance)
        assert torch.equal(after.select(others).optics, before.select(others).optics)
    else:
        assert bool(after.select(others).covariance.isnan().all())
        assert bool((after.select(others).optics == 0).all())


def sums(value: float, weight: float, evenness: float) -> FoldedSums:
    values = torch.full((3, 3, 2), value, dtype=torch.complex64)
    return FoldedSums(values, torch.full((3, 3, 2), weight), 1, 1.5, 2, 0.5, 1, evenness)


def test_sums_of_subsets_are_mixed_numerators_and_denominators_alike():
    old, new = (sums(1.0, 4.0, 1.0),) * 2, (sums(3.0, 8.0, 0.5), sums(5.0, 0.0, 1.0))
    mixed = mixed_sums(old, new, 0.25)
    assert mixed[0].values.real.unique().tolist() == [1.5]
    assert mixed[0].weights.unique().tolist() == [5.0]
    assert mixed[0].evenness == pytest.approx(0.875)
    # Each half with its own: the second had other values, and nothing new in its denominator.
    assert mixed[1].values.real.unique().tolist() == [2.0]
    assert mixed[1].weights.unique().tolist() == [3.0]


def test_the_first_subset_has_nothing_to_be_mixed_with():
    new = (sums(3.0, 8.0, 0.5), sums(5.0, 1.0, 1.0))
    assert mixed_sums(None, new, 0.25) is new


def test_of_earlier_poses_only_where_they_were_and_which_were_found_is_kept():
    poses = unknown_poses(2)
    score = torch.tensor([1.0, torch.nan], dtype=torch.float64)
    full = Poses(
        poses.rotations, poses.shift_A, ParticleScores(score=score, weight=score),
        torch.zeros(2, 5, 5).double(), torch.zeros(2, 8).double(),
    )  # fmt: skip
    plain = plain_poses(full)
    assert set(plain.scores.columns()) == {"score"}
    assert plain.covariance is None
    assert plain.optics is None
    assert plain.is_assigned.tolist() == [True, False]
    assert plain_poses(poses).scores.columns() == {}
