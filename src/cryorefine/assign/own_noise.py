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

__all__ = ["NoiseInReference", "OwnNoise", "spread_A2"]


@dataclass(frozen=True, eq=False)
class NoiseInReference:
    """How a reference holds the noise of its images.

    Attributes
    ----------
    share
        Per shell of the volume, what an image of weight 1 gains for each unit of its contrast
        transfer squared (:func:`cryorefine.refine.own_noise_share.own_share`).
    spread_A2
        How far the reference reaches in space, along each axis: :func:`spread_A2`.
    """

    share: Float[Tensor, "s"]
    spread_A2: Float[Tensor, "3 3"]


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
    reference
        How the reference holds their noise.
    """

    rotations: Float[Tensor, "b k 3 3"]
    shifts_px: Float[Tensor, "b k 2"]
    weight: Float[Tensor, "b k"]
    reference: NoiseInReference

    def select(self, index: Tensor) -> "OwnNoise":
        """Return that of some images."""
        return OwnNoise(
            self.rotations[index], self.shifts_px[index], self.weight[index], self.reference
        )

    def beside(
        self,
        rotations: Float[Tensor, "m 3 3"],
        image_of: Int[Tensor, "m"],
        group: Symmetry,
        view: GroupBand,
        c: Float[Tensor, "b p"],
        *,
        compared: slice = slice(None),
    ) -> OwnNoiseInReference:
        """Return what starts of a pose refinement gain, each beside the place next to it.

        Parameters
        ----------
        view, c
            The images' band, and their whitened contrast transfer over the whole of it.
        compared
            The coefficients that are compared.
        """
        bonus, frequency2_per_A2 = self._strength(view, c, compared)
        pixel_A, k = view.group.pixel_A, self.weight.shape[1]
        # A copy of a start by symmetry lies beside a place: its inverse takes the place there.
        turn = self.rotations[image_of].mT @ rotations.double()[:, None]
        matrices = group.matrices.to(turn)
        trace = turn.flatten(2) @ matrices.flatten(1).T
        trace = torch.where(self.weight[image_of][..., None] > 0, trace, -torch.inf)
        best = trace.flatten(1).argmax(1)
        place, copy = best // len(matrices), best % len(matrices)
        at = image_of * k + place
        exponent = math.pi**2 * frequency2_per_A2[image_of]
        place_rotations = self.rotations.flatten(0, 1)[at]
        moved_A = (place_rotations @ group.shifts_A.to(turn)[copy][..., None])[:, :2, 0]
        return OwnNoiseInReference(
            rotations=place_rotations @ matrices[copy],
            shifts_px=self.shifts_px.flatten(0, 1)[at] - moved_A / pixel_A,
            bonus=self.weight.flatten()[at] * bonus[image_of],
            turn_decay=2 * exponent[:, None, None] * self._turned(rotations),
            move_decay=exponent * pixel_A**2,
        )

    def _turned(self, rotations: Float[Tensor, "m 3 3"]) -> Float[Tensor, "m 3 3"]:
        """Return how far turns move coefficients, in units of the reference's reach.

        A turn w moves the coefficient k of a slice by ``w x k``; of the square of that, measured by
        the spread M in the image's frame, this is the mean over the directions of k: a quadratic
        form in w, for k of length 1.
        """
        turned = rotations.double()
        m = turned @ self.reference.spread_A2.to(turned) @ turned.mT
        form = torch.zeros_like(m)
        form[:, 0, 0] = form[:, 1, 1] = 0.5 * m[:, 2, 2]
        form[:, 2, 2] = 0.5 * (m[:, 0, 0] + m[:, 1, 1])
        form[:, 0, 2] = form[:, 2, 0] = -0.5 * m[:, 0, 2]
        form[:, 1, 2] = form[:, 2, 1] = -0.5 * m[:, 1, 2]
        return form

    def _strength(
        self, view: GroupBand, c: Float[Tensor, "b p"], compared: slice
    ) -> tuple[Float[Tensor, "b"], Float[Tensor, "b"]]:
        """Return what images of weight 1 gain, and the mean square frequency it comes from."""
        radius = view.points[compared].norm(dim=1)
        at = interpolate_shells(self.reference.share.to(radius.device), radius).to(c.dtype)
        frequency2 = view.s_per_A[compared].square().sum(1).to(c.dtype)
        sums = (c[:, compared].square() @ torch.stack([at, at * frequency2], 1)).double()
        return sums[:, 0], sums[:, 1] / sums[:, 0].clamp_min(1e-30)


def spread_A2(power: Float[Tensor, "z y x"], voxel_A: float) -> Float[Tensor, "3 3"]:
    """Return the second moments (x, y, z) of a map's power about the box's centre.

    A map within a mask has, at a distance k from a coefficient into which noise was put, the
    transform of the mask at k of it: ``1 - 2π² kᵀ spread k`` to second order. The power of the
    reference itself stands for the mask, which need not be known then.
    """
    axis = voxel_A * (torch.arange(len(power), device=power.device).double() - len(power) // 2)
    # (y, x), (z, x) and (z, y): sums in double precision, without a copy of the map in it.
    planes = tuple(power.sum(along, dtype=torch.float64) for along in range(3))
    yx, zx, zy = ((plane * axis[:, None] * axis).sum() for plane in planes)
    lines = planes[0].sum(0), planes[0].sum(1), planes[1].sum(1)
    xx, yy, zz = ((line * axis.square()).sum() for line in lines)
    moments = torch.stack([xx, yx, zx, yx, yy, zy, zx, zy, zz]).view(3, 3)
    return moments / planes[0].sum().clamp_min(1e-30)
