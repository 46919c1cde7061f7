"""Half maps of a known truth, for the tests of restorations."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from cryorefine.evaluate.fsc import half_map_fsc
from cryorefine.fourier.filter import filter_volume
from cryorefine.masks.soft import soft_edge
from cryorefine.model.atoms import scattering_basis, volume_from_atoms
from cryorefine.restore.protocol import Context, Halves
from tests.builders import phantom

VOXEL_A = 2.0


@dataclass(frozen=True, eq=False)
class Pair:
    """Two half maps, what they show, and their context."""

    truth: Float[Tensor, "z y x"]
    halves: Halves
    context: Context


def true_map(size_px: int, symmetry: str = "c1", *, seed: int = 1) -> Float[Tensor, "z y x"]:
    """Return a protein's map, of variance 1 over the box, that fills two thirds of it."""
    atoms = phantom(symmetry, 0.62 * size_px * VOXEL_A, seed)
    basis = scattering_basis(atoms, 1 / VOXEL_A)
    volume = volume_from_atoms(atoms, basis, size_px=size_px, voxel_A=VOXEL_A)
    return volume / volume.std()


def noise(size_px: int, seed: int) -> Float[Tensor, "z y x"]:
    """Return white noise of variance 1."""
    return torch.randn((size_px,) * 3, generator=torch.Generator().manual_seed(seed))


def context_of(truth: Tensor, halves: Halves, *, voxel_A: float = VOXEL_A) -> Context:
    """Return the context of half maps, with a mask round the truth."""
    smooth = filter_volume(truth, lambda k: (-((k / len(truth)) ** 2) * 100).exp())
    mask = soft_edge((smooth > 0.3 * smooth.max()).float(), grow_px=2, edge_px=4)
    return Context(voxel_A, mask, half_map_fsc(*halves, voxel_A=voxel_A, mask=mask))


def make_pair(
    truth: Tensor, *, noise_std: float = 1.0, sigma_per_px: float | None = 0.15, seed: int = 3
) -> Pair:
    """Return half maps: the truth blurred by a Gaussian in Fourier space, and white noise."""
    n = len(truth)
    blurred = truth
    if sigma_per_px is not None:
        blurred = filter_volume(truth, lambda k: (-((k / n) ** 2) / (2 * sigma_per_px**2)).exp())
    first, second = (blurred + noise_std * noise(n, seed + i) for i in (0, 1))
    return Pair(truth, (first, second), context_of(truth, (first, second)))


def average(halves: Halves) -> Float[Tensor, "z y x"]:
    """Return the mean of two half maps."""
    return (halves[0] + halves[1]) / 2


def correlation(a: Tensor, b: Tensor) -> float:
    """Return the correlation of two maps, or of what masks have left of them."""
    a, b = a.double() - a.double().mean(), b.double() - b.double().mean()
    return float((a * b).sum() / (a.norm() * b.norm()))
