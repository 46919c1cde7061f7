"""The command that finds a helix, from files to files."""

import json
import math

import pytest
import torch
from click.testing import CliRunner

import cryorefine as cr
from cryorefine.cli.main import cli
from cryorefine.geometry.helix import Helix
from cryorefine.restore.rigid import move_volume
from tests.builders import helical_map, refused


def written(tmp_path):
    volume = cr.Volume(helical_map(Helix(-33.0, 7.3), 48, 3.0, bfactor_A2=400).numpy(), 3.0)
    volume.write(tmp_path / "map.mrc")
    return volume


OPTIONS = ("--twist-range-deg", "-45", "-20", "--rise-range-angstrom", "5", "10")


@pytest.mark.slow
def test_the_command_finds_a_left_handed_helix_and_writes_what_it_found(tmp_path):
    volume = written(tmp_path)
    out = tmp_path / "found"
    arguments = ["helical-search", str(tmp_path / "map.mrc"), "--output", str(out), *OPTIONS]
    result = CliRunner().invoke(cli, [*arguments, "--resolution-angstrom", "9"])
    assert result.exit_code == 0, result.output
    assert "(left-handed)" in result.output
    record = json.loads((out / "helix.json").read_text())
    assert abs(record["twist_deg"] + 33.0) < 0.05
    assert abs(record["rise_A"] - 7.3) < 0.02
    assert "no two-fold axes" in result.output
    assert not record["two_fold"]["is_supported"]
    assert not record["is_dihedral"]
    assert "no two-fold axes" in (out / "landscape.html").read_text()
    imposed = cr.read_volume(out / "symmetrised.mrc")
    error = (imposed.data - volume.data)[4:-4].std() / volume.data.std()
    assert error < 0.05  # twist and rise are not exact
    assert {p.name for p in out.iterdir()} == {
        "helix.json", "landscape.html", "landscape.png", "symmetrised.mrc",
    }  # fmt: skip


@pytest.mark.slow
def test_dihedral_turns_the_two_fold_axis_that_is_found_onto_x_and_imposes_it(tmp_path):
    helix = Helix(33.0, 7.3, 1, True)
    truth = helical_map(helix, 48, 3.0, bfactor_A2=400)
    c, s = math.cos(math.radians(25.0)), math.sin(math.radians(25.0))
    turn = torch.tensor([[c, -s, 0], [s, c, 0], [0, 0, 1]], dtype=torch.float64)
    moved = move_volume(truth, turn, torch.tensor([0.0, 0.0, 0.3]))
    noise = torch.randn(truth.shape, generator=torch.Generator().manual_seed(1))
    cr.Volume((moved + moved.std() * noise).numpy(), 3.0).write(tmp_path / "map.mrc")
    out = tmp_path / "found"
    arguments = [
        "helical-search", str(tmp_path / "map.mrc"), "--output", str(out), "--symmetry", "D1",
        "--twist-range-deg", "20", "45", "--rise-range-angstrom", "5", "10",
        "--resolution-angstrom", "9",
    ]  # fmt: skip
    result = CliRunner().invoke(cli, arguments)
    assert result.exit_code == 0, result.output
    assert "turned onto x and imposed" in result.output
    record = json.loads((out / "helix.json").read_text())
    assert record["is_dihedral"]
    assert record["two_fold"]["is_supported"]
    assert abs(record["two_fold"]["agreement"] - 1) < 0.05
    made = torch.from_numpy(cr.read_volume(out / "symmetrised.mrc").data)
    over = made[1:, 1:].flip(0, 1)  # half a turn about x; voxel 0 has no partner
    assert float((over - made[1:, 1:])[4:-4].std() / made.std()) < 1e-3
    # On x is either of two axes that alternate: half a step takes one to the other.
    half = math.radians(helix.twist_deg / 2)
    c, s = math.cos(half), math.sin(half)
    step = torch.tensor([[c, -s, 0], [s, c, 0], [0, 0, 1]], dtype=torch.float64)
    other = move_volume(truth, step, torch.tensor([0.0, 0.0, helix.rise_A / 6]))
    middle = (slice(8, -8),) * 3
    pairs = [torch.stack([made[middle].flatten(), v[middle].flatten()]) for v in (truth, other)]
    assert max(float(torch.corrcoef(pair)[0, 1]) for pair in pairs) > 0.95


@pytest.mark.slow
def test_python_finds_the_same_from_two_halves(tmp_path):
    volume = written(tmp_path)
    found = cr.helical_search(
        volume, tmp_path / "map.mrc", twist_range_deg=(-45, -20), rise_range_angstrom=(5, 10)
    )
    assert abs(found.best.helix.twist_deg + 33.0) < 0.05
    assert found.ranges.resolution_A < 7.5  # of the FSC: the halves are one map


def test_impossible_symmetry_radius_and_resolution_are_refused(tmp_path):
    volume = written(tmp_path)
    for name in ("o", "d7y"):
        with refused("symmetry", f"a helix cannot have the symmetry {name}"):
            cr.helical_search(volume, symmetry=name)
    with refused("radius_angstrom", "a filament of 500 Å radius does not lie"):
        cr.helical_search(volume, radius_angstrom=500)
    with refused("resolution_angstrom", "detail of 3 Å cannot be used"):
        cr.helical_search(volume, resolution_angstrom=3.0)
