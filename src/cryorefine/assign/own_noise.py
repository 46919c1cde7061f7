"""What an image's own noise, which its reference holds, adds to its score."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from cryorefine.fourier.filter import interpolate_shells
from cryorefine.geometry.protocol import Symmetry
from cryorefine.model.observe import GroupBand

__all__ = ["OwnNoise", "own_bonus"]


@dataclass(frozen=True, eq=False)
class OwnNoise:
    """Where images went into their reference, and what they gain there.

    Attributes
    ----------
    rotations
        Poses at which they were inserted: the best of each first, then those that it shared its
        weight with.
    bonus
        Log-likelihood that their own noise adds beside these poses; 0 where there is none.
    reach_rad
        How far: about the turn that moves the particle's rim by the resolution.
    """

    rotations: Float[Tensor, "b k 3 3"]
    bonus: Float[Tensor, "b k"]
    reach_rad: float

    def at(
        self, rotations: Float[Tensor, "m 3 3"], image_of: Tensor, group: Symmetry
    ) -> Float[Tensor, "m"]:
        """Return what poses of some images gain."""
        gained = torch.zeros(len(image_of), dtype=self.bonus.dtype, device=rotations.device)
        for k in range(self.bonus.shape[1]):
            mine = self.bonus[image_of, k] > 0
            angle = group.distance(rotations[mine], self.rotations[image_of[mine], k])
            bonus = self.bonus[image_of[mine], k]
            gained[mine] = gained[mine].maximum(torch.where(angle < self.reach_rad, bonus, 0.0))
        return gained


def own_bonus(
    share: Float[Tensor, "s"],
    view: GroupBand,
    c: Float[Tensor, "b p"],
    weight: Float[Tensor, "b"],
) -> Float[Tensor, "b"]:
    """Return what each image's own noise adds to its score over a band.

    Parameters
    ----------
    c
        Whitened contrast transfer.
    weight
        That the image had in the reconstruction; 0 if it was not in it.
    """
    first = view.band.prefix(0)
    radius = view.points[first:].norm(dim=1)
    at = interpolate_shells(share.to(radius.device), radius).to(c.dtype)
    return weight.to(c.device).double() * (c[:, first:].square() @ at).double()
