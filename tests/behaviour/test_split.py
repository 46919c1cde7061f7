"""Half sets drawn once, or anew at every iteration; the maps name their halves."""

import mrcfile
import numpy as np
import pytest
import torch

from cryorefine.events import read_events
from cryorefine.io.mrc import read_volume
from cryorefine.io.star import read_star
from cryorefine.run.loop import refine, resume

from .conftest import settings_for

PER_MICROGRAPH = 8  # of eighty_set


@pytest.fixture(scope="module")
def split(eighty_set, tmp_path_factory):
    folder = tmp_path_factory.mktemp("split") / "run"
    refine(settings_for(eighty_set, alignment="global", iterations=2, split="stochastic"), folder)
    return folder


def halves(folder):
    return read_star(folder / "particles.star")["particles"].integers("rlnRandomSubset")


def test_half_sets_are_drawn_anew_by_whole_micrographs_at_every_iteration(split):
    first, second = halves(split / "iteration_001"), halves(split / "iteration_002")
    assert (first != second).sum() >= 2 * PER_MICROGRAPH  # whole micrographs changed sides
    for half in (first, second):
        assert (half == 1).sum() == 40
        assert all(len(set(m)) == 1 for m in half.reshape(-1, PER_MICROGRAPH))
    state = read_star(split / "iteration_002" / "particles.star")["particles"]
    assert set(state.integers("cryorefineIsInMaps")) == {1}


def test_stochastic_half_sets_are_warned_of_and_told(split):
    warnings = [e.message for e in read_events(split / "events.jsonl") if e.kind == "warning"]
    assert sum("--split stochastic" in w and "too good" in w for w in warnings) == 1
    assert "half maps are not independent" in (split / "methods.txt").read_text()
    assert "--split stochastic" in (split / "summary.txt").read_text()


def test_fixed_half_sets_stay_and_stochastic_ones_go_back_to_them(eighty_set, split):
    run = settings_for(eighty_set, alignment="global", iterations=1)
    refine(run, split.parent / "fixed")
    resume(split, changes={"split": "fixed", "iterations": 2})
    fixed = halves(split.parent / "fixed")
    for number in (3, 4):
        assert (halves(split / f"iteration_{number:03d}") == fixed).all()


def test_a_reconstruction_with_stochastic_half_sets_leaves_those_of_the_file(
    eighty_set, split, tmp_path
):
    how = {"particles": split / "iteration_001" / "particles.star", "reference": (),
           "alignment": "none"}  # fmt: skip
    refine(settings_for(eighty_set, **how), tmp_path / "fixed")
    refine(settings_for(eighty_set, **how, split="stochastic", seed=3), tmp_path / "stochastic")
    given = halves(split / "iteration_001")
    assert (halves(tmp_path / "fixed") == given).all()
    assert (halves(tmp_path / "stochastic") != given).any()


def test_maps_name_their_half_maps_in_header_and_table_and_the_plain_average_is_one(split):
    names = ("map.mrc", "map_sharpened.mrc", "map_average.mrc")
    for name in names:
        with mrcfile.open(split / name) as mrc:
            labels = [label.decode() if isinstance(label, bytes) else str(label)
                      for label in mrc.get_labels()]  # fmt: skip
        assert "half maps: half1.mrc half2.mrc" in labels
    table = read_star(split / "map.star")["maps"]
    assert tuple(table.text("cryorefineMapName")) == names
    for column in ("rlnUnfilteredMapHalf1", "rlnUnfilteredMapHalf2", "rlnMaskName"):
        assert all((split / name).exists() for name in table.text(column))
    assert np.allclose(table.floats("rlnPixelSize"), 5.0)
    average, first, second = (
        read_volume(split / name).data for name in ("map_average.mrc", "half1.mrc", "half2.mrc")
    )
    assert torch.allclose(average, (first + second) / 2, atol=1e-5 * float(average.abs().max()))
