"""Laplacian (retinex) denoising: edges that solvent has, too, are taken away."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Complex, Float
from torch import Tensor

from cryorefine.engine.threads import MAX_AT_ONCE, side_by_side
from cryorefine.fourier.fft import volume_from_half, volume_to_half
from cryorefine.fourier.radial import wrapped_axis
from cryorefine.restore.distribution import quantile
from cryorefine.restore.protocol import Context, Halves, Restored, background
from cryorefine.restore.voxelwise import values_where, voxelwise

__all__ = ["Laplacian", "laplacian_gain"]

_SHARE = 0.95
"""Of the solvent's edges that are taken away, as in HighRes: one in twenty of the solvent's voxels
keeps something."""

_EPSILON = 1.0
"""Gain of the mean, as in HighRes: the gain runs from 1 to 13, and dividing by it is safe."""


@dataclass(frozen=True)
class Laplacian:
    """Shrinks the Laplacian of a map where it is no larger than the solvent's, and inverts it.

    The Laplacian U is compared with the value θ that 95 % of the solvent's |U| lie below: it
    becomes U (1 - θ²/U²), and 0 below θ. This has no jump, and what is far above θ stays. Each half
    has its own θ.
    """

    name: ClassVar[str] = "laplacian"
    title: ClassVar[str] = "Laplacian denoising"
    mixes_halves: ClassVar[bool] = False

    def __call__(self, halves: Halves, context: Context) -> Restored:
        """Return both half maps; as they are where the mask leaves no solvent."""
        solvent = background(context)
        if not bool(solvent.any()):
            return Restored(halves, {"unchanged_because": "the mask leaves no solvent"})

        def restored(volume: Float[Tensor, "z y x"]) -> tuple[Float[Tensor, "z y x"], float]:
            n = volume.shape[-1]
            edges = volume_from_half(laplacian_gain(volume_to_half(volume), n), n, overwrite=True)
            threshold = quantile(values_where(edges, solvent).abs_(), _SHARE)

            def shrunk(values: Tensor) -> Tensor:
                tiny = torch.finfo(values.dtype).tiny
                return values * (1 - threshold**2 / values.square().clamp_min(tiny)).clamp_min(0)

            kept = volume_to_half(voxelwise(shrunk, edges, out=edges))
            del edges
            back = volume_from_half(laplacian_gain(kept, n, invert=True), n, overwrite=True)
            return back, threshold

        at_once = halves[0].numel() <= MAX_AT_ONCE
        (first, theta1), (second, theta2) = side_by_side(restored, halves, at_once=at_once)
        return Restored((first, second), {"threshold_half1": theta1, "threshold_half2": theta2})


def laplacian_gain(
    half: Complex[Tensor, "z y xh"], size_px: int, *, invert: bool = False
) -> Complex[Tensor, "z y xh"]:
    """Multiply a half transform by that of the Laplacian of neighbouring voxels, in place.

    ``6 + 1 - 2 (cos 2πx + cos 2πy + cos 2πz)``, frequencies in cycles per voxel; or divide by it.
    """
    angle = 2 * np.pi * wrapped_axis(size_px) / size_px
    axis = torch.from_numpy(2 - 2 * np.cos(angle)).to(half.device, torch.float32)
    x = axis[: size_px // 2 + 1]
    plane = axis[:, None] + x + _EPSILON
    for z, term in enumerate(axis):
        if invert:
            half[z] /= plane + term
        else:
            half[z] *= plane + term
    return half
