"""Filaments: the atoms of a helix that is longer than any image of it, and the map of a piece."""

import math

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from cryorefine.fourier.fft import fast_even_length
from cryorefine.geometry.helix import Helix
from cryorefine.model.atoms import Atoms, scattering_basis, volume_from_atoms

__all__ = ["MAX_LEAN_DEG", "filament_atoms", "filament_map", "made_up_subunit"]

MAX_LEAN_DEG = 30.0
"""By how much a simulated filament's view may differ from the side: an image then holds at most
1.15 times its own diagonal of it."""

_N_ATOMS = 150
"""Of a made-up subunit: enough that no two subunits are alike, few enough that a filament of 500
of them is projected in hundredths of a second."""

_SPREAD_A = 8.0
"""Standard deviation of a made-up subunit's atoms across its spoke, and least distance from the
axis: a subunit is then as thick as a small domain of a protein."""

_BFACTOR_A2 = 60.0
"""Of the atoms of a made-up subunit: its detail falls to a tenth at 2.5 Å, as in good maps."""

_MARGIN = 1.5
"""Side of the box in which the map of a piece is made, over its own: what is cut at the larger
box's faces rings there, and not in the piece."""


def made_up_subunit(diameter_A: float, seed: int) -> Atoms:
    """Return atoms at random along a spoke from the axis of a filament, z, to its rim.

    Parameters
    ----------
    diameter_A
        Of the filament, 40 Å at least; the farthest atom lies at its rim.
    seed
        The same seed gives the same subunit.
    """
    rng = np.random.default_rng(seed)
    rim_A = diameter_A / 2
    radius = rim_A * np.sqrt(rng.uniform((_SPREAD_A / rim_A) ** 2, 1, _N_ATOMS))
    across, along = rng.normal(0, _SPREAD_A, (2, _N_ATOMS))
    xyz = np.stack([radius, across, along], -1)
    far_A = np.hypot(xyz[:, 0], xyz[:, 1])
    xyz[:, :2] *= np.minimum(1, rim_A / far_A)[:, None]
    return Atoms(
        xyz_A=xyz,
        gaussian_a=np.array([[0.7307, 1.1951, 0.4563, 0.1247, 0.0]]),
        gaussian_b_A2=np.array([[36.9951, 11.2966, 2.8139, 0.3456, 0.0]]),
        type_index=np.zeros(_N_ATOMS, np.int64),
        bfactor_A2=np.full(_N_ATOMS, _BFACTOR_A2),
        occupancy=np.ones(_N_ATOMS),
    )


def filament_atoms(unit: Atoms, helix: Helix, *, box_A: float) -> Atoms:
    """Return the atoms of a filament that ends in no image of a box, nor in the box about it.

    Parameters
    ----------
    unit
        What one step of one fold of the helix repeats, about z through the origin.
    box_A
        Side of the images. The filament reaches as far as the corners of a box of twice the side,
        in which contrast transfer is applied, at :data:`MAX_LEAN_DEG` and a step off the middle.
    """
    reach_A = math.sqrt(2) * box_A / math.cos(math.radians(MAX_LEAN_DEG))
    height_A = float(np.abs(unit.xyz_A[:, 2]).max())
    copies = helix.within(2 * (reach_A + height_A + helix.rise_A))
    turned = unit.xyz_A @ copies.matrices.numpy().transpose(0, 2, 1)
    moved = (turned + copies.shifts_A.numpy()[:, None]).reshape(-1, 3)
    return Atoms(
        xyz_A=moved,
        gaussian_a=unit.gaussian_a,
        gaussian_b_A2=unit.gaussian_b_A2,
        type_index=np.tile(unit.type_index, copies.order),
        bfactor_A2=np.tile(unit.bfactor_A2, copies.order),
        occupancy=np.tile(unit.occupancy, copies.order),
    )


def filament_map(atoms: Atoms, *, size_px: int, voxel_A: float) -> Float[Tensor, "z y x"]:
    """Return the map of the middle of a filament, cut at the faces of the box.

    Parameters
    ----------
    atoms
        From :func:`filament_atoms`, for images of this box or a larger one.
    """
    basis = scattering_basis(atoms, 0.95 / voxel_A)
    large = fast_even_length(_MARGIN * size_px)
    whole = volume_from_atoms(atoms, basis, size_px=large, voxel_A=voxel_A, is_periodic=False)
    low = large // 2 - size_px // 2
    middle = slice(low, low + size_px)
    return whole[middle, middle, middle].clone(memory_format=torch.contiguous_format)
