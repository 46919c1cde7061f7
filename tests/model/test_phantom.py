from functools import lru_cache

import numpy as np
import pytest
from scipy.spatial import KDTree
from scipy.spatial.distance import pdist

from cryorefine.geometry.symmetry import parse_symmetry
from cryorefine.model.atoms import Atoms
from cryorefine.model.phantom import make_phantom

# (group, diameter): cyclic with and without a choice of centre, dihedral, polyhedral, and one so
# small that no helix fits into its wedge.
PARTICLES = [("c1", 100.0), ("c3", 60.0), ("d2", 60.0), ("o", 60.0), ("i2", 40.0)]


@lru_cache
def _phantom(name: str, diameter_A: float, seed: int = 1) -> Atoms:
    return make_phantom(parse_symmetry(name), diameter_A=diameter_A, seed=seed)


@pytest.mark.parametrize(("name", "diameter_A"), PARTICLES)
def test_every_rotation_of_the_group_maps_the_particle_onto_itself(name, diameter_A):
    xyz = _phantom(name, diameter_A).xyz_A
    tree = KDTree(xyz)
    for matrix in parse_symmetry(name).matrices.numpy():
        distance, partner = tree.query(xyz @ matrix.T)
        assert distance.max() < 1e-9
        assert len(np.unique(partner)) == len(xyz)


def test_a_particle_without_symmetry_has_none_about_the_axes():
    xyz = _phantom("c1", 100.0).xyz_A
    tree = KDTree(xyz)
    for name in ("c2", "c3", "d1"):
        for matrix in parse_symmetry(name).matrices[1:].numpy():
            # A few atoms may fall on others, half of them do not.
            assert np.median(tree.query(xyz @ matrix.T)[0]) > 1.0


@pytest.mark.parametrize(("name", "diameter_A"), PARTICLES)
def test_the_helices_are_right_handed_alpha_helices_in_every_unit(name, diameter_A):
    residues = _phantom(name, diameter_A).xyz_A.reshape(-1, 7, 3)
    alpha = residues[:, 1]
    steps = np.diff(alpha, axis=0)
    # Steps between neighbours in a chain; those from one helix to the next are mostly longer.
    within = np.linalg.norm(steps, axis=1) < 4.0
    np.testing.assert_allclose(np.linalg.norm(steps[within], axis=1), 3.8, atol=0.1)
    run = within[:-2] & within[1:-1] & within[2:]
    volume = np.einsum("ij,ij->i", np.cross(steps[:-2], steps[1:-1]), steps[2:])[run]
    assert len(volume) > 0.4 * len(alpha)
    assert (volume > 0).all()


@pytest.mark.parametrize(("name", "diameter_A"), PARTICLES)
def test_no_two_atoms_are_farther_apart_than_the_diameter(name, diameter_A):
    extent = pdist(_phantom(name, diameter_A).xyz_A).max()
    assert extent <= diameter_A
    if diameter_A >= 60:  # smaller ones cannot be filled with helices
        assert extent > 0.85 * diameter_A


@pytest.mark.parametrize(("name", "diameter_A"), PARTICLES)
def test_the_particle_is_centred(name, diameter_A):
    np.testing.assert_allclose(_phantom(name, diameter_A).xyz_A.mean(0), 0.0, atol=1e-9)


@pytest.mark.parametrize(("name", "diameter_A"), PARTICLES)
def test_every_atom_has_its_scattering_b_factor_and_occupancy(name, diameter_A):
    atoms = _phantom(name, diameter_A)
    n = len(atoms)
    assert n > 100
    assert n % parse_symmetry(name).order == 0
    assert atoms.xyz_A.shape == (n, 3)
    for per_atom in (atoms.type_index, atoms.bfactor_A2, atoms.occupancy):
        assert per_atom.shape == (n,)
    assert atoms.gaussian_a.shape == atoms.gaussian_b_A2.shape == (1, 5)
    assert set(atoms.type_index) == {0}
    assert set(atoms.bfactor_A2) == {20.0}


def test_a_seed_gives_the_same_particle_every_time_and_another_seed_another():
    first = _phantom("d2", 60.0).xyz_A
    again = make_phantom(parse_symmetry("d2"), diameter_A=60.0, seed=1).xyz_A
    other = make_phantom(parse_symmetry("d2"), diameter_A=60.0, seed=2).xyz_A
    assert np.array_equal(first, again)
    assert first.shape != other.shape or np.abs(first - other).max() > 1.0
