"""Significant denoising in real space: voxels as loud as noise are made quieter."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from cryorefine.restore.distribution import Distribution
from cryorefine.restore.protocol import Context, Halves, Restored, inside
from cryorefine.restore.voxelwise import values_where, voxelwise

__all__ = ["DenoiseReal"]


@dataclass(frozen=True)
class DenoiseReal:
    """Multiplies each voxel by how sure it is that its energy is signal, and no noise.

    With e = v², the weight is the share of the noise's energies that lie below e, times the share
    of the signal's energies that do. The noise of one half map is half the squared difference of
    the two; the signal is the squared average within the mask. A voxel louder than all noise stays
    as it is, and none gets louder. Both distributions are curves of the whole map: each half's
    weights are those of its own voxels.
    """

    name: ClassVar[str] = "denoise"
    title: ClassVar[str] = "significant denoising in real space"
    mixes_halves: ClassVar[bool] = False

    def __call__(self, halves: Halves, context: Context) -> Restored:
        """Return both half maps, quieter; as they are where the mask is empty."""
        first, second = halves
        where = inside(context)
        if not bool(where.any()):
            return Restored(halves, {"unchanged_because": "the mask is empty"})
        noise = Distribution(voxelwise(lambda a, b: (a - b).square() / 2, first, second))
        average = values_where(first, where).add_(values_where(second, where))
        signal = Distribution(average.square_().div_(4))
        del average

        def weighted(values: Tensor) -> Tensor:
            energy = values.square()
            beyond_noise = noise.share_below(energy)
            weight = beyond_noise * signal.share_below(energy)
            return values * weight.where(beyond_noise < 1, 1.0)

        made = voxelwise(weighted, first), voxelwise(weighted, second)
        before, after = (sum(map(_energy, pair)) for pair in (halves, made))
        return Restored(made, {"share_of_energy_kept": after / before if before > 0 else None})


def _energy(volume: Tensor) -> float:
    """Return the sum of squares, plane by plane: no copy of the map in double precision."""
    return sum(float(plane.double().square().sum()) for plane in volume)
