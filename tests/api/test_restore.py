"""Restorations from Python and from the command line give the same files and say what they did."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

import cryorefine as cr
from cryorefine.cli.main import main
from cryorefine.io.mrc import read_volume
from tests.builders import refused
from tests.restore.pairs import VOXEL_A, make_pair, true_map


@pytest.fixture(scope="module")
def maps():
    pair = make_pair(true_map(32), noise_std=0.7, sigma_per_px=0.2)
    return tuple(cr.Volume(half.numpy(), VOXEL_A) for half in pair.halves)


@pytest.fixture
def files(maps, tmp_path) -> tuple[Path, Path]:
    for half, volume in enumerate(maps, 1):
        volume.write(tmp_path / f"half{half}.mrc")
    return tmp_path / "half1.mrc", tmp_path / "half2.mrc"


def test_several_restorations_are_done_in_their_order(maps):
    told = []
    made = cr.restore.apply(
        *maps, post_undershoot_sigmas=6, post_denoise=True, post_deconvolve=True,
        progress=told.append,
    )  # fmt: skip
    assert [step["name"] for step in made.steps] == ["denoise", "deconvolve", "undershoot"]
    assert told == [step["title"] for step in made.steps]
    assert not made.mixes_halves
    raw = cr.fsc(*maps, made.particle_mask)
    np.testing.assert_allclose(made.fsc.corrected, raw.corrected, atol=1e-6)
    assert not np.allclose(made.fsc_processed.corrected, made.fsc.corrected)
    for given, kept in zip(maps, made.raw_half_maps, strict=True):
        np.testing.assert_array_equal(given.data, kept.data)


@pytest.mark.parametrize(
    "name", ["align", "denoise", "filter_bank", "laplacian", "deconvolve", "difference"]
)
def test_each_restoration_has_a_function(maps, name):
    made = getattr(cr.restore, name)(*maps)
    assert [step["name"] for step in made.steps] == [name.replace("_", "-")]
    assert made.mixes_halves == (name == "difference")
    assert math.isfinite(made.map.data.sum())


def test_restorations_with_arguments_take_them(maps, tmp_path):
    ball = cr.Volume(np.ones((32, 32, 32)), VOXEL_A)
    ball.data[:, :, :16] = 0
    made = cr.restore.symmetrise(*maps, "c2", ball, angles_deg=(0, 90, 0))
    assert made.steps[0]["facts"]["group"] == "c2"
    np.testing.assert_array_equal(made.half_maps[0].data[..., :16], maps[0].data[..., :16])
    # The two-fold axis lies along the map's x: what comes from elsewhere has y and z turned round.
    turned = maps[0].data[(-np.arange(32)) % 32][:, (-np.arange(32)) % 32]
    expected = (maps[0].data + turned) / 2
    np.testing.assert_allclose(made.half_maps[0].data[..., 16:], expected[..., 16:], atol=1e-5)
    masked = cr.restore.mask(*maps, ball)
    assert not masked.half_maps[1].data[..., :16].any()
    deep = cr.restore.undershoot(*maps, sigmas=2.0)
    assert deep.half_maps[0].data.min() > maps[0].data.min()
    log = tmp_path / "log"
    cr.restore.command(*maps, f"echo {{half}} >> {log}", shell=True)
    assert log.read_text() == "1\n2\n"


def test_what_cannot_be_done_is_refused_by_parameter(maps):
    with refused("post_warmth", "no such restoration"):
        cr.restore.apply(*maps, post_warmth=3)
    with refused("nothing to do"):
        cr.restore.apply(*maps)
    with refused("post_symmetry", "need each other"):
        cr.restore.apply(*maps, post_symmetry="c2")
    with refused("no program", "no_such_program"):
        cr.restore.command(*maps, "no_such_program {volume}")
    with refused("c1 has no copies"):
        cr.restore.symmetrise(*maps, "c1", np.ones((32, 32, 32)))
    with refused("half2"):
        cr.restore.denoise(maps[0], cr.Volume(maps[1].data[1:, 1:, 1:], VOXEL_A))


def called(*arguments) -> int:
    with pytest.raises(SystemExit) as end:
        main([str(argument) for argument in arguments])
    return int(end.value.code or 0)


def test_the_command_writes_maps_curves_what_was_done_and_a_picture(maps, files, tmp_path, capsys):
    folder = tmp_path / "out"
    how = ("--post-denoise", "--post-difference", "--output", folder)
    assert called("restore", *files, *how) == 0
    said = capsys.readouterr().out
    assert "raw half maps" in said
    assert "processed half maps   (no resolution)" in said
    assert "no longer independent" in said
    assert {path.name for path in folder.iterdir()} == {
        "map_processed.mrc", "half1_processed.mrc", "half2_processed.mrc", "disagreement.mrc",
        "mask.mrc", "fsc.star", "fsc_processed.star", "restorations.json", "restored.png",
    }  # fmt: skip
    record = json.loads((folder / "restorations.json").read_text())
    assert record["mixes_halves"]
    made = cr.restore.apply(*maps, post_denoise=True, post_difference=True)
    assert record == made.record
    np.testing.assert_array_equal(
        read_volume(folder / "half2_processed.mrc").data.numpy(), made.half_maps[1].data
    )
    for path, volume in zip(files, maps, strict=True):
        np.testing.assert_array_equal(read_volume(path).data.numpy(), volume.data)

    assert called("restore", *files, *how) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert called("restore", *files, *how, "--overwrite") == 0
    capsys.readouterr()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("mine")
    assert called("restore", *files, "--post-denoise", "--output", tmp_path / "other") == 2
    assert "holds something else" in capsys.readouterr().err


def test_difference_evaluation_on_its_own_keeps_the_average(maps):
    made = cr.restore.difference(*maps)
    before = (maps[0].data + maps[1].data) / 2
    after = (made.half_maps[0].data + made.half_maps[1].data) / 2
    np.testing.assert_allclose(after, before, atol=1e-6)
    assert set(made.maps) == {"disagreement"}
