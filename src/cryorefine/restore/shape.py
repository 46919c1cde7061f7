"""Shape the map that particles are compared with next: filter, outline, positivity, dropout."""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from cryorefine.fourier.filter import low_pass
from cryorefine.masks.cylinder import cylinder_mask
from cryorefine.masks.soft import sphere_mask

__all__ = ["ReferenceShaping", "Shape", "drop_voxels", "shape_reference", "without_negative"]

Shape = Literal["sphere", "cylinder", "none"]

_EDGE_PX = 5.0
"""Width of a mask's cosine edge: a mask without one would ring in Fourier space. It is customary;
not measured."""


@dataclass(frozen=True, eq=False)
class ReferenceShaping:
    """What is to be done to a reference; as given here, nothing.

    Attributes
    ----------
    lowpass_A
        Resolution that it is low-passed to; None for no low-pass.
    shape, radius_px
        Outline that it is multiplied by, and its radius. The edge of 5 px lies outside; the box may
        cut it.
    positivity
        Whether negative values become 0.
    mask
        Multiplied with, 0 to 1; None for none.
    dropout
        Probability that a voxel is dropped; see :func:`drop_voxels`.
    """

    radius_px: float
    shape: Shape = "none"
    lowpass_A: float | None = None
    positivity: bool = False
    mask: Float[Tensor, "z y x"] | None = None
    dropout: float = 0.0


def drop_voxels(
    volume: Float[Tensor, "z y x"],
    inside: Bool[Tensor, "z y x"] | Float[Tensor, "z y x"],
    *,
    probability: float,
    seed: int,
) -> Float[Tensor, "z y x"]:
    """Set voxels to 0 at random; the others keep their values, they are not scaled up.

    Which ones depends on the seed and on the size of the box, not on the device, and whether a
    voxel inside goes does not depend on the rest of ``inside``. One with a higher probability
    includes all that go with a lower one.

    Parameters
    ----------
    inside
        Where voxels may go: true, or above ½.
    probability
        That one goes, 0 to 1.
    """
    # Drawn on the CPU: other devices have other generators.
    chance = torch.rand(volume.shape, generator=torch.Generator().manual_seed(seed))
    gone = (chance < probability).to(volume.device) & (inside > 0.5).to(volume.device)
    return volume.masked_fill(gone, 0.0)


def without_negative(volume: Float[Tensor, "z y x"]) -> Float[Tensor, "z y x"]:
    """Return a map with 0 where it was negative."""
    return volume.clamp_min(0)


def shape_reference(
    volume: Float[Tensor, "z y x"],
    shaping: ReferenceShaping,
    *,
    voxel_A: float,
    seed: int,
) -> Float[Tensor, "z y x"]:
    """Return the reference made of a map, one step after the other.

    1. It is low-passed to ``lowpass_A``,
    2. multiplied by the shape, a sphere or a cylinder about z,
    3. set to 0 where it is negative,
    4. multiplied by the mask,
    5. and voxels are dropped where the mask is above ½: the shape where there is no mask, the
       whole box where there is neither.

    Steps that nobody asked for leave the map as it is. On the device of ``volume``.

    Parameters
    ----------
    seed
        Of the voxels that are dropped.
    """
    outline = _outline(shaping, volume.shape[-1], volume.device)
    mask = None if shaping.mask is None else shaping.mask.to(volume.device)
    if shaping.lowpass_A is not None:
        volume = low_pass(volume, voxel_A=voxel_A, resolution_A=shaping.lowpass_A)
    if outline is not None:
        volume = volume * outline
    if shaping.positivity:
        volume = without_negative(volume)
    if mask is not None:
        volume = volume * mask
    if shaping.dropout > 0:
        inside = mask if mask is not None else outline
        inside = torch.ones_like(volume) if inside is None else inside
        volume = drop_voxels(volume, inside, probability=shaping.dropout, seed=seed)
    return volume


def _outline(
    shaping: ReferenceShaping, size_px: int, device: torch.device
) -> Float[Tensor, "z y x"] | None:
    if shaping.shape == "none":
        return None
    make = sphere_mask if shaping.shape == "sphere" else cylinder_mask
    return make(size_px, shaping.radius_px, _EDGE_PX, device)
