import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cryorefine.assign.exhaustive import Pruning
from cryorefine.assign.search_depth import (
    SearchSpace,
    decidable,
    discriminating_power,
    expected_candidates,
    plan_depth,
    recall_among,
    refinement_shells,
)
from cryorefine.fourier.band import make_band
from cryorefine.geometry.rotation import random_rotations
from cryorefine.kernels.dispatch import extract_slices
from tests.assign.test_alignment import Case

BAND = make_band(128, 32.0)
SPACE = SearchSpace(40.0, 128, 1, 1.0, 12.8, 2.0)
PRUNING = Pruning(0.001, 0.0, 1000)


def _drawn(power: float, n_poses: int, images: int = 2000):
    """Draw log-likelihoods of one true and n - 1 unrelated poses, by the model itself."""
    generator = torch.Generator().manual_seed(1)
    width = math.sqrt(2 * power)
    truth = power + width * torch.randn(images, generator=generator, dtype=torch.float64)
    wrong = -power + width * torch.randn(
        images, n_poses - 1, generator=generator, dtype=torch.float64
    )
    return truth, wrong


@pytest.mark.parametrize("power", [2.0, 6.0, 12.0])
def test_what_can_be_decided_and_what_is_kept_agree_with_scores_that_were_drawn(power):
    truth, wrong = _drawn(power, 1000)
    p = torch.tensor([power])
    wins = float((truth > wrong.amax(1)).double().mean())
    assert float(decidable(p, 1000)) == pytest.approx(wins, abs=0.04)
    among = float(((wrong > truth[:, None]).sum(1) < 30).double().mean())
    assert float(recall_among(p, 1000, 30)) == pytest.approx(among, abs=0.04)
    score = torch.cat([truth[:, None], wrong], 1).sort(1, descending=True).values
    mass = torch.softmax(score, 1)
    kept = (1 - (mass.cumsum(1) - mass) > PRUNING.mass_lost).sum(1).double()
    expected = float(expected_candidates(p, 1000, PRUNING, most=1000))
    assert expected == pytest.approx(float(kept.mean()), rel=0.15, abs=2)


@settings(max_examples=40, deadline=None)
@given(
    power=st.floats(0, 200), n=st.floats(2, 1e9), more=st.floats(1, 50), kept=st.integers(1, 500)
)
def test_more_signal_or_fewer_poses_never_make_a_search_harder(power, n, more, kept):
    low, high = torch.tensor([power]), torch.tensor([power + more])
    assert 0 <= float(decidable(low, n)) <= float(decidable(high, n)) + 1e-9 <= 1 + 1e-6
    assert float(decidable(low, 2 * n)) <= float(decidable(low, n)) + 1e-9
    assert float(recall_among(low, n, kept)) <= float(recall_among(high, n, kept)) + 1e-6
    assert float(recall_among(low, n, kept)) <= float(recall_among(low, n, 2 * kept)) + 1e-6
    count = float(expected_candidates(low, n, PRUNING, most=300))
    assert 1 <= count <= 300


@settings(max_examples=30, deadline=None)
@given(
    signal=st.floats(0.01, 30), order=st.sampled_from([1, 4, 24, 60]), radius=st.floats(15, 60),
    sigma=st.floats(0.5, 12), end=st.integers(1, 32),
)  # fmt: skip
def test_every_plan_can_be_carried_out(signal, order, radius, sigma, end):
    band = make_band(128, float(end))
    shells = band.n_shells
    power = signal * torch.linspace(0, 10, shells, dtype=torch.float64).expand(3, shells)
    space = SearchSpace(radius, 128, order, 1.0, 12.8, sigma)
    depth = plan_depth(power, band, space)
    assert 1 <= depth.max_shell <= band.n_shells - 1
    assert 0 <= depth.recall <= depth.decidable + 1e-9 <= 1 + 1e-6
    assert depth.operations > 0
    assert depth.step_rad <= math.radians(30)
    finer = plan_depth(power, band, space, finer=1.5, least=256)
    assert finer.most >= 256
    shells = refinement_shells(depth.max_shell, band.n_shells - 1)
    assert shells[-1] == band.n_shells - 1
    assert shells == sorted(shells)


def test_the_less_an_image_says_the_more_candidates_and_operations_its_search_takes():
    rise = torch.linspace(0, 1, BAND.n_shells, dtype=torch.float64)[None]
    clear, faint = (plan_depth(signal * rise, BAND, SPACE) for signal in (400.0, 60.0))
    assert clear.operations < faint.operations
    assert clear.recall > 0.98
    assert faint.candidates > clear.candidates
    # What is worth less is searched for with less.
    cheap = plan_depth(60.0 * rise, BAND, SPACE, worth=0.01)
    assert cheap.operations <= faint.operations


def test_a_prior_on_shifts_and_symmetry_leave_fewer_poses():
    wide = replace(SPACE, shift_sigma_px=12.8)
    assert SPACE.n_likely_shifts(8) < wide.n_likely_shifts(8) <= wide.n_shifts(8)
    octahedral = replace(SPACE, group_order=24)
    assert octahedral.n_rotations(8) == pytest.approx(SPACE.n_rotations(8) / 24)


def test_the_power_counts_what_differs_between_views_only():
    case = Case("c1", 8, noise=1.0)
    power = discriminating_power(case.grid, case.view, case.c)
    assert power.shape == (8, case.view.band.n_shells)
    assert bool((power[:, 1:] >= power[:, :-1]).all())
    # By hand: half the mean squared difference of unrelated views, of which two are drawn.
    first = case.view.band.prefix(0)
    generator = torch.Generator().manual_seed(9)
    a, b = (
        extract_slices(case.grid, random_rotations(400, generator), case.view.points[first:])
        for _ in range(2)
    )
    c = case.c[0, first:]
    expected = float(((a - b).abs().square() * c.square()).sum(1).mean() / 2)
    assert float(power[0, -1]) == pytest.approx(expected, rel=0.05)
