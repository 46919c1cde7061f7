import numpy as np
import pytest
import torch

import cryorefine as cr
from tests.builders import refused

from .conftest import SETTINGS
from .test_refinement import assert_same, files_below, interrupted


def test_a_run_shows_its_iterations_and_history(run):
    opened = cr.open_run(str(run))
    assert [iteration.number for iteration in opened.iterations] == [1, 2]
    assert [record.iteration for record in opened.history] == [1, 2]
    first, last = opened.iterations
    assert first.resolution_A == opened.history[0].resolution_A
    assert not np.array_equal(first.map.data, last.map.data)
    assert first.fsc.resolution_A() == pytest.approx(first.resolution_A)
    assert len(first.particles) == 120
    # The first search leaves most of these particles several poses.
    assert len(first.undecided) > 120
    assert 0 < first.undecided.probability.min() < 1
    assert opened.is_finished
    assert opened.settings.symmetry == "d2"


def test_looking_at_a_run_changes_nothing_in_it(run):
    before = files_below(run)
    opened = cr.open_run(run)
    opened.result.detached()
    assert len(opened.iterations[0].fsc.corrected) == 17
    assert opened.settings.threads == 2
    assert files_below(run) == before


def test_a_run_of_objects_resumes_to_the_bit_from_any_working_folder(
    small, run, tmp_path, monkeypatch
):
    work, elsewhere = tmp_path / "work", tmp_path / "elsewhere"
    work.mkdir()
    elsewhere.mkdir()
    monkeypatch.chdir(work)
    with pytest.raises(cr.StoppedEarly, match=r"open_run\('run'\)\.resume\(\)"):
        cr.refine(small.particles, small.reference, output="run", progress=interrupted, **SETTINGS)
    monkeypatch.chdir(elsewhere)
    stopped = cr.open_run(work / "run")
    assert not stopped.is_finished
    result = stopped.resume()
    assert stopped.is_finished
    assert_same(result, cr.open_run(run).result)
    assert len(list((work / "run" / "inputs").iterdir())) == 2


@pytest.mark.slow
def test_a_run_continues_with_other_settings_and_selected_particles(small, tmp_path):
    output = tmp_path / "run"
    settings = {**SETTINGS, "iterations": 1}
    cr.refine(small.particles, small.reference, output=output, **settings)
    opened = cr.open_run(output)
    surest = opened.result.particles.sigma_rotation_deg.argsort()[:90]
    result = opened.resume(particles=small.particles[np.sort(surest)], alignment="local")
    assert result.number == 2
    assert result.history[-1].mode == "local"
    assert len(result.particles) == 90
    assert opened.settings.particles.parent == (output / "inputs").absolute()


def test_changes_that_cannot_be_made_leave_the_run_as_it_was(small, run):
    before = files_below(run)
    opened = cr.open_run(run)
    with refused("keep_above_percentile=120"):
        opened.resume(keep_above_percentile=120)
    with refused("seed"):
        opened.resume(seed=3, particles=small.particles[:50])
    assert files_below(run) == before


def test_resuming_gives_the_callers_threads_back(run):
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        cr.open_run(run).resume()
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)


def test_a_folder_without_a_run_is_refused(tmp_path):
    with refused(str(tmp_path), "no run"):
        cr.open_run(tmp_path)
