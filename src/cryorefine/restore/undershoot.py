"""Attenuate undershooting: what lies far below the background is brought near to it."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from cryorefine.restore.protocol import Context, Fact, Halves, Restored, background
from cryorefine.restore.voxelwise import values_where, voxelwise

__all__ = ["AttenuateUndershoot"]


@dataclass(frozen=True)
class AttenuateUndershoot:
    """Compresses values more than K σ below the background.

    Mean μ and standard deviation σ are those of the solvent, outside the mask. A value v below
    t = μ - K σ becomes ``t + σ tanh((v - t) / σ)``: there is no jump, neither of the value nor of
    its slope, order is kept, and nothing stays below t - σ. Other values stay as they are.

    Attributes
    ----------
    sigmas
        K.
    """

    sigmas: float = 9.0
    name: ClassVar[str] = "undershoot"
    title: ClassVar[str] = "attenuation of undershooting"
    mixes_halves: ClassVar[bool] = False

    def __call__(self, halves: Halves, context: Context) -> Restored:
        """Return both half maps; as they are where the mask leaves no solvent."""
        solvent = background(context)
        if not bool(solvent.any()):
            return Restored(halves, {"unchanged_because": "the mask leaves no solvent"})
        made, facts = [], dict[str, Fact]()
        for half, volume in enumerate(halves, 1):
            values = values_where(volume, solvent).double()
            mean, spread = float(values.mean()), float(values.std(correction=0))
            threshold = mean - self.sigmas * spread
            below = int(torch.count_nonzero(volume < threshold))
            facts[f"voxels_attenuated_half{half}"] = below
            facts[f"threshold_half{half}"] = threshold
            made.append(_compressed(volume, threshold, spread) if below else volume)
        return Restored((made[0], made[1]), facts)


def _compressed(volume: Tensor, threshold: float, spread: float) -> Tensor:
    def compressed(values: Tensor) -> Tensor:
        depth = (values - threshold).clamp_max(0)
        held = torch.tanh(depth / spread) * spread if spread > 0 else torch.zeros_like(depth)
        return torch.where(values < threshold, threshold + held, values)

    return voxelwise(compressed, volume)
