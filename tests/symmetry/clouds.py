"""Maps of random subunits: coordinates are turned and moved, not maps, so that axes are known."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cryorefine.fourier.filter import filter_volume, low_pass
from cryorefine.geometry.rotation import random_rotations
from cryorefine.geometry.symmetry import parse_symmetry

SIZE_PX, VOXEL_A, RADIUS_A = 64, 3.5, 70.0
DETAIL_A = 10.0


@dataclass(frozen=True)
class Cloud:
    """A noisy map, its two halves, and how its axes lie.

    ``rotation`` takes the conventional axes to those in the map; ``centre_A`` is where they meet.
    """

    halves: tuple[Tensor, Tensor]
    rotation: np.ndarray
    centre_A: np.ndarray

    @property
    def map(self) -> Tensor:
        return (self.halves[0] + self.halves[1]) / 2


def subunit(rng, n=150):
    """Return points about a place off the axes."""
    middle = rng.normal(size=3)
    middle *= RADIUS_A * rng.uniform(0.45, 0.7) / np.linalg.norm(middle)
    points = middle + rng.normal(size=(n, 3)) * RADIUS_A * 0.22
    distance = np.linalg.norm(points, axis=1)
    return points[(distance < RADIUS_A) & (distance > 0.15 * RADIUS_A)]


def two_rings(rng, changed):
    """Return a subunit and its mate by a two-fold axis, of which a part is replaced by another."""
    upper = rng.normal(size=(150, 3)) * RADIUS_A * 0.13 + [40, 6, 22]
    lower = upper * [1, -1, -1]
    is_new = rng.random(len(lower)) < changed
    lower[is_new] = lower.mean(0) + rng.normal(size=(is_new.sum(), 3)) * RADIUS_A * 0.13
    return np.concatenate([upper, lower])


def cloud(name, *, seed=1, noise=0.25, unit=None, detail_A=DETAIL_A):
    """Return a particle of this symmetry in a random orientation, up to 10 Å off centre.

    Noise is white up to the detail, of ``noise`` standard deviations of the particle, in each half
    more by a square root of two.
    """
    rng = np.random.default_rng(seed)
    group = parse_symmetry(name).matrices.numpy()
    if unit is None:
        unit = np.concatenate([subunit(rng, 200) for _ in range(max(1, 6 // len(group)))])
    points = np.concatenate([unit @ g.T for g in group])
    rotation = random_rotations(1, torch.Generator().manual_seed(seed))[0].numpy()
    centre_A = rng.uniform(-10, 10, 3)
    clean = low_pass(
        density(points @ rotation.T + centre_A), voxel_A=VOXEL_A, resolution_A=detail_A
    )
    clean = clean / clean[clean > 0.1 * clean.max()].std()
    generator = torch.Generator().manual_seed(seed)
    halves = []
    for _ in range(2):
        white = torch.randn((SIZE_PX,) * 3, generator=generator)
        white = low_pass(white, voxel_A=VOXEL_A, resolution_A=detail_A)
        halves.append(clean + white * (noise * math.sqrt(2) / white.std()))
    return Cloud((halves[0], halves[1]), rotation, centre_A)


def density(points):
    """Return a Gaussian of 3 Å at each point."""
    volume = np.zeros((SIZE_PX,) * 3)
    places = points[:, ::-1] / VOXEL_A + SIZE_PX // 2
    low = np.floor(places).astype(int)
    part = places - low
    for corner in np.ndindex(2, 2, 2):
        weight = np.abs(1 - np.array(corner) - part).prod(1)
        np.add.at(volume, tuple((low + corner).T), weight)
    blur = 2 * (math.pi * 3.0 / (SIZE_PX * VOXEL_A)) ** 2
    return filter_volume(torch.from_numpy(volume).float(), lambda k: (-blur * k * k).exp())
