"""What is known of where a filament lies in its image before it is aligned."""

import math
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from cryorefine.geometry.rotation import matrix_from_euler
from cryorefine.geometry.segments import axis_in_image

__all__ = ["AxisPrior"]


@dataclass(frozen=True, eq=False)
class AxisPrior:
    """Where the filaments of some images lie; NaN where it is not known.

    Attributes
    ----------
    psi_rad, tilt_rad
        The pose's angles, in one of the two directions along the filament.
    has_both
        Whether the other direction may be as well: psi half a turn on, and the opposite tilt.
    psi_reach_rad, tilt_reach_rad
        Poses lie within so much.
    """

    psi_rad: Float[Tensor, "b"]
    tilt_rad: Float[Tensor, "b"]
    has_both: Bool[Tensor, "b"]
    psi_reach_rad: float
    tilt_reach_rad: float

    def select(self, index: Tensor, device: torch.device) -> "AxisPrior":
        """Return those of some images, on a device."""
        names = ("psi_rad", "tilt_rad", "has_both")
        return replace(self, **{name: getattr(self, name)[index].to(device) for name in names})

    def allows(self, rotations: Float[Tensor, "q 3 3"], step_rad: float) -> Bool[Tensor, "b q"]:
        """Tell which rotations of a grid each image may have.

        The nearest ones of a grid, ``step_rad`` apart, are among them.
        """
        right, quarter = torch.zeros_like(self.psi_rad), torch.full_like(self.psi_rad, math.pi / 2)
        known = matrix_from_euler(torch.stack([right, quarter, self.psi_rad], -1))
        angle = _angle(axis_in_image(known))[:, None] - _angle(axis_in_image(rotations.to(known)))
        tilt = torch.acos(rotations[:, 2, 2].to(known).clamp(-1, 1))
        psi_reach = max(self.psi_reach_rad, step_rad)
        tilt_reach = max(self.tilt_reach_rad, step_rad)
        here = _is_near(angle, psi_reach) & _within(tilt - self.tilt_rad[:, None], tilt_reach)
        there = _is_near(angle - math.pi, psi_reach)
        there &= _within(tilt - (math.pi - self.tilt_rad[:, None]), tilt_reach)
        allowed = here | (there & self.has_both[:, None])
        # What no rotation satisfies is no knowledge.
        return allowed | ~allowed.any(1, keepdim=True)


def _angle(axis: Tensor) -> Tensor:
    return torch.atan2(axis[..., 1], axis[..., 0])


def _is_near(angle: Tensor, reach: float) -> Tensor:
    """Tell which angles are whole turns within a reach; where they are not known, all are."""
    return torch.atan2(angle.sin(), angle.cos()).abs().nan_to_num(0.0) <= reach


def _within(difference: Tensor, reach: float) -> Tensor:
    return difference.abs().nan_to_num(0.0) <= reach
