"""The command that finds the axes of a map, from files to files."""

import json

import numpy as np
import torch
from click.testing import CliRunner

import cryorefine as cr
from cryorefine.cli.main import cli
from cryorefine.evaluate.symmetry_agreement import symmetry_agreement
from cryorefine.geometry.symmetry import parse_symmetry
from tests.builders import refused
from tests.symmetry.clouds import VOXEL_A, cloud


def called(*arguments):
    return CliRunner().invoke(cli, ["symmetry", "find", *map(str, arguments)])


def test_the_command_turns_half_maps_to_the_axes_that_it_finds(tmp_path):
    truth = cloud("d3", noise=0.1)
    halves = [tmp_path / f"half{i}.mrc" for i in (1, 2)]
    for path, half in zip(halves, truth.halves, strict=True):
        cr.Volume(half.numpy(), VOXEL_A).write(path)
    out = tmp_path / "found"
    result = called(*halves, "--output", out, "--groups", "c3 d3y,c6")
    assert result.exit_code == 0, result.output
    assert "d3y   yes" in result.output
    assert "c6    no " in result.output
    record = json.loads((out / "symmetry.json").read_text())
    assert record["symmetry"] == "d3y"
    assert {p.name for p in out.iterdir()} == {
        "symmetry.json", "map_oriented.mrc", "half1_oriented.mrc", "half2_oriented.mrc",
    }  # fmt: skip
    made = torch.from_numpy(cr.read_volume(out / "map_oriented.mrc").data)
    assert symmetry_agreement(made, parse_symmetry("d3y")).correlation > 0.9
    assert symmetry_agreement(made, parse_symmetry("d3")).correlation < 0.6
    assert "not empty" in str(called(*halves, "--output", out).exception)


def test_a_group_that_the_map_does_not_show_is_said_to_be_so_and_no_map_is_written(tmp_path):
    cr.Volume(cloud("c1").map.numpy(), VOXEL_A).write(tmp_path / "map.mrc")
    result = called(tmp_path / "map.mrc", "--groups", "D2", "--output", tmp_path / "found")
    assert result.exit_code == 0, result.output
    assert "d2    no " in result.output
    assert "symmetry  c1" in result.output
    assert [p.name for p in (tmp_path / "found").iterdir()] == ["symmetry.json"]


def test_impossible_folds_and_unequal_halves_are_refused():
    volume = cr.Volume(np.ones((32, 32, 32)), 4.0)
    with refused("max_fold", "no axes of 1 fold"):
        cr.symmetry.find(volume, max_fold=1)
    with refused("map2", "32 voxels of 3 Å"):
        cr.symmetry.find(volume, cr.Volume(volume.data, 3.0))
