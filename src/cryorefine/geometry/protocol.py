"""What aligning, reconstructing and counting poses need to know of a particle's symmetry."""

from typing import Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

__all__ = ["Symmetry"]


@runtime_checkable
class Symmetry(Protocol):
    """Says which poses show the same image of the particle, and which copies of a map are alike.

    An operator turns the object about the origin and then moves it, ``x → matrices[g] @ x +
    shifts_A[g]``; with each operator its inverse is one.

    :class:`~cryorefine.geometry.symmetry.SymmetryGroup` has rotations only.
    :class:`~cryorefine.geometry.helix.HelicalCopies` has those of a helix's infinitely many
    operators whose copies lie in a box: step k turns by k times the twist about z, and moves by k
    times the rise along z. They are no closed group; what divides the sphere among operators uses
    ``point_group``. A pose's shift changes with the operator by the projection of ``shifts_A``,
    which is not taken into account where poses are compared, and sums on the Fourier grid take a
    point group only: maps of helices are symmetrised by
    :func:`~cryorefine.helices.helical_symmetry.impose_helix`.
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

    @property
    def shifts_A(self) -> Float[Tensor, "g 3"]:
        """By how much each operator moves the object after it has turned it: (x, y, z), float64."""
        ...

    @property
    def point_group(self) -> Float[Tensor, "p 3 3"]:
        """Rotations of the operators that move nothing: a closed group, identity first."""
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
