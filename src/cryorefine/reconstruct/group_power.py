"""The power of images by optics group, and how much the images of a group differ in it."""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from cryorefine.fourier.band import Band

__all__ = ["GroupPower", "band_edges", "power_in_bands", "power_sums"]

_LEAST_SHELLS, _WIDTH = 4, 1 / 3
"""Bands of shells in which groups are compared: noise has its colour over octaves. Narrower ones
tell less, and the first four shells have some 25 coefficients together."""


def band_edges(n_shells: int) -> list[int]:
    """Return the first shells of the bands in which groups are compared, and the end."""
    edges = [0]
    while edges[-1] < n_shells:
        edges.append(min(n_shells, edges[-1] + max(_LEAST_SHELLS, int(edges[-1] * _WIDTH))))
    return edges


@dataclass(frozen=True, eq=False)
class GroupPower:
    """Sums over images, by optics group.

    Attributes
    ----------
    power
        By shell: the mean power.
    squares
        By band of shells: the square of the mean power of the band's coefficients. Only where
        several groups share their geometry.
    """

    power: Float[Tensor, "g s"]
    squares: Float[Tensor, "g b"]

    def merge(self, other: "GroupPower") -> "GroupPower":
        """Return the sum of both, in the memory of this one."""
        self.power.add_(other.power)
        self.squares.add_(other.squares)
        return self

    def cpu(self) -> "GroupPower":
        """Return the sums on the CPU."""
        return GroupPower(self.power.cpu(), self.squares.cpu())

    def add(self, groups: np.ndarray, power: Float[Tensor, "g s"]) -> None:
        """Add sums over images of each shell's power, a row for each of ``groups``."""
        index = torch.from_numpy(groups).to(self.power.device)
        self.power[index, : power.shape[1]] += power.to(self.power.device)

    def add_images(self, group_of: np.ndarray, power: Float[Tensor, "n s"], band: Band) -> None:
        """Add images of groups that share their geometry, one by one.

        Parameters
        ----------
        group_of
            Optics group of each image.
        power
            Of each image, by shell.
        """
        groups, place = np.unique(group_of, return_inverse=True)
        of = torch.from_numpy(place).to(power.device)
        in_bands = power_in_bands(power, torch.bincount(band.shell, minlength=band.n_shells))
        for sums, values in ((self.power, power), (self.squares, in_bands.square())):
            found = values.new_zeros(len(groups), values.shape[1]).index_add_(0, of, values)
            index = torch.from_numpy(groups).to(sums.device)
            sums[index, : found.shape[1]] += found.to(sums.device)


def power_sums(n_shells: list[int], device: torch.device | str = "cpu") -> GroupPower:
    """Return empty sums of groups with so many shells each."""
    most = max(n_shells)
    n_bands = len(band_edges(most)) - 1
    power = torch.zeros(len(n_shells), most, dtype=torch.float64, device=device)
    squares = torch.zeros(len(n_shells), n_bands, dtype=torch.float64, device=device)
    return GroupPower(power, squares)


def power_in_bands(power: Float[Tensor, "n s"], count: Int[Tensor, "s"]) -> Float[Tensor, "n b"]:
    """Return the mean power of the coefficients of each band, of which shells have ``count``."""
    edges = band_edges(power.shape[1])
    summed = power * count
    means = [summed[:, a:b].sum(1) / count[a:b].sum() for a, b in pairwise(edges)]
    return torch.stack(means, 1)
