"""A run whose images contradict the symmetry says so, and one whose symmetry is right does not."""

import json
import math

import mrcfile
import numpy as np
import pytest
import torch

from cryorefine.evaluate.symmetry_agreement import is_contradicted
from cryorefine.io.mrc import write_stack
from cryorefine.run.checkpoint import load_state
from cryorefine.run.loop import refine

from .conftest import made_once, settings_for, simulate_set

TOLD = "the images contradict symmetry"


@pytest.fixture(scope="session")
def d2_set(tmp_path_factory):
    def make(folder):
        # Of four seeds, C4 leaves 0.009 to 0.19 of the map asymmetric: seed 0 is missed, as
        # docs/symmetry.md says of small shares; this one is clear.
        return simulate_set(folder, particles=480, box_px=32, pixel_angstrom=5.4, snr=0.3, seed=2)

    return made_once(tmp_path_factory, "d2_set", make)


@pytest.mark.parametrize(
    ("symmetry", "is_wrong"),
    [(s, False) for s in ("c2", "d2")]
    + [("c4", True), *(pytest.param(s, True, marks=pytest.mark.slow) for s in ("d7", "o", "i1"))],
)
def test_a_wrong_symmetry_is_told_in_log_summary_and_methods_and_a_right_one_nowhere(
    d2_set, tmp_path, symmetry, is_wrong
):
    told = []
    settings = settings_for(
        d2_set,
        particles=d2_set / "truth_particles.star",
        symmetry=symmetry,
        alignment="local",
        iterations=1,
        initial_lowpass_angstrom=30.0,
        compare_to=None,
    )
    summary = refine(settings, tmp_path / "run", listeners=(told.append,))
    gain, share = summary["symmetry_gain_nats"], summary["asymmetric_share"]
    assert (gain > 0) == is_wrong
    assert is_contradicted(gain, share) == is_wrong
    messages = [e.message for e in told if e.kind == "warning"]
    assert any(f"{TOLD} {symmetry}:" in text for text in messages) == is_wrong
    written = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert written["symmetry_gain_nats"] == gain
    methods = (tmp_path / "run" / "methods.txt").read_text()
    assert ("The images contradict the symmetry: " in methods) == is_wrong
    assert ("is not symmetric" in (tmp_path / "run" / "summary.txt").read_text()) == is_wrong
    assert (TOLD in (tmp_path / "run" / "events.jsonl").read_text()) == is_wrong
    evaluation = load_state(tmp_path / "run", 1).state.evaluation
    assert evaluation is not None
    assert (evaluation.symmetry_gain, evaluation.asymmetric_share) == (gain, share)


def test_what_was_not_measured_contradicts_nothing():
    assert not is_contradicted(math.nan, math.nan)
    assert not is_contradicted(100.0, 0.001)  # significant, and nearly symmetric
    assert not is_contradicted(-10.0, 0.5)  # asymmetric, and noise


def test_nothing_is_measured_without_a_symmetry(tiny_set, tmp_path):
    settings = settings_for(
        tiny_set, symmetry="c1", alignment="global", iterations=1, compare_to=None
    )
    summary = refine(settings, tmp_path / "run")
    assert summary["symmetry_gain_nats"] is None
    assert summary["asymmetric_share"] is None


def test_contrast_that_rises_across_the_images_contradicts_no_symmetry(tmp_path):
    data = simulate_set(
        tmp_path / "set", particles=480, box_px=32, pixel_angstrom=5.4, snr=0.3, symmetry="o"
    )
    with mrcfile.open(data / "particles.mrcs") as file:
        stack = np.array(file.data, np.float32)
    x = np.linspace(-1, 1, 32, dtype=np.float32)
    towards = np.random.default_rng(1).uniform(0, 2 * np.pi, len(stack))[:, None, None]
    slope = np.cos(towards) * x + np.sin(towards) * x[:, None]
    sloped = torch.from_numpy((stack * (1 + slope)).astype(np.float32))
    write_stack(data / "particles.mrcs", sloped, 5.4, half=False)
    settings = settings_for(
        data,
        particles=data / "truth_particles.star",
        symmetry="o",
        alignment="local",
        iterations=1,
        initial_lowpass_angstrom=30.0,
        compare_to=None,
    )
    summary = refine(settings, tmp_path / "run")
    print(summary["symmetry_gain_nats"], summary["asymmetric_share"])
    assert summary["symmetry_gain_nats"] < 0
    assert not is_contradicted(summary["symmetry_gain_nats"], summary["asymmetric_share"])
