"""What passes between the half sets, and that nothing else does.

A run is made twice, the second time with other images, or other poses, in half 2. Plans are the
same, for the schedule is one of the channels. The FSC is the other: where it is held fixed too,
all that half 1 has must be the same to the last bit, iteration after iteration.
"""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from cryorefine.engine.serial import SerialEngine
from cryorefine.events import EventLog
from cryorefine.geometry.rotation import random_rotations
from cryorefine.io.mrc import read_stack_header, write_stack
from cryorefine.refine import iteration as iteration_module
from cryorefine.refine.advance import advance
from cryorefine.run.checkpoint import load_state
from cryorefine.state.plan import IterationPlan, IterationRecord
from cryorefine.state.state import Inputs, State

from .conftest import begun, settings_for, simulate_set

SEARCHED_OR_NOT = IterationPlan(1, "global", 27.0, 1.0, True, 16.0, 1, 1, 1.0, None, False)
PLANS = {
    "global": (
        SEARCHED_OR_NOT,
        dataclasses.replace(
            SEARCHED_OR_NOT, iteration=2, align_resolution_A=20.0, search_every=3, guard_every=3
        ),
        dataclasses.replace(
            SEARCHED_OR_NOT, iteration=3, mode="local", align_resolution_A=15.0,
            reconstruct_resolution_A=10.8, guard_every=3,
        ),
    ),
    "stochastic": tuple(
        dataclasses.replace(SEARCHED_OR_NOT, iteration=i, subset=30, rescues=False)
        for i in (1, 2)
    ),
    "local": tuple(
        dataclasses.replace(
            SEARCHED_OR_NOT, iteration=i, mode="local", align_resolution_A=18.0,
            reconstruct_resolution_A=10.8,
        )
        for i in (1, 2)
    ),
}  # fmt: skip
OPTIONS = {
    "global": {"weight_ssnr": True, "weight_stability": True, "weight_cc": True},
    "stochastic": {"alignment": "stochastic"},
    "local": {
        "alignment": "local", "weight_cost": True, "refine_grey": True,
        "refine_magnification": True, "initial_lowpass_angstrom": 30.0,
    },
}  # fmt: skip

AT_THE_END = {"sigma_rotation_deg", "sigma_shift_A"}
"""Columns of half 1 that its reference had no part in: calibrated by the other half's."""

OF_BOTH_HALVES = {
    "median_turn_deg", "jumped_fraction", "jumped_at_least", "median_sigma_rotation_deg",
    "missed_fraction", "undecided_fraction", "unsearched_fraction",
}  # fmt: skip
"""What the schedule is told beside the FSC: medians and shares over the particles of both."""


@pytest.fixture(scope="module")
def tiny_set(tmp_path_factory) -> Path:
    return simulate_set(
        tmp_path_factory.mktemp("tiny") / "data", particles=90, box_px=32, pixel_angstrom=5.4
    )


def with_noise_for_half_two(data: Path, half: np.ndarray, folder: Path) -> Path:
    """Write a copy of a set whose images of half 2 hold nothing; returns its folder."""
    folder.mkdir()
    images = torch.from_numpy(
        np.array(read_stack_header(data / "particles.mrcs").read(), dtype=np.float32)
    )
    other = torch.from_numpy(half == 2)
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
    images[other] = noise[other]
    write_stack(folder / "particles.mrcs", images, 5.4, half=False)
    for name in ("particles.star", "truth_particles.star"):
        (folder / name).write_text((data / name).read_text())
    return folder


def iterations(inputs: Inputs, state: State, plans: tuple[IterationPlan, ...]) -> list[State]:
    """Make the planned iterations, the last as the end of a run."""
    out = []
    for plan in plans:
        is_over = plan is plans[-1]
        state = advance(
            inputs, state, plan, EventLog(), SerialEngine(), is_over=lambda _, over=is_over: over
        )
        out.append(state)
    return out


@dataclasses.dataclass(frozen=True)
class Twice:
    """A run, and one with another half 2; ``replayed`` has the first one's FSC curves."""

    inputs: Inputs
    first: list[State]
    replayed: list[State]
    free: list[State]


@pytest.fixture(
    scope="module", params=["global", pytest.param("stochastic", marks=pytest.mark.slow), "local"]
)
def twice(request, tiny_set, tmp_path_factory) -> Twice:
    kind = request.param
    star = "truth_particles.star" if kind == "local" else "particles.star"
    values = {"compare_to": None, "reference": (tiny_set / "reference.mrc",), **OPTIONS[kind]}
    settings = settings_for(tiny_set, particles=tiny_set / star, **values)
    inputs, state = begun(settings)
    if kind == "local":  # other poses
        generator = torch.Generator().manual_seed(1)
        theirs = torch.from_numpy(inputs.half == 2)
        rotations = state.poses.rotations.clone()
        rotations[theirs] = random_rotations(int(theirs.sum()), generator)
        poses = dataclasses.replace(state.poses, rotations=rotations)
        others = inputs, dataclasses.replace(state, poses=poses)
    else:  # other images
        folder = tmp_path_factory.mktemp("other") / "data"
        with_noise_for_half_two(tiny_set, inputs.half, folder)
        others = begun(settings.model_copy(update={"particles": folder / star}))
        assert np.array_equal(others[0].half, inputs.half)
    original, found = iteration_module.evaluate_halves, []

    def recorded(*args, **kwargs):
        found.append(original(*args, **kwargs))
        return found[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(iteration_module, "evaluate_halves", recorded)
        first = iterations(inputs, state, PLANS[kind])
        fixed = iter(tuple(found))
        patch.setattr(iteration_module, "evaluate_halves", lambda *_, **__: next(fixed))
        replayed = iterations(*others, PLANS[kind])
    return Twice(inputs, first, replayed, iterations(*others, PLANS[kind][:1]))


def differing_quality(a: State, b: State, mine: torch.Tensor) -> set[str]:
    """Return the names of the columns that differ for some particles."""
    ours, theirs = a.poses.scores.columns(), b.poses.scores.columns()
    assert set(ours) == set(theirs)
    return {
        name
        for name, column in ours.items()
        if not torch.equal(column[mine].nan_to_num(-9e9), theirs[name][mine].nan_to_num(-9e9))
    }


def test_with_the_fsc_fixed_half_one_stays_to_the_bit_whatever_is_in_half_two(twice):
    mine = torch.from_numpy(twice.inputs.half == 1)
    assert len(twice.first) >= 2
    for ours, theirs in zip(twice.first, twice.replayed, strict=True):
        assert torch.equal(ours.halves[0], theirs.halves[0])
        assert torch.equal(ours.references[0], theirs.references[0])
        for a, b in zip(ours.noise[0], theirs.noise[0], strict=True):
            assert torch.equal(a, b)
        assert ours.group_scale[0] == theirs.group_scale[0]
        assert ours.shift_sigma_A[0] == pytest.approx(theirs.shift_sigma_A[0], abs=0, nan_ok=True)
        if ours.own_share is not None:
            assert torch.equal(ours.own_share[0], theirs.own_share[0])
        assert torch.equal(ours.poses.rotations[mine], theirs.poses.rotations[mine])
        assert torch.equal(ours.poses.shift_A[mine], theirs.poses.shift_A[mine])
        if ours.poses.optics is not None:
            assert torch.equal(ours.poses.optics[mine], theirs.poses.optics[mine])
        competing = [
            None if s.poses.others is None else s.poses.others.at(mine[s.poses.others.row])
            for s in (ours, theirs)
        ]
        if None not in competing:
            assert torch.equal(competing[0].row, competing[1].row)
            assert torch.equal(competing[0].rotations, competing[1].rotations)
            assert torch.equal(competing[0].probability, competing[1].probability)
        is_last = ours is twice.first[-1]
        assert differing_quality(ours, theirs, mine) <= (AT_THE_END if is_last else set())


def test_half_two_itself_does_change(twice):
    theirs = torch.from_numpy(twice.inputs.half == 2)
    for a, b in zip(twice.first, twice.replayed, strict=True):
        assert not torch.equal(a.halves[1], b.halves[1])
        assert not torch.equal(a.references[1], b.references[1])
        assert not torch.equal(a.noise[1][0], b.noise[1][0])
        assert not torch.equal(a.poses.rotations[theirs], b.poses.rotations[theirs])


def test_the_fsc_reaches_the_next_reference_and_nothing_before_it(twice):
    mine = torch.from_numpy(twice.inputs.half == 1)
    ours, free = twice.first[0], twice.free[0]
    assert torch.equal(ours.halves[0], free.halves[0])
    assert torch.equal(ours.noise[0][0], free.noise[0][0])
    assert torch.equal(ours.poses.rotations[mine], free.poses.rotations[mine])
    assert not torch.equal(ours.evaluation.curves.corrected, free.evaluation.curves.corrected)
    assert not torch.equal(ours.references[0], free.references[0])


def test_the_schedule_is_told_of_both_halves_and_only_this(twice):
    fields = {field.name for field in dataclasses.fields(IterationRecord)}
    assert fields >= OF_BOTH_HALVES
    differs = set()
    for a, b in zip(twice.first[-1].history, twice.replayed[-1].history, strict=True):
        differs |= {n for n in fields if repr(getattr(a, n)) != repr(getattr(b, n))}
    # The resolution and the mean FSC come from the curves, which are fixed here. Counts of
    # particles are written down for people; no schedule reads them.
    assert differs
    assert differs - {"counts"} <= OF_BOTH_HALVES


def test_uncertainties_are_calibrated_by_both_halves_at_the_end_of_a_run(twice):
    mine = torch.from_numpy(twice.inputs.half == 1)
    ours, theirs = twice.first[-1], twice.replayed[-1]
    ratio = (theirs.poses.covariance[mine] / ours.poses.covariance[mine]).flatten(1)
    ratio = ratio[~ratio.isnan().any(1)]  # a stochastic run has not drawn all
    # One factor for all that the iteration used: no pose, shift or shape comes from the other half.
    factor = ratio[:, :1]
    torch.testing.assert_close(ratio, factor.expand_as(ratio), rtol=1e-9, atol=0)
    used = factor[(factor - 1).abs() > 1e-9]
    torch.testing.assert_close(used, used[:1].expand_as(used), rtol=1e-9, atol=0)
    first = [s.poses.covariance[mine] for s in (twice.first[0], twice.replayed[0])]
    torch.testing.assert_close(*first, rtol=0, atol=0, equal_nan=True)


def test_both_halves_start_from_the_same_low_passed_map(one_iteration):
    start = load_state(one_iteration, 0).state
    assert torch.equal(start.references[0], start.references[1])
    spectrum = torch.fft.fftn(start.references[0]).abs()
    k = torch.fft.fftfreq(48, 1 / 48)
    radius = (k[:, None, None] ** 2 + k[None, :, None] ** 2 + k[None, None] ** 2).sqrt()
    limit = 48 * 3.6 / 30.0
    assert float(spectrum[radius > limit + 2].max() / spectrum.max()) < 1e-3
