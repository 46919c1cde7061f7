"""What a particle file has of an earlier run: weights, and values of single particles."""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from cryorefine.assign.particle_optics import N_VALUES
from cryorefine.particles.table import ParticleTable

__all__ = ["VALUE_LABELS", "WEIGHT_LABEL", "earlier_values", "earlier_weights"]

WEIGHT_LABEL = "cryorefineWeight"
VALUE_LABELS = (
    "cryorefineGreyScale",
    "cryorefineGreyOffset",
    "cryorefineMagnificationXX",
    "cryorefineMagnificationXY",
    "cryorefineMagnificationYY",
)
"""Grey scale (1: the mean), grey offset, and the magnification matrix; the change of the defocus
is in the file's defocus already."""

_FROM_FILE = "cryorefinePoseIsFromFile"


def earlier_weights(table: ParticleTable) -> Float[Tensor, "n"] | None:
    """Return the weights that an earlier run gave the particles; None if the file has none.

    Particles without a pose of that run were not weighed by it, and count 1.
    """
    if WEIGHT_LABEL not in table.earlier:
        return None
    weights = table.earlier[WEIGHT_LABEL].astype(np.float64)
    unknown = table.lacks_pose.copy()
    if _FROM_FILE in table.earlier:
        unknown |= table.earlier[_FROM_FILE] == 1
    return torch.from_numpy(np.where(unknown, 1.0, weights))


def earlier_values(table: ParticleTable) -> Float[Tensor, "n v"] | None:
    """Return the particles' own values that an earlier run refined; None if the file has none.

    They are as :mod:`cryorefine.assign.particle_optics` has them, without changes of defocus.
    """
    if not any(label in table.earlier for label in VALUE_LABELS):
        return None
    n = len(table)

    def column(label: str, default: float) -> Tensor:
        return torch.from_numpy(table.earlier.get(label, np.full(n, default)).astype(np.float64))

    values = torch.zeros(n, N_VALUES, dtype=torch.float64)
    xx, xy, yy = (
        column(label, default)
        for label, default in zip(VALUE_LABELS[2:], (1.0, 0.0, 1.0), strict=True)
    )
    values[:, 0] = column(VALUE_LABELS[0], 1.0) - 1
    values[:, 1] = column(VALUE_LABELS[1], 0.0)
    values[:, 2] = (xx + yy) / 2 - 1
    values[:, 3] = (xx - yy) / 2
    values[:, 4] = xy
    return values
