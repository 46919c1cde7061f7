"""Turn an assembly so that its symmetry axes stand where its point group's convention has them."""

import math

import numpy as np
import torch
from scipy.spatial.transform import Rotation

from cryorefine.errors import InputError
from cryorefine.geometry.symmetry import SymmetryGroup

__all__ = ["orienting_rotation"]

_TOLERANCE_RAD = math.radians(3.0)
"""Angle by which chains of a deposited model may miss a symmetry element, which is far less than
the angle between two elements. Not measured."""


def _superposition(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, float]:
    """Return the rotation taking points ``a`` to ``b`` about the origin, and the r.m.s. misfit."""
    matrix, distance = _aligned(a, b)
    return matrix, distance / math.sqrt(len(a))


def _aligned(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, float]:
    """Return the rotation taking vectors ``a`` to ``b`` and the root of the summed squares left."""
    found = Rotation.align_vectors(b, a)
    return found[0].as_matrix(), float(found[1])


def _operators(copies: list[list[np.ndarray]]) -> np.ndarray:
    """Return the rotations about the origin that take one chain onto another, duplicates merged."""
    found: list[np.ndarray] = []
    for chains in copies:
        for target in chains[1:]:
            matrix, rms = _superposition(chains[0], target)
            if rms < 3.0 and all(_angle(matrix @ m.T) > _TOLERANCE_RAD for m in found):
                found.append(matrix)
    return np.array(found).reshape(-1, 3, 3)


def _angle(matrix: np.ndarray) -> float:
    return float(np.linalg.norm(Rotation.from_matrix(matrix).as_rotvec()))


def orienting_rotation(copies: list[list[np.ndarray]], group: SymmetryGroup) -> np.ndarray:
    """Return the rotation that brings an assembly's axes to the group's convention.

    Parameters
    ----------
    copies
        Equivalent chains' backbone atoms, positions relative to the assembly's centre.

    Raises
    ------
    InputError
        If the chains do not show the group's symmetry.

    Notes
    -----
    Takes two rotations of the group about different axes, finds two operators of the assembly
    with the same angles and the same angle between their axes, and aligns the axes. Of the fits
    that place the operators on all group elements, the smallest rotation is returned: a model
    that stands right already is left alone.
    """
    if group.order == 1:
        return np.eye(3)
    operators = _operators(copies)
    elements = group.matrices.numpy()
    wanted = [Rotation.from_matrix(m).as_rotvec() for m in elements[1:]]
    wanted.sort(key=np.linalg.norm)
    first = wanted[0]
    second = next(
        (v for v in wanted if np.linalg.norm(np.cross(v, first)) > 1e-3), None
    )  # None: a cyclic group has one axis only
    seen = [
        s * v for v in (Rotation.from_matrix(m).as_rotvec() for m in operators) for s in (1, -1)
    ]
    fits = []
    for a in seen:
        if abs(np.linalg.norm(a) - np.linalg.norm(first)) > _TOLERANCE_RAD:
            continue
        if second is None:
            fits.append(_turn(a, first))
            continue
        for b in seen:
            if abs(np.linalg.norm(b) - np.linalg.norm(second)) > _TOLERANCE_RAD:
                continue
            if np.linalg.norm(np.cross(a, b)) < 1e-2:
                continue
            matrix, misfit = _aligned(np.stack([a, b]), np.stack([first, second]))
            if misfit < 0.15:
                fits.append(matrix)
    fits = [m for m in fits if _is_symmetric(m, operators, group)]
    if not fits:
        raise InputError(
            f"the model's chains do not show symmetry {group.name}",
            where="--symmetry",
            do="give the symmetry of the assembly, or c1",
        )
    candidates = [g @ m for m in fits for g in elements]
    return min(candidates, key=_angle)


def _turn(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the shortest rotation that takes the direction of ``a`` to that of ``b``."""
    a, b = a / np.linalg.norm(a), b / np.linalg.norm(b)
    axis = np.cross(a, b)
    sine, cosine = np.linalg.norm(axis), float(a @ b)
    if sine < 1e-9:
        if cosine > 0:
            return np.eye(3)
        axis = np.cross(a, [1.0, 0, 0] if abs(a[0]) < 0.8 else [0, 1.0, 0])
        sine = np.linalg.norm(axis)
        return Rotation.from_rotvec(axis / sine * math.pi).as_matrix()
    return Rotation.from_rotvec(axis / sine * math.atan2(sine, cosine)).as_matrix()


def _is_symmetric(fit: np.ndarray, operators: np.ndarray, group: SymmetryGroup) -> bool:
    """Tell whether enough turned operators are group elements to generate the whole group."""
    turned = torch.from_numpy(fit @ operators @ fit.T)
    distance = (turned[:, None] - group.matrices[None]).flatten(-2).norm(dim=-1)
    hits = distance.argmin(1)[distance.amin(1) < 2 * math.sqrt(2) * math.sin(_TOLERANCE_RAD / 2)]
    # A chain's copies need not be all group elements (several entities, local symmetry), but the
    # elements found must be all but the identity.
    return len(set(hits.tolist()) | {0}) == group.order
