"""Difference evaluation: the halves' consensus, and a map of where they disagree."""

import math
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from cryorefine.fourier.filter import filter_volume
from cryorefine.restore.protocol import Context, Halves, Restored, inside
from cryorefine.restore.voxelwise import values_where, voxelwise

__all__ = ["EvaluateDifference"]

_ROUNDS, _SIGMAS = 2, 2.0
"""Rounds, and K: a difference of so many standard deviations is reduced by 40 %. HighRes's."""


@dataclass(frozen=True)
class EvaluateDifference:
    """Pulls both halves to their average where they differ more than they do elsewhere.

    With the difference D and s = K times its standard deviation within the mask, each half becomes
    the average plus or minus ``exp(-D² / (2 s²)) D / 2``, twice. The average never changes, but the
    halves become alike: their FSC says nothing any more.

    The map ``disagreement`` is the local root mean square of D over that within the mask: about 1
    where halves differ as they do on average.
    """

    name: ClassVar[str] = "difference"
    title: ClassVar[str] = "difference evaluation"
    mixes_halves: ClassVar[bool] = True

    def __call__(self, halves: Halves, context: Context) -> Restored:
        """Return the halves of the consensus; as they are where they do not differ."""
        where = inside(context)
        difference = voxelwise(lambda a, b: a - b, *halves)
        spread = _spread(difference, where)
        if spread == 0:
            return Restored(halves, {"unchanged_because": "the halves do not differ in the mask"})
        average = voxelwise(lambda a, b: (a + b) / 2, *halves)
        local = _local_rms(difference, context).div_(spread)
        for _ in range(_ROUNDS):
            width = _SIGMAS * _spread(difference, where)
            voxelwise(
                lambda d, s=width: d * (-(d * d) / (2 * s * s)).exp(), difference, out=difference
            )
        made = (
            voxelwise(lambda a, d: a + d / 2, average, difference),
            voxelwise(lambda a, d: a - d / 2, average, difference, out=average),
        )
        facts = {
            "difference_std": spread,
            "difference_std_after": _spread(difference, where),
            "largest_local_disagreement": float(values_where(local, where).max()),
        }
        return Restored(made, facts, {"disagreement": local})


def _spread(difference: Tensor, where: Tensor) -> float:
    values = values_where(difference, where).double()
    return float(values.std(correction=0)) if len(values) else 0.0


def _local_rms(difference: Tensor, context: Context) -> Tensor:
    """Return the root mean square within a Gaussian as wide as the resolution."""
    n = difference.shape[-1]
    resolution_A = context.curves.resolution_A()
    box_A = n * context.voxel_A
    # A quarter of the box where the halves share nothing.
    width = min(resolution_A, box_A / 4) / box_A
    square = voxelwise(lambda d: d * d, difference)
    mean = filter_volume(square, lambda k: (-2 * (math.pi * k * width) ** 2).exp())
    return mean.clamp_min_(0).sqrt_()
