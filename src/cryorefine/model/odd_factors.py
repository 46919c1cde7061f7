"""What takes the antisymmetric aberrations of many optics groups out of their images."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Complex, Float
from torch import Tensor

from cryorefine.model.observe import GroupBand
from cryorefine.optics.aberration import odd_basis, odd_coefficients
from cryorefine.optics.ctf import image_frequencies
from cryorefine.optics.group import OpticsGroup

__all__ = ["OddFactors", "make_odd_factors"]


@dataclass(frozen=True, eq=False)
class OddFactors:
    """Factors ``exp(-i phase)`` of the optics groups of one sampling geometry.

    They are worked out for a batch at a time: those of hundreds of groups, all together, would
    take more memory than the images that are worked on.

    Attributes
    ----------
    coefficients
        By optics group, in turns: the phase is their sum over ``basis``.
    basis
        Functions of the band's frequencies, see :func:`~cryorefine.optics.aberration.odd_basis`.
    """

    coefficients: Float[Tensor, "g m"]
    basis: Float[Tensor, "m p"]

    def of(self, group_of: np.ndarray) -> Complex[Tensor, "#b p"] | None:
        """Return the factors of images; one row if they share their group, None if all are 1.

        Parameters
        ----------
        group_of
            Optics group of each image.
        """
        groups, place = np.unique(group_of, return_inverse=True)
        coefficients = self.coefficients[torch.from_numpy(groups)]
        if not bool(coefficients.any()):
            return None
        turns = coefficients.to(self.basis.device) @ self.basis
        # Less whole turns, an angle keeps all its digits in single precision.
        angle = ((turns.round() - turns) * (2 * math.pi)).float()
        factors = torch.polar(torch.ones_like(angle), angle)
        if len(groups) == 1:
            return factors
        return factors[torch.from_numpy(place).to(factors.device)]


def make_odd_factors(groups: Sequence[OpticsGroup], view: GroupBand) -> OddFactors:
    """Prepare the factors of optics groups, those of the view's sampling geometry among them.

    Rows of groups of another geometry mean nothing: their frequencies are others.
    """
    n_zernike = max(len(group.odd_zernike) for group in groups)
    s_per_A = image_frequencies(view.group, view.k_px().cpu().double())
    return OddFactors(
        odd_coefficients(groups, n_zernike) / (2 * math.pi),
        odd_basis(s_per_A, n_zernike).to(view.points.device),
    )
