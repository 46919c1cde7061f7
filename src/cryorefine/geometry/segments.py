"""Poses of segments of a filament: which show the same image, and which of these is meant."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from cryorefine.geometry.helix import Helix
from cryorefine.geometry.protocol import Symmetry

__all__ = ["HelicalStep", "axis_in_image"]

_MIN_SINE = 0.5
"""Sine of the tilt below which poses are left as they are: along the axis a step moves an image by
nothing, and 30° from it by half a rise."""


def axis_in_image(rotations: Float[Tensor, "*b 3 3"]) -> Float[Tensor, "*b 2"]:
    """Return where an image has a point that lies 1 along the filament from its middle."""
    return rotations[..., :2, 2]


@dataclass(frozen=True)
class HelicalStep:
    """One step of a helix along z, as it acts on poses.

    A particle that is turned by the twist about z and moved by the rise along z is the same. A pose
    with rotation A and centring shift s therefore shows what ``A T`` and ``s - A r`` show, with the
    step's turn T and move r.

    Attributes
    ----------
    twist_rad
        Turn from x towards y.
    rise
        Move along z, positive, in the unit of the shifts.
    """

    twist_rad: float
    rise: float

    @staticmethod
    def of(helix: Helix, unit_A: float = 1.0) -> "HelicalStep":
        """Return a helix's step for shifts in units of so many ångströms."""
        return HelicalStep(helix.twist_rad, helix.rise_A / unit_A)

    def in_units_of(self, unit: float) -> "HelicalStep":
        """Return the same for shifts in units of so many of these."""
        return HelicalStep(self.twist_rad, self.rise / unit)

    def taken(
        self,
        rotations: Float[Tensor, "*b 3 3"],
        shifts: Float[Tensor, "*b 2"],
        number: Float[Tensor, "*b"],
    ) -> tuple[Float[Tensor, "*b 3 3"], Float[Tensor, "*b 2"]]:
        """Return the poses that so many steps, whole numbers, make of some."""
        angle = number * self.twist_rad
        turn = torch.zeros(*angle.shape, 3, 3, dtype=rotations.dtype, device=rotations.device)
        turn[..., 0, 0], turn[..., 0, 1] = angle.cos(), -angle.sin()
        turn[..., 1, 0], turn[..., 1, 1] = angle.sin(), angle.cos()
        turn[..., 2, 2] = 1
        moved = shifts - (number * self.rise)[..., None] * axis_in_image(rotations)
        return rotations @ turn, moved

    def steps_off(
        self, rotations: Float[Tensor, "*b 3 3"], shifts: Float[Tensor, "*b 2"]
    ) -> Float[Tensor, "*b"]:
        """Return how many steps shifts are along the filament, as whole numbers."""
        axis = axis_in_image(rotations)
        square = axis.square().sum(-1)
        number = ((shifts * axis).sum(-1) / (self.rise * square.clamp_min(1e-12))).round()
        return torch.where(square >= _MIN_SINE**2, number, torch.zeros_like(number))

    def confined(
        self, rotations: Float[Tensor, "*b 3 3"], shifts: Float[Tensor, "*b 2"]
    ) -> tuple[Float[Tensor, "*b 3 3"], Float[Tensor, "*b 2"]]:
        """Return, of the poses that are alike, those within half a rise along the filament."""
        return self.taken(rotations, shifts, self.steps_off(rotations, shifts))

    def beside(
        self,
        pose: tuple[Float[Tensor, "n 3 3"], Float[Tensor, "n 2"]],
        target: tuple[Float[Tensor, "n 3 3"], Float[Tensor, "n 2"]],
        symmetry: Symmetry,
        radius: float,
    ) -> tuple[Float[Tensor, "n 3 3"], Float[Tensor, "n 2"]]:
        """Return, of the poses that are alike, those that lie nearest to others.

        Parameters
        ----------
        pose, target
            Rotations and shifts. Their distance is that of shifts and, of ``radius`` away from the
            middle, of rotations.
        symmetry
            Of the particle beside its steps.
        """
        middle = self.steps_off(target[0], pose[1] - target[1])
        best = self.taken(*pose, middle)
        least = _distance(best, target, symmetry, radius)
        for beside in (-1, 1):
            found = self.taken(*pose, middle + beside)
            far = _distance(found, target, symmetry, radius)
            is_nearer = far < least
            best = (
                torch.where(is_nearer[:, None, None], found[0], best[0]),
                torch.where(is_nearer[:, None], found[1], best[1]),
            )
            least = torch.minimum(least, far)
        return best

    def is_within(
        self,
        rotations: Float[Tensor, "q 3 3"],
        shifts: Float[Tensor, "t 2"],
        spacing: float,
    ) -> Bool[Tensor, "t q"]:
        """Tell which shifts of a square grid lie within half a rise along each rotation's filament.

        Where the rise is less than the grid's spacing, the points nearest to the line across the
        filament are.
        """
        axis = axis_in_image(rotations)
        sine = axis.norm(dim=1)
        along = (shifts.to(axis) @ axis.T).abs() / sine.clamp_min(1e-12)
        # A line that touches no point of a grid passes no farther than this from one.
        nearest = spacing * axis.abs().sum(1) / sine.clamp_min(1e-12) / 2
        reach = torch.maximum(self.rise * sine / 2, nearest)
        return (along <= reach * (1 + 1e-6)) | (sine < _MIN_SINE)


def _distance(
    pose: tuple[Tensor, Tensor], other: tuple[Tensor, Tensor], symmetry: Symmetry, radius: float
) -> Tensor:
    turn = symmetry.distance(pose[0], other[0]) * radius
    return torch.hypot(turn, (pose[1] - other[1]).norm(dim=1))
