"""Maps and poses in another setting of their point group, from files to files."""

import numpy as np
import pytest
import torch
from click.testing import CliRunner

import cryorefine as cr
from cryorefine.cli.main import cli
from cryorefine.evaluate.symmetry_agreement import symmetry_agreement
from cryorefine.geometry.symmetry import parse_symmetry
from tests.builders import refused


def blobs(name, size_px=48, voxel_A=3.0):
    """Return a map of Gaussians, made of their coordinates: a few and all their copies."""
    points = torch.tensor([[2.0, 14.0, 5.0], [-3.0, 9.0, 12.0]], dtype=torch.float64)
    centres = (points @ parse_symmetry(name).matrices.mT).reshape(-1, 3)
    axis = torch.arange(size_px, dtype=torch.float64) - size_px // 2
    z, y, x = torch.meshgrid(axis, axis, axis, indexing="ij")
    volume = torch.zeros((size_px,) * 3, dtype=torch.float64)
    for cx, cy, cz in centres.tolist():
        volume += (-((x - cx) ** 2 + (y - cy) ** 2 + (z - cz) ** 2) / 5).exp()
    return cr.Volume(volume.numpy(), voxel_A)


def agreement(volume, name):
    return symmetry_agreement(torch.from_numpy(volume.data), parse_symmetry(name)).correlation


def converted(*arguments):
    result = CliRunner().invoke(cli, ["symmetry", "convert", *map(str, arguments)])
    assert result.exit_code == 0, result.output
    return result.output


@pytest.mark.slow
def test_a_map_shows_the_other_setting_after_conversion_and_no_longer_the_first(tmp_path):
    for source, target in (("i2", "i1"), ("i2", "i3"), ("t222", "T"), ("D7Y", "d7")):
        blobs(source).write(tmp_path / "map.mrc")
        out = tmp_path / f"{source}_{target}.mrc"
        said = converted(tmp_path / "map.mrc", "--from", source, "--to", target, "--output", out)
        assert str(out) in said
        made = cr.read_volume(out)
        assert agreement(made, target) > 0.97
        assert agreement(made, source) < 0.9


def test_axes_to_axes_moves_voxels_and_back_again_to_the_bit():
    noise = cr.Volume(np.random.default_rng(1).normal(size=(32, 32, 32)), 2.0)
    there = cr.symmetry.convert(noise, "i2", "i1")
    assert np.array_equal(np.sort(there.data, axis=None), np.sort(noise.data, axis=None))
    # i1 to i2 turns by 90° the other way about z, or 180° more: an element of the group either way.
    again = cr.symmetry.convert(there, "i1", "i2").data
    half_turn = np.roll(noise.data[:, ::-1, ::-1], 1, axis=(1, 2))
    assert np.array_equal(again, noise.data) or np.array_equal(again, half_turn)


def test_converted_poses_project_the_converted_map_as_the_poses_did_the_map(tmp_path):
    volume = blobs("t222")
    cr.simulate(
        output=tmp_path / "data", particles=6, box_px=32, pixel_angstrom=5.0, symmetry="t222", snr=1
    )
    table, out = tmp_path / "data" / "truth_particles.star", tmp_path / "t.star"
    converted(table, "--from", "t222", "--to", "t", "--output", out)
    before, after = cr.read_particles(table), cr.read_particles(out)
    np.testing.assert_array_equal(before.shift_A, after.shift_A)
    assert np.abs(before.rotations - after.rotations).max() > 0.1
    turned = cr.symmetry.convert(volume, "t222", "t")
    expected = cr.project(volume, before.rotations)
    # 1 % of interpolation each.
    assert np.abs(cr.project(turned, after.rotations) - expected).max() < 0.03 * expected.max()


def test_particles_without_poses_and_two_groups_are_refused(tmp_path):
    cr.simulate(output=tmp_path / "data", particles=4, box_px=32, pixel_angstrom=5.0, snr=1)
    particles = cr.read_particles(tmp_path / "data" / "particles.star")
    with refused("", "there are no poses to turn"):
        cr.symmetry.convert(particles, "i1", "i2")
    with refused("to", "c1 and d2 are not the same group"):
        cr.symmetry.convert(particles, "c1", "d2")


def test_operators_are_the_groups():
    assert cr.symmetry.operators("O").shape == (24, 3, 3)
