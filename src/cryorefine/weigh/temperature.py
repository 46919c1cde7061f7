"""How restless a particle's orientation has been over the iterations."""

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["angular_temperature"]

_MEMORY = 2 / 3
"""Share of the old value in the running mean, which so looks back over about three iterations. Not
measured."""


def angular_temperature(
    previous_deg: Float[Tensor, "n"] | None, differences_deg: Float[Tensor, "n k"]
) -> Float[Tensor, "n"]:
    """Return the running mean of the angles by which a particle's pose is uncertain, degrees.

    Two thirds of what it was, and one third of the mean of the new angles; one without a new
    angle stays as it is.

    Parameters
    ----------
    previous_deg
        None the first time, NaN for particles that are new: these begin at 0.
    differences_deg
        Angles between the particle's poses of several kinds or passes; NaN where there is none.
    """
    found = ~differences_deg.isnan()
    count = found.sum(1)
    mean = differences_deg.nan_to_num(nan=0.0).sum(1) / count.clamp_min(1)
    before = torch.zeros_like(mean) if previous_deg is None else previous_deg.nan_to_num(nan=0.0)
    return torch.where(count > 0, _MEMORY * before + (1 - _MEMORY) * mean, before)
