"""How much of a map of a filament goes around its axis, or along it, and is no cylinder."""

import torch
from jaxtyping import Float
from torch import Tensor

from cryorefine.evaluate.radial_means import radial_means

__all__ = ["FEATURELESS", "share_around_axis"]

FEATURELESS = 0.05
"""Share below which a map says nothing of how its filament is turned: cylinders low-passed at 20
and 30 Å have 0.012 to 0.022 (their voxels), made-up filaments low-passed at 20 Å 0.10 (rise of
1.4 Å) to 0.9 (rise of 12 Å)."""


def share_around_axis(volume: Float[Tensor, "z y x"]) -> float:
    """Return what is left of a map less the mean of each circle about z, as a share of contrast.

    Both are root mean squares, within the largest cylinder. 0 for a map without contrast.
    """
    n = volume.shape[-1]
    axis = torch.arange(n, device=volume.device) - n // 2
    radius = (axis[:, None] ** 2 + axis**2).double().sqrt().flatten()
    sections = volume.double().flatten(1)
    around = sections - radial_means(sections, radius)
    inside = radius < n // 2
    contrast = (sections - sections.mean())[:, inside].square().sum()
    if contrast == 0:
        return 0.0
    return float((around[:, inside].square().sum() / contrast).sqrt())
