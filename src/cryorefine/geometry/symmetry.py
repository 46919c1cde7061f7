"""Point groups under the names and axis conventions of RELION, Xmipp and cryoSPARC."""

import math
import re
from dataclasses import dataclass
from functools import lru_cache

import torch
from jaxtyping import Float
from torch import Tensor

from cryorefine.errors import InputError
from cryorefine.geometry.rotation import geodesic_angle, matrix_from_rotvec

__all__ = ["SymmetryGroup", "parse_symmetry"]

_PHI = (1 + math.sqrt(5)) / 2
"""The golden ratio: the axes of an icosahedron lie at permutations of (0, 1, φ)."""

_ALIASES = {
    "i": "i2",
    "i222": "i1",
    "i222r": "i2",
    "in25": "i3",
    "in25r": "i4",
    "tet": "t",
    "oct": "o",
    "icos": "i2",
}
_MIRRORED = re.compile(r"(ci|cs|s\d+|c\d+[vh]|d\d+[vh]|t[dh]|oh|i\d?h)$")
_SPELLINGS = "c1, c2, ..., d2, d3, ..., t, o, i1, i2, i3, i4, or d2y, d3y, ..., t222 (cryoSPARC)"


@dataclass(frozen=True, eq=False)
class SymmetryGroup:
    """A rotation group of the object.

    Attributes
    ----------
    name
        Canonical lower-case name: ``c1``, ``d7``, ``o``, ``i2``.
    matrices
        All rotations, float64, identity first. They act on object coordinates: with pose ``A``,
        ``A @ matrices[g]`` shows the same image of a symmetric object.
    """

    name: str
    matrices: Float[Tensor, "g 3 3"]

    @property
    def order(self) -> int:
        """Number of rotations in the group."""
        return len(self.matrices)

    @property
    def shifts_A(self) -> Float[Tensor, "g 3"]:
        """Zero: a point group moves nothing."""
        return torch.zeros(self.order, 3, dtype=torch.float64)

    @property
    def point_group(self) -> Float[Tensor, "g 3 3"]:
        """All rotations."""
        return self.matrices

    def equivalents(self, pose: Float[Tensor, "*b 3 3"]) -> Float[Tensor, "*b g 3 3"]:
        """Return all poses that give the same image of a symmetric object, the given one first."""
        return pose[..., None, :, :] @ self.matrices.to(pose)

    def nearest(
        self, pose: Float[Tensor, "*b 3 3"], target: Float[Tensor, "*b 3 3"]
    ) -> Float[Tensor, "*b 3 3"]:
        """Return for each pose the equivalent one closest to ``target``."""
        if self.order == 1:
            return pose
        # The chord between A S and B is shortest where tr(Bᵀ A S) is largest: it takes nine
        # products for each S, and A S itself is needed of one S only.
        overlap = (pose.mT @ target).flatten(-2) @ self.matrices.to(pose).flatten(1).T
        return pose @ self.matrices.to(pose)[overlap.argmax(-1)]

    def distance(
        self, a: Float[Tensor, "*b 3 3"], b: Float[Tensor, "*b 3 3"]
    ) -> Float[Tensor, "*b"]:
        """Return the geodesic angle between two poses, radians, minimised over the group."""
        return geodesic_angle(self.nearest(a, b), b)


def _about(axis: tuple[float, float, float], fold: int) -> Tensor:
    vector = torch.tensor(axis, dtype=torch.float64)
    return matrix_from_rotvec(vector / vector.norm() * (2 * math.pi / fold))


def _generators(name: str) -> list[Tensor]:
    if name[0] == "c":
        return [_about((0, 0, 1), int(name[1:]))]
    if name[0] == "d":
        twofold = (0, 1, 0) if name.endswith("y") else (1, 0, 0)
        return [_about((0, 0, 1), int(name[1:].removesuffix("y"))), _about(twofold, 2)]
    if name == "t222":
        return [_about((1, 1, 1), 3), _about((0, 0, 1), 2)]
    if name == "t":
        return [_about((0, 0, 1), 3), _about((0, math.sqrt(2.0), 1), 2)]
    if name == "o":
        return [_about((1, 1, 1), 3), _about((0, 0, 1), 4)]
    # The icosahedral settings are exact in the golden ratio: 2-folds on the axes for i1 and i2,
    # a 5-fold on z and a 2-fold on y for i3 and i4.
    if name == "i1":
        return [_about((0, 0, 1), 2), _about((_PHI, 0, 1), 5), _about((1, 1, 1), 3)]
    if name == "i2":
        return [_about((0, 0, 1), 2), _about((1, 0, _PHI), 5), _about((1, 1, 1), 3)]
    side = -1.0 if name == "i3" else 1.0
    return [_about((0, 0, 1), 5), _about((0, 1, 0), 2), _about((2 * side, 0, 1), 5)]


def _generate_group(generators: list[Tensor]) -> Float[Tensor, "g 3 3"]:
    """Return all products of rotations, identity first, snapped to machine precision."""
    elements = [torch.eye(3, dtype=torch.float64)]
    frontier = elements
    while frontier:
        found = []
        for element in frontier:
            for generator in generators:
                product = element @ generator
                known = torch.stack(elements + found)
                if (known - product).abs().amax((-1, -2)).min() > 1e-6:
                    u, _, vh = torch.linalg.svd(product)
                    found.append(u @ vh)
        elements = elements + found
        frontier = found
    matrices = torch.stack(elements)
    exact = matrices.round()
    return torch.where((matrices - exact).abs() < 1e-12, exact, matrices)


@lru_cache(maxsize=64)
def parse_symmetry(name: str) -> SymmetryGroup:
    """Return the point group of a RELION or Xmipp name, upper or lower case.

    Known are ``cN``, ``dN`` (N-fold on z, 2-fold on x), ``t`` (3-fold on z), ``o`` (4-folds on
    x, y, z), ``i1`` to ``i4`` and the aliases ``i`` (= i2), ``i222``, ``i222r``, ``in25``,
    ``in25r``. Where cryoSPARC's axes lie otherwise, they have names of their own: ``dNy`` (2-fold
    on y), which for even N is ``dN``, and ``t222`` (2-folds on x, y, z).

    Raises
    ------
    InputError
        For an unknown name, and for groups with mirrors or inversion, which no chiral molecule
        can have.
    """
    text = name.strip().lower()
    text = _ALIASES.get(text, text)
    if _MIRRORED.match(text):
        raise InputError(
            f"symmetry '{name}' contains mirrors or inversion, which proteins and nucleic acids "
            "cannot have",
            where="--symmetry",
            do=f"give its group of rotations ({_SPELLINGS})",
        )
    match = re.fullmatch(r"(c|d)(\d{1,3})|(d)(\d{1,3})y|t|t222|o|i[1-4]", text)
    fold = "" if match is None else match.group(2) or match.group(4)
    if match is None or (fold and int(fold) < 1):
        raise InputError(
            f"unknown symmetry '{name}'", where="--symmetry", do=f"use one of {_SPELLINGS}"
        )
    if fold:
        text = f"{text[0]}{int(fold)}{'y' if text.endswith('y') else ''}"
    return SymmetryGroup(name=text, matrices=_generate_group(_generators(text)))
