"""What a restoration is: two half maps and their context in, two half maps out."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Protocol, runtime_checkable

from jaxtyping import Bool, Float
from torch import Tensor

from cryorefine.evaluate.fsc import FscCurves
from cryorefine.masks.soft import sphere_mask

__all__ = ["Context", "Fact", "Halves", "Restoration", "Restored", "background", "inside"]

Halves = tuple[Float[Tensor, "z y x"], Float[Tensor, "z y x"]]
"""Half 1 and half 2, of one box and on one device."""

Fact = float | str | None
"""One thing that was found or done, as JSON can say it; None where there was nothing to find."""


@dataclass(frozen=True, eq=False)
class Context:
    """What restorations may know besides the half maps.

    Attributes
    ----------
    voxel_A
        Size of the voxels.
    mask
        Soft, 0 to 1: where the particle is. On the device of the half maps.
    curves
        FSC of the raw half maps.
    """

    voxel_A: float
    mask: Float[Tensor, "z y x"]
    curves: FscCurves


@dataclass(frozen=True, eq=False)
class Restored:
    """What a restoration made.

    Attributes
    ----------
    halves
        The half maps; those that were given are never changed in place.
    facts
        What was found, by name with its unit, for the record of what was done.
    maps
        Further maps by name, such as where the halves disagree.
    """

    halves: Halves
    facts: Mapping[str, Fact] = field(default_factory=dict)
    maps: Mapping[str, Float[Tensor, "z y x"]] = field(default_factory=dict)


@runtime_checkable
class Restoration(Protocol):
    """One restoration with its parameters. Deterministic, on whatever device the half maps are.

    A new one is a file with such a class, its place in :data:`cryorefine.restore.registry.ORDER`,
    and its setting.
    """

    name: ClassVar[str]
    """By which records and the Python interface know it."""

    title: ClassVar[str]
    """What it is called in reports."""

    mixes_halves: ClassVar[bool]
    """Whether voxels of one half enter the other, so that the FSC of the two says nothing any more.

    Curves over shells and single numbers found from both halves do not count, as the FSC is one.
    """

    def __call__(self, halves: Halves, context: Context) -> Restored:
        """Return the restored half maps."""
        ...


def inside(context: Context) -> Bool[Tensor, "z y x"]:
    """Return where the particle is: the mask above one half."""
    return context.mask > 0.5


def background(context: Context) -> Bool[Tensor, "z y x"]:
    """Return the solvent: outside the mask, and within the sphere that the box holds.

    Corners are left out, since many programs leave them empty.
    """
    n = context.mask.shape[-1]
    sphere = sphere_mask(n, n / 2 - 1, 0.0, context.mask.device)
    return (context.mask < 0.5) & (sphere > 0.5)
