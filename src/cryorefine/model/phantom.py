"""A made-up protein: helices packed into a symmetric particle, for demonstrations and tests."""

import math
from collections.abc import Iterator

import numpy as np
import torch

from cryorefine.geometry.sphere import asymmetric_unit
from cryorefine.geometry.symmetry import SymmetryGroup
from cryorefine.model.atoms import Atoms

__all__ = ["make_phantom"]

_AXIS_RATIO = np.array(
    [1.0, 0.82, 0.68]
)  # of an asymmetric particle; a sphere could not be aligned
_HELIX_SPACING_A = 9.5
"""Distance of neighbouring α-helices in proteins, about 9 to 10 Å."""

_RISE_A, _TWIST_RAD = 1.5, math.radians(100.0)
"""Rise and turn of an α-helix for each residue."""

# One residue: distance from the helix axis, turn and rise relative to its Cα, for four backbone
# and three side-chain atoms.
_RESIDUE = np.array(
    [
        [1.55, -0.48, -0.9],
        [2.28, 0.00, 0.0],
        [1.66, 0.46, 1.1],
        [2.05, 0.40, 2.3],
        [3.30, 0.20, -0.3],
        [4.30, 0.35, 0.3],
        [5.20, 0.20, -0.5],
    ]
)


def _helix(start: np.ndarray, axis: np.ndarray, n_residues: int, phase: float) -> np.ndarray:
    helper = np.array([1.0, 0, 0]) if abs(axis[0]) < 0.8 else np.array([0, 1.0, 0])
    u = np.cross(axis, helper)
    u /= np.linalg.norm(u)
    v = np.cross(axis, u)
    i = np.arange(n_residues)[:, None]
    radius, turn, rise = _RESIDUE.T
    angle = phase + i * _TWIST_RAD + turn
    height = i * _RISE_A + rise
    points = (
        (radius * np.cos(angle))[..., None] * u
        + (radius * np.sin(angle))[..., None] * v
        + height[..., None] * axis
    )
    return (start + points).reshape(-1, 3)


def _lie_in_unit(points: np.ndarray, group: SymmetryGroup, margin_rad: float = 0.0) -> np.ndarray:
    """Tell which points have directions within the asymmetric unit of a group."""
    unit = torch.from_numpy(points / np.linalg.norm(points, axis=1, keepdims=True))
    return asymmetric_unit(unit, group, margin_rad=margin_rad).numpy()


def _candidates(
    group: SymmetryGroup, radius: float, ratio: np.ndarray, seed: int
) -> Iterator[tuple[np.ndarray, np.ndarray, int, float]]:
    """Yield the middle, axis, length and phase of random helices that may lie in the unit.

    The unit is bounded by planes through the origin, and a helix surrounds its middle: one whose
    middle lies beyond a plane has atoms beyond it.
    """
    rng = np.random.default_rng(seed)
    drawn = []
    for _ in range(4000):
        n_residues = int(rng.integers(8, 22))
        axis = rng.normal(size=3)
        axis /= np.linalg.norm(axis)
        centre = rng.normal(size=3)
        centre *= radius * rng.random() ** (1 / 3) / np.linalg.norm(centre)
        drawn.append((centre * ratio, axis, n_residues, rng.random() * 7))
    centres = np.stack([centre for centre, *_ in drawn])
    # A margin far above rounding; whether a helix lies within is decided by its atoms.
    for row in np.flatnonzero(_lie_in_unit(centres, group, margin_rad=1e-6)):
        yield drawn[row]


def _gap(points: np.ndarray, others: np.ndarray) -> float:
    """Return the distance of the nearest two points, infinite where there is none."""
    return float(np.linalg.norm(points[:, None] - others[None], axis=-1).min(initial=math.inf))


def make_phantom(group: SymmetryGroup, *, diameter_A: float, seed: int) -> Atoms:
    """Build a particle of packed α-helices with exact symmetry.

    Parameters
    ----------
    group
        Its point group; each asymmetric unit holds the same helices.
    diameter_A
        Longest extent, 40 Å at least.
    seed
        The same seed gives the same particle.

    Returns
    -------
    Atoms with carbon-like scattering and a B-factor of 20 Å², centred.
    """
    radius = diameter_A / 2
    ratio = _AXIS_RATIO if group.order == 1 else np.ones(3)
    hole = 0.25 * radius if group.order > 4 else 0.0
    helices: list[np.ndarray] = []
    axes = np.empty((0, 3))
    for centre, axis, n_residues, phase in _candidates(group, radius, ratio, seed):
        line = centre + axis * np.linspace(-0.5, 0.5, 9)[:, None] * n_residues * _RISE_A
        # First, and first of its middle, since a particle that is nearly full has room for few.
        if _gap(axes, centre[None]) < _HELIX_SPACING_A or _gap(axes, line) < _HELIX_SPACING_A:
            continue
        points = _helix(centre - axis * n_residues * _RISE_A / 2, axis, n_residues, phase)
        scaled = np.linalg.norm(points / ratio, axis=1)
        if scaled.max() > radius or scaled.min() < hole:
            continue
        if not _lie_in_unit(points, group).all():
            continue
        helices.append(points)
        axes = np.concatenate([axes, line])
    if not helices:
        # A particle too small for the wedge of its group still gets one short helix a unit.
        seed_point = np.array([0.8432, 0.1234, 0.5232]) * radius * 0.5
        helices.append(_helix(seed_point, np.array([0.0, 0, 1]), 6, 0.0))
    unit_atoms = np.concatenate(helices)
    xyz = np.concatenate([unit_atoms @ m.T for m in group.matrices.numpy()])
    if group.name.startswith("c"):  # others have no direction left to be off centre in
        xyz = xyz - xyz.mean(0)
    n = len(xyz)
    return Atoms(
        xyz_A=xyz,
        gaussian_a=np.array([[0.7307, 1.1951, 0.4563, 0.1247, 0.0]]),
        gaussian_b_A2=np.array([[36.9951, 11.2966, 2.8139, 0.3456, 0.0]]),
        type_index=np.zeros(n, np.int64),
        bfactor_A2=np.full(n, 20.0),
        occupancy=np.ones(n),
    )
