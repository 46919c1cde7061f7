"""How evenly viewing directions cover the sphere."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from cryorefine.compiled import for_each
from cryorefine.geometry.protocol import Symmetry
from cryorefine.geometry.sphere import asymmetric_unit, direction_grid, directions_from_poses

__all__ = ["coverage_efficiency", "direction_histogram"]

_BATCH, _BATCH_OF_DEVICE = 256, 4096
"""Views that are compared with all directions at once. On the CPU 8 bytes for each pair stay in the
cache, and thousands of views are work for several threads; an accelerator needs larger batches. Not
measured."""


def direction_histogram(
    rotations: Float[Tensor, "n 3 3"],
    group: Symmetry,
    *,
    step_rad: float = math.radians(7.5),
    weights: Float[Tensor, "n"] | None = None,
) -> tuple[Float[Tensor, "m 3"], Float[Tensor, "m"]]:
    """Count viewing directions in equal-area cells, every symmetric copy counted.

    Returns
    -------
    directions, density
        Centres of the cells, and their counts over the mean count: 1 everywhere if even.
    """
    cells = direction_grid(step_rad)
    weight = (
        torch.ones(len(rotations), dtype=torch.float64) if weights is None else weights.double()
    )
    counts = torch.zeros(len(cells), dtype=torch.float64)
    for matrix in group.matrices:
        views = directions_from_poses(rotations.double() @ matrix)
        for some, weight_of_some in zip(views.split(_BATCH), weight.split(_BATCH), strict=True):
            counts.index_add_(0, (some @ cells.T).argmax(1), weight_of_some)
    return cells, counts / counts.mean().clamp_min(1e-30)


def coverage_efficiency(rotations: Float[Tensor, "n 3 3"], group: Symmetry) -> float:
    """Return how evenly Fourier space is sampled: 1 for even, towards 0 for one single view.

    Each view samples the plane normal to it. For many directions q the number of planes within
    0.05 of q is counted, and the harmonic mean of the counts over the arithmetic one returned:
    the noise of a reconstruction goes with one over the sampling, so that this is the fraction of
    particles that an even distribution would need for the same mean noise (the idea of the
    sampling compensation factor, Baldwin & Lyumkis 2020, Prog. Biophys. Mol. Biol. 150, 160).
    It is never above 1. Views too few to reach every direction once, however they are spread, are
    compared with as many as would: their value goes to 0 with their number.
    """
    probes = direction_grid(math.radians(6.0))
    probes = probes[asymmetric_unit(probes, group)]  # the counts are the same elsewhere
    probes = probes.to(rotations.device)
    views = directions_from_poses(group.equivalents(rotations.double()).flatten(0, 1))
    batches = views.split(_BATCH if views.device.type == "cpu" else _BATCH_OF_DEVICE)
    planes = for_each(lambda some: ((probes @ some.T).abs() < 0.05).sum(1), batches)
    counts = torch.stack(planes).sum(0).double()
    mean = float(counts.mean())
    if mean == 0:
        return 0.0
    # Half a plane stands for what no plane at all would make infinite; where the mean is below one
    # plane, half the mean: more would be more than there is.
    least = 0.5 * min(1.0, mean)
    return float(1 / (1 / counts.clamp_min(least)).mean() / max(1.0, mean))
