"""What an alignment compares: whitened images, and the reference that they are projections of."""

from dataclasses import dataclass

import torch
from jaxtyping import Complex, Float
from torch import Tensor

from cryorefine.assign.axis_prior import AxisPrior
from cryorefine.assign.own_noise import OwnNoise
from cryorefine.geometry.protocol import Symmetry
from cryorefine.kernels.grid import SliceGrid
from cryorefine.model.observe import GroupBand

__all__ = ["Reference", "WhitenedImages"]


@dataclass(frozen=True, eq=False)
class WhitenedImages:
    """Images of one sampling geometry, divided by the standard deviation of their noise.

    Attributes
    ----------
    view
        Their band, and where in the volume they sample it.
    x, c
        Whitened coefficients and contrast transfer of the whole band: ``x`` is ``c`` times a slice
        of the volume, moved by the image's shift, and noise of unit variance.
    own
        What poses gain by their image's own noise in the reference, which does not count; None
        where the reference holds none of the images.
    axis
        Where their filaments lie, for searches; None of particles that are none, or where nothing
        is known.
    """

    view: GroupBand
    x: Complex[Tensor, "b p"]
    c: Float[Tensor, "b p"]
    own: OwnNoise | None = None
    axis: AxisPrior | None = None

    def __len__(self) -> int:
        """Return how many images there are."""
        return len(self.x)

    @property
    def device(self) -> torch.device:
        """Where the images are."""
        return self.x.device

    @property
    def last_shell(self) -> int:
        """The last shell of the band."""
        return self.view.band.n_shells - 1


@dataclass(frozen=True, eq=False)
class Reference:
    """What images are compared with.

    Attributes
    ----------
    grid
        The reference's transform, of which slices are read.
    symmetry
        Of the particle: poses that it makes alike are one.
    """

    grid: SliceGrid
    symmetry: Symmetry
