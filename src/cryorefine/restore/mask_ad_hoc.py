"""Multiply half maps by a mask of the user's."""

from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from cryorefine.restore.protocol import Context, Halves, Restored

__all__ = ["AdHocMask"]


@dataclass(frozen=True, eq=False)
class AdHocMask:
    """Multiplies by a soft mask as it is; it is not made binary.

    It is the last of all restorations. What the mask itself adds to the FSC of masked maps is why
    that curve is not the resolution's.

    Attributes
    ----------
    mask
        0 to 1.
    """

    mask: Float[Tensor, "z y x"]
    name: ClassVar[str] = "mask"
    title: ClassVar[str] = "ad hoc mask"
    mixes_halves: ClassVar[bool] = False

    def __call__(self, halves: Halves, context: Context) -> Restored:
        """Return both half maps times the mask."""
        mask = self.mask.to(halves[0])
        facts = {"mask_share_of_box": float(mask.mean(dtype=mask.dtype))}
        return Restored((halves[0] * mask, halves[1] * mask), facts)
