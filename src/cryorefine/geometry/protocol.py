"""What aligning, comparing and counting poses need to know of a particle's symmetry."""

from typing import Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

__all__ = ["Symmetry"]


@runtime_checkable
class Symmetry(Protocol):
    """Says which poses show the same image of the particle.

    :class:`~cryorefine.geometry.symmetry.SymmetryGroup` does; an infinite symmetry, such as that
    of a helix, could with those of its operators whose copies lie in the box. Its operators are no
    closed group: what sums over a group's elements, or divides the sphere among them, asks for a
    ``SymmetryGroup``.
    """

    @property
    def name(self) -> str:
        """What it is called, in lower case."""
        ...

    @property
    def order(self) -> int:
        """Number of operators."""
        ...

    @property
    def matrices(self) -> Float[Tensor, "g 3 3"]:
        """Rotations of the operators, float64, identity first; they act on object coordinates."""
        ...

    def equivalents(self, pose: Float[Tensor, "*b 3 3"]) -> Float[Tensor, "*b g 3 3"]:
        """Return all poses that give the same image, the given one first."""
        ...

    def nearest(
        self, pose: Float[Tensor, "*b 3 3"], target: Float[Tensor, "*b 3 3"]
    ) -> Float[Tensor, "*b 3 3"]:
        """Return for each pose the equivalent one closest to ``target``."""
        ...

    def distance(
        self, a: Float[Tensor, "*b 3 3"], b: Float[Tensor, "*b 3 3"]
    ) -> Float[Tensor, "*b"]:
        """Return the geodesic angle between two poses, radians, least over the operators."""
        ...
