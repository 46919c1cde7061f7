"""What a run leaves in particles.star is used when the file enters another run."""

import shutil

import numpy as np
import pytest
import torch

from cryorefine.io.mrc import read_volume
from cryorefine.io.star import read_star
from cryorefine.run.loop import refine, resume
from tests.builders import refused

from .conftest import settings_for

VALUES = ("GreyScale", "GreyOffset", "MagnificationXX", "MagnificationXY", "MagnificationYY")


@pytest.fixture(scope="module")
def data(eighty_set):
    return eighty_set


def run(data, folder, particles, **changes):
    values = {"alignment": "none", "reference": (), "compare_to": None, "threads": 1, **changes}
    return refine(settings_for(data, particles=particles, **values), folder)


def columns(folder):
    return read_star(folder / "particles.star")["particles"]


def difference(first, second):
    """Return how far the half maps of two runs are apart, relative to the first."""
    a, b = (torch.stack([read_volume(f / f"half{i}.mrc").data for i in (1, 2)])
            for f in (first, second))  # fmt: skip
    return float((a - b).norm() / a.norm())


@pytest.fixture(scope="module")
def weighted(data, tmp_path_factory):
    """A reconstruction with very different weights, some of them 0."""
    folder = tmp_path_factory.mktemp("weighted") / "run"
    run(data, folder, data / "truth_particles.star", weight_cc=True, min_cc_weight=0.0,
        reconstruct_min_tilt_deg=40.0, reconstruct_max_tilt_deg=140.0)  # fmt: skip
    return folder


@pytest.fixture(scope="module")
def valued(data, tmp_path_factory):
    """A local iteration that found grey values and magnifications."""
    folder = tmp_path_factory.mktemp("valued") / "run"
    run(data, folder, data / "truth_particles.star", alignment="local", iterations=1,
        refine_grey=True, refine_magnification=True, max_magnification_change_percent=9.0,
        max_grey_scale_change_percent=90.0)  # fmt: skip
    return folder


def test_reconstruct_uses_the_weights_of_the_file_and_can_ignore_them(data, weighted, tmp_path):
    star = weighted / "particles.star"
    summary = run(data, tmp_path / "used", star)
    before, after = (columns(f).floats("cryorefineWeight") for f in (weighted, tmp_path / "used"))
    assert before.min() == 0
    assert np.allclose(after, before, atol=1e-5)
    assert summary["n_used"] == (before > 0).sum() < 80
    assert "had the weights of an earlier run" in (tmp_path / "used" / "methods.txt").read_text()
    whole = run(data, tmp_path / "ignored", star, file_weights=False)
    assert whole["n_used"] == 80
    assert set(columns(tmp_path / "ignored").floats("cryorefineWeight")) == {1.0}
    assert "had the weights" not in (tmp_path / "ignored" / "methods.txt").read_text()
    # The noise is measured against other first references: the maps are not the same to the bit.
    assert difference(weighted, tmp_path / "used") < 0.03
    assert difference(weighted, tmp_path / "ignored") > 0.2


def test_weights_that_are_asked_for_replace_those_of_the_file(data, weighted, tmp_path):
    star = weighted / "particles.star"
    run(data, tmp_path / "run", star, weight_cc=True)
    weights = columns(tmp_path / "run").floats("cryorefineWeight")
    # From the lowest percentile's 0.1 to 1: a product with the file's would have its zeros.
    assert weights.min() / weights.max() > 0.1


def test_a_refinement_starts_from_a_map_with_the_weights_of_the_file(data, weighted, tmp_path):
    how = {"alignment": "local", "iterations": 1}
    run(data, tmp_path / "used", weighted / "particles.star", **how)
    run(data, tmp_path / "ignored", weighted / "particles.star", file_weights=False, **how)
    first, second = (
        read_volume(tmp_path / n / "iteration_000" / "reference1.mrc").data
        for n in ("used", "ignored")
    )
    assert float((first - second).norm() / first.norm()) > 0.1
    # Poses that are found anew are weighed anew: all alike, as nothing was asked for.
    assert set(columns(tmp_path / "used").floats("cryorefineWeight")) == {1.0}


def test_grey_values_and_magnifications_of_the_file_are_begun_with(data, valued, tmp_path):
    before = columns(valued)
    assert before.floats("cryorefineMagnificationXX").std() > 1e-3
    run(data, tmp_path / "used", valued / "particles.star")
    after = columns(tmp_path / "used")
    for name in VALUES:
        a, b = (c.floats(f"cryorefine{name}") for c in (before, after))
        assert np.abs(a - b).max() < 0.02 * max(np.ptp(a), 1e-3), name
    run(data, tmp_path / "ignored", valued / "particles.star", file_values=False)
    assert not any(f"cryorefine{name}" in columns(tmp_path / "ignored") for name in VALUES)
    # As the run itself would have gone on.
    going_on = shutil.copytree(valued, tmp_path / "going_on")
    resume(going_on, changes={"alignment": "none", "refine_grey": False,
                              "refine_magnification": False})  # fmt: skip
    used, ignored = (difference(going_on, tmp_path / name) for name in ("used", "ignored"))
    assert used < 0.5 * ignored


def test_defocus_of_an_earlier_run_is_not_changed_twice(data, tmp_path):
    how = {"alignment": "local", "iterations": 1, "refine_defocus": True}
    run(data, tmp_path / "first", data / "truth_particles.star", **how)
    run(data, tmp_path / "second", tmp_path / "first" / "particles.star")
    first, second = (columns(tmp_path / n) for n in ("first", "second"))
    assert np.ptp(first.floats("cryorefineDefocusChange")) > 1
    assert np.allclose(first.floats("rlnDefocusU"), second.floats("rlnDefocusU"), atol=1e-3)
    assert np.abs(second.floats("cryorefineDefocusChange")).max() == 0


def test_measures_go_along_where_nothing_new_is_measured(data, valued, tmp_path):
    run(data, tmp_path / "run", valued / "particles.star", max_energy=1.3)
    before, after = columns(valued), columns(tmp_path / "run")
    row = {name: i for i, name in enumerate(before.text("rlnImageName"))}
    at = [row[name] for name in after.text("rlnImageName")]
    # The correlation of the last local iteration stays; that of this one is new.
    assert np.allclose(
        after.floats("cryorefineCost"), before.floats("cryorefineCost")[at], atol=1e-6
    )
    assert not np.allclose(
        after.floats("cryorefineCorrelation"), before.floats("cryorefineCorrelation")[at], atol=1e-4
    )
    rejected = read_star(tmp_path / "run" / "rejected_particles.star")["particles"]
    assert 0 < len(rejected) == 80 - len(after)
    at = [row[name] for name in rejected.text("rlnImageName")]
    for label in ("cryorefineScore", "cryorefineWeight"):
        assert np.allclose(rejected.floats(label), before.floats(label)[at], rtol=1e-5, atol=1e-6)


def test_particles_that_a_run_never_weighed_count_in_a_reconstruction(data, tmp_path):
    run(data, tmp_path / "drawn", data / "truth_particles.star", alignment="stochastic",
        stochastic_subset=10, iterations=1)  # fmt: skip
    assert (columns(tmp_path / "drawn").floats("cryorefineWeight") == 0).sum() == 60
    assert run(data, tmp_path / "run", tmp_path / "drawn" / "particles.star")["n_used"] == 80


@pytest.mark.parametrize("value", ["-1", "nan", "abc"])
def test_odd_weights_are_refused_by_line_unless_they_are_ignored(data, weighted, tmp_path, value):
    star = tmp_path / "odd.star"
    lines = (weighted / "particles.star").read_text().split("\n")
    at = lines.index("data_particles")
    labels = [line.split()[0][1:] for line in lines[at:] if line.startswith("_")]
    row = max(i for i, line in enumerate(lines) if line.strip())
    words = lines[row].split()
    words[labels.index("cryorefineWeight")] = value
    name = labels.index("rlnImageName")
    stack = data / "particles.mrcs"
    lines[row] = " ".join(words)
    text = "\n".join(lines).replace(words[name].split("@")[1], str(stack))
    star.write_text(text)
    with refused(f"line {row + 1}", "cryorefineWeight"):
        run(data, tmp_path / "run", star)
    run(data, tmp_path / "run", star, file_weights=False)
