"""What an image's own noise, which its reference holds, adds to the scores of poses."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cryorefine.fourier.filter import interpolate_shells
from cryorefine.geometry.protocol import Symmetry
from cryorefine.kernels.poses import OwnNoiseInReference
from cryorefine.model.observe import GroupBand

__all__ = ["OwnNoise", "spread_A2"]


@dataclass(frozen=True, eq=False)
class OwnNoise:
    """Where images went into their reference, and what they gain there.

    Attributes
    ----------
    rotations, shifts_px
        Poses at which they were inserted: the best of each first, then those that it shared its
        weight with.
    weight
        That each of these poses had in the reconstruction; 0 where there is none.
    share
        Per shell of the volume, what an image of weight 1 gains for each unit of its contrast
        transfer squared.
    spread_A2
        Of the part of the reference that is not masked: :func:`spread_A2`.
    """

    rotations: Float[Tensor, "b k 3 3"]
    shifts_px: Float[Tensor, "b k 2"]
    weight: Float[Tensor, "b k"]
    share: Float[Tensor, "s"]
    spread_A2: float

    def beside(
        self,
        rotations: Float[Tensor, "m 3 3"],
        image_of: Int[Tensor, "m"],
        group: Symmetry,
        strength: tuple[Float[Tensor, "b"], Float[Tensor, "b"]],
        pixel_A: float,
    ) -> OwnNoiseInReference:
        """Return what starts of a pose refinement gain.

        Parameters
        ----------
        strength
            Of the band that is compared: :meth:`strength`.
        """
        bonus, frequency2_per_A2 = strength
        k = self.weight.shape[1]
        # A copy of a start by symmetry lies beside a place: its inverse takes the place there.
        turn = self.rotations[image_of].mT @ rotations.double()[:, None]
        matrices = group.matrices.to(turn)
        trace = turn.flatten(2) @ matrices.flatten(1).T
        trace = torch.where(self.weight[image_of][..., None] > 0, trace, -torch.inf)
        best = trace.flatten(1).argmax(1)
        place, copy = best // len(matrices), best % len(matrices)
        at = image_of * k + place
        exponent = math.pi**2 * frequency2_per_A2[image_of]
        return OwnNoiseInReference(
            rotations=self.rotations.flatten(0, 1)[at] @ matrices[copy],
            shifts_px=self.shifts_px.flatten(0, 1)[at].double(),
            bonus=self.weight.flatten()[at] * bonus[image_of],
            turn_decay=2 * exponent * self.spread_A2,
            move_decay=exponent * pixel_A**2,
        )

    def strength(
        self, view: GroupBand, c: Float[Tensor, "b p"], first: int, last: int
    ) -> tuple[Float[Tensor, "b"], Float[Tensor, "b"]]:
        """Return what images of weight 1 gain over a part of a band, and where in it.

        Parameters
        ----------
        c
            Whitened contrast transfer of the whole band.
        first, last
            Coefficients that are compared.

        Returns
        -------
        bonus, frequency2_per_A2
            The log-likelihood, and the mean square of the frequencies that it comes from.
        """
        radius = view.points[first:last].norm(dim=1)
        at = interpolate_shells(self.share.to(radius.device), radius).to(c.dtype)
        frequency2 = view.s_per_A[first:last].square().sum(1).to(c.dtype)
        sums = (c[:, first:last].square() @ torch.stack([at, at * frequency2], 1)).double()
        return sums[:, 0], sums[:, 1] / sums[:, 0].clamp_min(1e-30)


def spread_A2(mask: Float[Tensor, "z y x"], voxel_A: float) -> float:
    """Return the mean square distance of a mask's voxels from the box's centre along one axis.

    A slice of a masked map holds an image's noise as far from where it was inserted as the
    transform of the mask reaches: ``exp(-2π² spread k²)`` at a distance k, to second order.
    """
    axis = torch.arange(len(mask), dtype=torch.float64) - len(mask) // 2
    values = mask.double()
    total = sum(float(values.sum(dims) @ axis.square()) for dims in ((1, 2), (0, 2), (0, 1)))
    return total / 3 / max(float(values.sum()), 1e-30) * voxel_A**2
