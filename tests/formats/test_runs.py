"""Files of any format give the run that their STAR file gives."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import cryorefine as cr
from cryorefine.formats.read import read_particles
from cryorefine.formats.registry import format_to_write
from cryorefine.io.mrc import read_volume
from tests.builders import refused, write_mrc
from tests.robustness.small_set import PIXEL_A, valid_set


@pytest.fixture(scope="module")
def star(tmp_path_factory) -> Path:
    """A set without what some formats cannot hold."""
    plain = valid_set()
    unheld = ("rlnOdd", "rlnEven", "rlnMagMat", "rlnBeamTilt")
    optics = {k: v for k, v in plain.optics.items() if not k.startswith(unheld)}
    particles = {k: v for k, v in plain.particles.items() if k != "rlnCtfBfactor"}
    folder = tmp_path_factory.mktemp("formats")
    return replace(plain, optics=optics, particles=particles).write(folder)


def map_of(particles: Path, folder: Path, **settings) -> torch.Tensor:
    cr.reconstruct(particles, output=folder, threads=2, **settings)
    return read_volume(folder / "map.mrc").data


@pytest.fixture(scope="module")
def star_map(star, tmp_path_factory) -> torch.Tensor:
    return map_of(star, tmp_path_factory.mktemp("run") / "star")


def assert_same_map(found: torch.Tensor, expected: torch.Tensor) -> None:
    """Compare maps whose poses differ by single precision: within a thousandth of their contrast.

    A pose that is wrong in its sign or unit changes a map of twenty images by as much as it has.
    """
    assert (found - expected).std() < 1e-3 * expected.std()


def test_cryosparc_poses_give_the_map_of_their_star_file_also_after_resampling(
    star, star_map, tmp_path
):
    path = star.parent / "p.cs"
    assert format_to_write(path).write(path, read_particles(star)) == ()
    fields = np.load(path)
    # cryoSPARC refined in a smaller box: shifts are in its pixels.
    fields["alignments3D/psize_A"] *= 2
    fields["alignments3D/shift"] /= 2
    np.save(path.with_suffix(".npy"), fields)
    path.with_suffix(".npy").rename(path)
    assert_same_map(map_of(path, tmp_path / "cs"), star_map)


def test_black_particles_of_cryosparc_are_made_white_and_stay_so_in_the_runs_own_file(
    star, star_map, tmp_path
):
    inverted = tmp_path / "p.cs"
    write_mrc(tmp_path / "stack.mrcs", -valid_set().images, pixel_A=PIXEL_A)
    table = replace(
        read_particles(star), is_inverted=True, stacks=(tmp_path / "stack.mrcs",), source=tmp_path
    )
    assert format_to_write(inverted).write(inverted, table) == ()
    run = tmp_path / "run"
    assert_same_map(map_of(inverted, run), star_map)
    assert read_particles(run / "particles.star").is_inverted
    uids = np.load(inverted)["uid"]
    assert [int(v) for v in cr.read_particles(run / "particles.star").cryosparcUid] == [
        int(v) for v in uids.astype(float)
    ]


def test_xmipp_particles_whose_stack_was_moved_are_found_by_image_root(star, star_map, tmp_path):
    path = tmp_path / "p.xmd"
    lost = format_to_write(path).write(path, read_particles(star))
    assert lost == ("half sets",)
    text = path.read_text()
    stack = str(star.parent / "stack.mrcs")
    assert stack in text
    path.write_text(text.replace(stack, "Runs/000123/extra/stack.mrcs"))
    with refused("Runs/000123/extra/stack.mrcs"):
        cr.read_particles(path).images([0])
    particles = cr.read_particles(path, image_root=star.parent)
    assert particles.images([0]).shape == (1, 24, 24)
    np.testing.assert_allclose(particles.euler_deg, cr.read_particles(star).euler_deg, atol=1e-5)
    found = map_of(path, tmp_path / "run", image_root=star.parent, seed=1)
    assert found.shape == star_map.shape


@pytest.mark.parametrize("name", ["p.cs", "p.xmd", "poses.pkl"])
def test_particles_of_other_formats_have_columns_by_relions_labels(star, tmp_path, name):
    path = tmp_path / name
    format_to_write(path).write(path, read_particles(star))
    particles = cr.read_particles(path)
    np.testing.assert_allclose(
        particles[3:5].rlnDefocusU, cr.read_particles(star)[3:5].rlnDefocusU, rtol=1e-6
    )
    particles[3:5].write(tmp_path / "two.star")
    again = cr.read_particles(tmp_path / "two.star")
    np.testing.assert_allclose(again.shift_A, particles[3:5].shift_A, atol=1e-6)


def test_a_longer_end_of_a_name_wins_where_stacks_of_one_name_lie_in_several_folders(tmp_path):
    from cryorefine.particles.formats.image_files import find_stack

    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "s.mrcs").touch()
    (tmp_path / "s.mrcs").touch()
    assert find_stack("/old/b/s.mrcs", Path("x.star"), tmp_path) == tmp_path / "b" / "s.mrcs"
    assert find_stack("/old/c/s.mrcs", Path("x.star"), tmp_path) == tmp_path / "s.mrcs"
    assert find_stack("/old/c/t.mrcs", Path("x.star"), tmp_path) == tmp_path / "t.mrcs"
