"""The command that finds a helix, from files to files."""

import json

from click.testing import CliRunner

import cryorefine as cr
from cryorefine.cli.main import cli
from cryorefine.geometry.helix import Helix
from tests.builders import helical_map, refused


def written(tmp_path):
    volume = cr.Volume(helical_map(Helix(-33.0, 7.3), 48, 3.0, bfactor_A2=400).numpy(), 3.0)
    volume.write(tmp_path / "map.mrc")
    return volume


OPTIONS = ("--twist-range-deg", "-45", "-20", "--rise-range-angstrom", "5", "10")


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
    imposed = cr.read_volume(out / "symmetrised.mrc")
    error = (imposed.data - volume.data)[4:-4].std() / volume.data.std()
    assert error < 0.05  # twist and rise are not exact
    assert {p.name for p in out.iterdir()} == {
        "helix.json", "landscape.html", "landscape.png", "symmetrised.mrc",
    }  # fmt: skip


def test_python_finds_the_same_from_two_halves(tmp_path):
    volume = written(tmp_path)
    found = cr.helical_search(
        volume, tmp_path / "map.mrc", twist_range_deg=(-45, -20), rise_range_angstrom=(5, 10)
    )
    assert abs(found.best.helix.twist_deg + 33.0) < 0.05
    assert found.ranges.resolution_A < 7.5  # of the FSC: the halves are one map


def test_impossible_radius_and_resolution_are_refused(tmp_path):
    volume = written(tmp_path)
    with refused("radius_angstrom", "a filament of 500 Å radius does not lie"):
        cr.helical_search(volume, radius_angstrom=500)
    with refused("resolution_angstrom", "detail of 3 Å cannot be used"):
        cr.helical_search(volume, resolution_angstrom=3.0)
