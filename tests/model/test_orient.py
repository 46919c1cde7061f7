import math

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from cryorefine.geometry.symmetry import parse_symmetry
from cryorefine.io.model import read_model
from cryorefine.model.orient import orienting_rotation
from tests.builders import refused

# The rotations that take a group's axes onto themselves: an assembly turned by one of these has
# its axes in place too.
NORMALISERS = {"d2": "o", "d3": "d6", "d7": "d14", "o": "o", "i1": "i1"}
GROUPS = ["c2", "c4", "d2", "d3", "d7", "t", "o", "i2", "i3"]


def _assembly(
    name: str, turn: np.ndarray, *, n_entities: int = 1, noise_A: float = 0.0, seed: int = 0
) -> list[list[np.ndarray]]:
    """Return chains of backbone atoms in every place of a group, turned, with errors."""
    rng = np.random.default_rng(seed)
    entities = []
    for _ in range(n_entities):
        chain = rng.normal(size=(40, 3)) * 10 + rng.normal(size=3) * 30
        copies = [chain @ g.T @ turn.T for g in parse_symmetry(name).matrices.numpy()]
        entities.append([c + noise_A * rng.normal(size=c.shape) for c in copies])
    return entities


def _turn(seed: int) -> np.ndarray:
    return Rotation.random(rng=np.random.default_rng(seed)).as_matrix()


def _misfit(name: str, matrix: np.ndarray) -> float:
    """Return how far the group, turned by a matrix, is from itself, in matrix entries."""
    group = parse_symmetry(name).matrices.numpy()
    turned = matrix @ group @ matrix.T
    return float(np.abs(turned[:, None] - group[None]).max((-1, -2)).min(1).max())


@pytest.mark.parametrize("name", GROUPS)
def test_a_turned_assembly_is_brought_back_to_the_groups_axes(name):
    turn = _turn(3)
    found = orienting_rotation(_assembly(name, turn), parse_symmetry(name))
    np.testing.assert_allclose(found @ found.T, np.eye(3), atol=1e-9)
    assert abs(np.linalg.det(found) - 1) < 1e-9
    assert _misfit(name, found @ turn) < 1e-6


@pytest.mark.parametrize(
    ("name", "seed"), [*((n, s) for n in ("d2", "d3", "d7", "o") for s in range(3)), ("i1", 0)]
)
def test_the_turn_itself_is_recovered_but_for_what_leaves_all_axes_in_place(name, seed):
    turn = _turn(seed)
    found = orienting_rotation(_assembly(name, turn, seed=seed), parse_symmetry(name))
    alike = parse_symmetry(NORMALISERS[name])
    distance = alike.distance(torch.from_numpy(found @ turn), torch.eye(3, dtype=torch.float64))
    assert float(distance) < 1e-6


@pytest.mark.parametrize("seed", range(3))
def test_the_axis_of_a_cyclic_assembly_is_brought_to_z(seed):
    turn = _turn(seed)
    found = orienting_rotation(_assembly("c4", turn, seed=seed), parse_symmetry("c4"))
    np.testing.assert_allclose(np.abs(found @ turn @ [0, 0, 1]), [0, 0, 1], atol=1e-9)


@pytest.mark.parametrize("name", ["c2", "c4", "c7", "d2", "d3", "d7", "t", "o", "i1"])
def test_an_assembly_that_stands_right_is_left_alone(name):
    found = orienting_rotation(_assembly(name, np.eye(3)), parse_symmetry(name))
    np.testing.assert_allclose(found, np.eye(3), atol=1e-6)


@pytest.mark.parametrize("name", ["c4", "d3", "o"])
def test_the_errors_of_real_models_and_several_chains_a_place_do_no_harm(name):
    turn = _turn(4)
    copies = _assembly(name, turn, n_entities=3, noise_A=0.3)
    found = orienting_rotation(copies, parse_symmetry(name))
    # 40 atoms with errors of 0.3 Å at some 35 Å from the centre fix a rotation to about
    # 0.3 √2 / (35 √40) = 2e-3; axes joined from two of them, to twice that.
    assert _misfit(name, found @ turn) < 0.02


@pytest.mark.parametrize("name", ["d3", "o"])
def test_the_smallest_turn_that_will_do_is_returned(name):
    small = Rotation.from_rotvec([0.05, -0.08, 0.03]).as_matrix()
    found = orienting_rotation(_assembly(name, small), parse_symmetry(name))
    np.testing.assert_allclose(found, small.T, atol=1e-6)


def test_without_symmetry_nothing_is_turned():
    assert np.array_equal(orienting_rotation([], parse_symmetry("c1")), np.eye(3))


@pytest.mark.parametrize(
    ("shown", "wanted"), [("c4", "d4"), ("c3", "c4"), ("d2", "o"), ("t", "o"), ("o", "i1")]
)
def test_an_assembly_that_lacks_the_symmetry_is_refused(shown, wanted):
    copies = _assembly(shown, _turn(1))
    with refused("--symmetry", f"do not show symmetry {wanted}", "or c1"):
        orienting_rotation(copies, parse_symmetry(wanted))


@pytest.mark.parametrize("name", ["d2", "d3", "c4"])
def test_an_assembly_that_lacks_a_chain_is_refused(name):
    copies = [chains[:-1] for chains in _assembly(name, _turn(1))]
    with refused(f"do not show symmetry {name}"):
        orienting_rotation(copies, parse_symmetry(name))


@pytest.mark.parametrize(("shown", "wanted"), [("d4", "c4"), ("o", "d4"), ("d7", "c2")])
def test_less_symmetry_than_the_assembly_has_may_be_asked_for(shown, wanted):
    turn, group = _turn(2), parse_symmetry(wanted).matrices.numpy()
    found = orienting_rotation(_assembly(shown, turn), parse_symmetry(wanted))
    # The wanted group is among the turned assembly's own rotations.
    own = found @ turn @ parse_symmetry(shown).matrices.numpy() @ turn.T @ found.T
    assert np.abs(group[:, None] - own[None]).max((-1, -2)).min(1).max() < 1e-6


def test_a_model_without_equivalent_chains_is_refused():
    with refused("do not show symmetry c2"):
        orienting_rotation([], parse_symmetry("c2"))
    lone = [[np.random.default_rng(0).normal(size=(40, 3))]]
    with refused("do not show symmetry c2"):
        orienting_rotation(lone, parse_symmetry("c2"))


@pytest.mark.parametrize(("file", "name"), [("5a1a.cif.gz", "d2"), ("3j9i.pdb.gz", "d7")])
def test_deposited_assemblies_are_brought_to_their_axes(shared_data, file, name):
    pytest.importorskip("gemmi", reason="reading atomic models needs gemmi")
    model = read_model(shared_data / "models" / file)
    centre = model.xyz_A.mean(0)
    group = parse_symmetry(name)
    copies = [[chain - centre for chain in chains] for chains in model.copies]
    found = orienting_rotation(copies, group)
    for chains in copies:
        centres = np.array([chain.mean(0) for chain in chains]) @ found.T
        if len(chains) != group.order:
            continue
        for matrix in group.matrices.numpy():
            apart = np.linalg.norm((centres @ matrix.T)[:, None] - centres[None], axis=-1)
            # Deposited coordinates are symmetric to a fraction of an ångström.
            assert apart.min(1).max() < 0.5
    assert any(len(chains) == group.order for chains in copies)
    assert math.isclose(np.linalg.det(found), 1.0, abs_tol=1e-9)
