"""Cylinders with cosine edges, for filaments."""

import torch
from jaxtyping import Float
from torch import Tensor

from cryorefine.masks.soft import disc_mask

__all__ = ["cylinder_mask"]


def cylinder_mask(
    size_px: int, radius_px: float, edge_px: float = 5.0, device: torch.device | str = "cpu"
) -> Float[Tensor, "z y x"]:
    """Return a cylinder about the z axis through the origin, as high as the box.

    1 up to the radius, then a cosine edge of ``edge_px`` outside it.
    """
    disc = disc_mask(size_px, radius_px, edge_px, device)
    return disc.expand(size_px, -1, -1).contiguous()
