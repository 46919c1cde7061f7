"""Helices: how a filament repeats along z, and the copies of a subunit that lie in a box."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from cryorefine.errors import InputError
from cryorefine.geometry.rotation import geodesic_angle
from cryorefine.geometry.symmetry import SymmetryGroup, parse_symmetry

__all__ = ["HelicalCopies", "Helix"]


@dataclass(frozen=True)
class Helix:
    """How a filament along z repeats.

    One step turns the object by the twist about z, from x towards y, and moves it by the rise
    along +z: ``V(r, φ + twist, z + rise) = V(r, φ, z)``. A positive twist is a right-handed
    helix, as in RELION.

    Attributes
    ----------
    twist_deg
        Turn of a step, brought to -180° (excluded) to 180°.
    rise_A
        Move of a step, positive.
    fold
        Order of the rotation axis along z (Cn).
    is_dihedral
        Whether there is a two-fold axis along x, too.

    Raises
    ------
    InputError
        If the rise is not positive, or a number is not finite or no order of an axis.
    """

    twist_deg: float
    rise_A: float
    fold: int = 1
    is_dihedral: bool = False

    def __post_init__(self) -> None:
        if not (math.isfinite(self.rise_A) and self.rise_A > 0):
            raise InputError(
                f"a helix cannot have a rise of {self.rise_A:g} Å", do="give a positive rise"
            )
        if not math.isfinite(self.twist_deg):
            raise InputError(
                f"a helix cannot have a twist of {self.twist_deg:g}°", do="give a number of degrees"
            )
        if self.fold < 1:
            raise InputError(f"an axis cannot be {self.fold}-fold", do="give an order of 1 or more")
        wrapped = math.remainder(self.twist_deg, 360.0)  # exact; -180 and 180 are one
        object.__setattr__(self, "twist_deg", 180.0 if wrapped == -180.0 else wrapped)

    @property
    def twist_rad(self) -> float:
        """The twist in radians."""
        return math.radians(self.twist_deg)

    @property
    def pitch_A(self) -> float:
        """Rise of a full turn of the helix through nearest steps in Å; infinite without twist."""
        return math.inf if self.twist_deg == 0 else self.rise_A * 360.0 / abs(self.twist_deg)

    @property
    def point_group(self) -> SymmetryGroup:
        """The rotations that are symmetries beside the steps."""
        return parse_symmetry(f"{'d' if self.is_dihedral else 'c'}{self.fold}")

    def within(self, length_A: float) -> "HelicalCopies":
        """Return the copies that steps of up to half a length, either way, make."""
        return HelicalCopies(self, math.floor(length_A / 2 / self.rise_A + 1e-9))


@dataclass(frozen=True, eq=False)
class HelicalCopies:
    """The operators of a helix up to a number of steps either way, as a symmetry of poses.

    Attributes
    ----------
    helix
        Whose steps they are.
    reach
        Largest number of steps.
    """

    helix: Helix
    reach: int

    @property
    def name(self) -> str:
        """What it is called."""
        helix = self.helix
        return f"helix of {helix.twist_deg:g}°, {helix.rise_A:g} Å, {helix.point_group.name}"

    @property
    def order(self) -> int:
        """Number of operators."""
        return (2 * self.reach + 1) * self.helix.point_group.order

    @property
    def matrices(self) -> Float[Tensor, "g 3 3"]:
        """Rotations of the operators, identity first: of each step with all of the point group."""
        angle = self.helix.twist_rad * self._steps()
        steps = torch.zeros(len(angle), 3, 3, dtype=torch.float64)
        steps[:, 0, 0], steps[:, 0, 1] = angle.cos(), -angle.sin()
        steps[:, 1, 0], steps[:, 1, 1] = angle.sin(), angle.cos()
        steps[:, 2, 2] = 1
        return (steps[:, None] @ self.helix.point_group.matrices).flatten(0, 1)

    @property
    def shifts_A(self) -> Float[Tensor, "g 3"]:
        """By how much each operator moves the object along z after it has turned it."""
        along_z = self._steps() * self.helix.rise_A
        shifts = torch.nn.functional.pad(along_z[:, None], (2, 0))
        return shifts.repeat_interleave(self.helix.point_group.order, 0)

    @property
    def point_group(self) -> Float[Tensor, "p 3 3"]:
        """Rotations that move nothing."""
        return self.helix.point_group.matrices

    def _steps(self) -> Float[Tensor, "s"]:
        """Return the numbers of steps: 0, 1, -1, 2, -2, ..."""
        steps = sorted(range(-self.reach, self.reach + 1), key=lambda k: (abs(k), -k))
        return torch.tensor(steps, dtype=torch.float64)

    def equivalents(self, pose: Float[Tensor, "*b 3 3"]) -> Float[Tensor, "*b g 3 3"]:
        """Return the rotations of all poses that give the same image, the given one first."""
        return pose[..., None, :, :] @ self.matrices.to(pose)

    def nearest(
        self, pose: Float[Tensor, "*b 3 3"], target: Float[Tensor, "*b 3 3"]
    ) -> Float[Tensor, "*b 3 3"]:
        """Return for each pose the equivalent one closest to ``target``."""
        copies = self.equivalents(pose)
        best = geodesic_angle(copies, target[..., None, :, :].expand_as(copies)).argmin(-1)
        index = best[..., None, None, None].expand(*best.shape, 1, 3, 3)
        return torch.gather(copies, -3, index)[..., 0, :, :]

    def distance(
        self, a: Float[Tensor, "*b 3 3"], b: Float[Tensor, "*b 3 3"]
    ) -> Float[Tensor, "*b"]:
        """Return the geodesic angle between two poses, radians, least over the operators."""
        copies = self.equivalents(a)
        return geodesic_angle(copies, b[..., None, :, :].expand_as(copies)).amin(-1)
