"""Poses in the axes that each program has for a point group."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import cryorefine as cr
from cryorefine.formats.axes import turn_between
from cryorefine.formats.read import read_particles
from cryorefine.geometry.rotation import matrix_from_euler
from cryorefine.geometry.symmetry import parse_symmetry
from cryorefine.particles.formats.relion import write_relion
from tests.builders import refused
from tests.robustness.judged import ended_here
from tests.robustness.small_set import valid_set


@pytest.fixture
def star(tmp_path) -> Path:
    return valid_set().write(tmp_path / "set")


def rotations_of(path: Path) -> torch.Tensor:
    return matrix_from_euler(torch.from_numpy(read_particles(path).euler_rad))


def looks_alike(poses: torch.Tensor, others: torch.Tensor, group: str) -> torch.Tensor:
    """Return which poses show an object of this symmetry as the others do."""
    elements = parse_symmetry(group).matrices
    apart = (poses[:, None] @ elements - others[:, None]).abs().amax((-1, -2)).amin(1)
    return apart < 1e-4


@pytest.mark.parametrize(("group", "axes"), [("d7", "d7y"), ("t", "t222"), ("d2", "d2y")])
def test_poses_go_to_the_axes_of_cryosparc_and_come_back(star, tmp_path, group, axes):
    done = cr.convert(star, tmp_path / "p.cs", symmetry=group, verify=True)
    assert done.agreement is not None
    assert done.agreement.is_same
    cr.convert(tmp_path / "p.cs", tmp_path / "again.star", symmetry=group)
    poses, turned = rotations_of(star), rotations_of(tmp_path / "p.cs")
    again = rotations_of(tmp_path / "again.star")
    assert looks_alike(again, poses, group).all()
    # A view of the object along an axis of one setting is one along that axis of the other.
    turn = torch.as_tensor(cr.symmetry.rotation(group, axes))
    torch.testing.assert_close(turned, poses @ turn.T, atol=2e-6, rtol=0)
    assert ("turned" in done.axes) == (group != "d2")


def test_images_of_a_dihedral_particle_show_its_two_fold_on_x_before_and_on_y_after(star, tmp_path):
    table = read_particles(star)
    about_x, about_y = (
        torch.tensor(np.diag(d), dtype=torch.float64) for d in ([1, -1, -1], [-1, 1, -1])
    )
    pairs = torch.cat([rotations_of(star)[:10], rotations_of(star)[:10] @ about_x])
    from cryorefine.geometry.rotation import euler_from_matrix

    write_relion(star, replace(table, euler_rad=euler_from_matrix(pairs).numpy(), earlier={}))
    cr.convert(star, tmp_path / "p.cs", symmetry="d7")
    found = rotations_of(tmp_path / "p.cs")
    torch.testing.assert_close(found[10:], found[:10] @ about_y, atol=1e-5, rtol=0)


def test_without_the_option_poses_stay_and_it_is_said_where_axes_may_differ(star, tmp_path):
    done = cr.convert(star, tmp_path / "p.cs")
    assert "left as they are" in done.axes
    torch.testing.assert_close(
        rotations_of(tmp_path / "p.cs"), rotations_of(star), atol=2e-6, rtol=0
    )
    assert cr.convert(star, tmp_path / "p.xmd").axes == ""
    ended = ended_here(["convert", str(star), str(tmp_path / "q.cs"), "--symmetry", "d7"])
    assert ended.code == 0, ended.error
    torch.testing.assert_close(
        rotations_of(tmp_path / "q.cs"),
        rotations_of(star) @ torch.as_tensor(cr.symmetry.rotation("d7", "d7y")).T,
        atol=2e-6,
        rtol=0,
    )


def test_groups_whose_axes_are_the_same_are_left_alone(star, tmp_path):
    for group in ("c7", "o", "i1", "i2"):
        turn, names = turn_between(group, "relion", "cryosparc")
        assert torch.equal(turn, torch.eye(3, dtype=turn.dtype)), group
        assert names == (group, group)
    assert turn_between("i3", "xmipp", "cryosparc")[1] == ("i3", "i1")
    assert turn_between("d7y", "relion", "cryosparc")[1] == ("d7y", "d7y")
    assert turn_between("d7", "cryosparc", "xmipp")[1] == ("d7y", "d7")
    with refused("which axes cistem", "not known"):
        cr.convert(star, tmp_path / "c.star", to="cistem", symmetry="d7")
    with refused("unknown symmetry", "i9"):
        cr.convert(star, tmp_path / "c.cs", symmetry="i9")
