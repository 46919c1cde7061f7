"""Atoms to Fourier space, without any gridded volume in between."""

import math
from dataclasses import dataclass

import finufft
import numpy as np
import torch
from jaxtyping import Complex, Float
from torch import Tensor

from cryorefine.engine.threads import side_by_side
from cryorefine.fourier.band import Band
from cryorefine.fourier.fft import volume_from_half
from cryorefine.fourier.shell import frequency_radius

__all__ = ["Atoms", "ScatteringBasis", "project_atoms", "scattering_basis", "volume_from_atoms"]

_AT_ONCE = 2
"""Radial functions that are transformed at once: each takes a grid of twice the box, of a gigabyte
for a box of 256 pixels. It changes no bit."""


@dataclass(frozen=True, eq=False)
class Atoms:
    """Scatterers.

    Attributes
    ----------
    xyz_A
        (n, 3) positions; the origin is the particle's centre.
    gaussian_a, gaussian_b_A2
        (n_types, 5): scattering factor ``sum a exp(-b s² / 4)`` of each type.
    type_index
        (n,) type of each atom.
    bfactor_A2, occupancy
        (n,) per atom.
    """

    xyz_A: np.ndarray
    gaussian_a: np.ndarray
    gaussian_b_A2: np.ndarray
    type_index: np.ndarray
    bfactor_A2: np.ndarray
    occupancy: np.ndarray

    def __len__(self) -> int:
        return len(self.xyz_A)


@dataclass(frozen=True, eq=False)
class ScatteringBasis:
    """Scattering curves of all atoms as sums of a few radial functions.

    Atom i scatters ``sum_j strength[j, i] curve_j(s)``, with the curves tabulated evenly from 0
    to ``max_s_per_A``.
    """

    strength: np.ndarray
    curves: np.ndarray
    max_s_per_A: float

    def at(self, s_per_A: np.ndarray) -> np.ndarray:
        """Return the curves (rank first) at frequencies, by linear interpolation."""
        grid = np.linspace(0, self.max_s_per_A, self.curves.shape[1])
        return np.stack([np.interp(s_per_A, grid, curve) for curve in self.curves])


def scattering_basis(
    atoms: Atoms, max_s_per_A: float, *, tolerance: float = 1e-4
) -> ScatteringBasis:
    """Factorise the atoms' scattering curves, B-factors included.

    However many elements and B-factors there are, a handful of radial functions spans their
    curves; each then costs one non-uniform transform. The singular values beyond ``tolerance``
    times the first are dropped.
    """
    grid = np.linspace(0, max_s_per_A, 2049)
    quarter_s2 = grid**2 / 4
    factors = np.einsum(
        "ta,tas->ts", atoms.gaussian_a, np.exp(-atoms.gaussian_b_A2[..., None] * quarter_s2)
    )
    # The curves of all atoms would be a large matrix; a type's curves at B-factors spread over
    # its range span the same space.
    b_low, b_high = float(atoms.bfactor_A2.min()), float(atoms.bfactor_A2.max())
    b_nodes = np.unique(np.linspace(b_low, b_high, 24))
    used = np.unique(atoms.type_index)
    samples = np.concatenate([factors[t] * np.exp(-b_nodes[:, None] * quarter_s2) for t in used])
    _, singular, vh = np.linalg.svd(samples, full_matrices=False)
    rank = int((singular > tolerance * singular[0]).sum())
    curves = vh[:rank]
    strength = np.empty((rank, len(atoms)))
    for t in used:
        mine = np.flatnonzero(atoms.type_index == t)
        values, inverse = np.unique(np.round(atoms.bfactor_A2[mine], 2), return_inverse=True)
        own = factors[t] * np.exp(-values[:, None] * quarter_s2)
        strength[:, mine] = (own @ curves.T)[inverse].T
    return ScatteringBasis(strength * atoms.occupancy, curves, max_s_per_A)


def project_atoms(
    atoms: Atoms,
    basis: ScatteringBasis,
    rotations: Float[Tensor, "n 3 3"],
    band: Band,
    pixel_A: float,
    *,
    accuracy: float = 1e-5,
    is_periodic: bool = True,
) -> Complex[Tensor, "n p"]:
    """Return the transforms of projections of the atoms, exactly at the band's frequencies.

    Parameters
    ----------
    rotations
        Object-to-image matrices.
    band
        Coefficients wanted, in cycles per ``band.size_px`` pixels.
    is_periodic
        Whether atoms beyond the box come in from its other side; if not, they are left out.

    Returns
    -------
    Coefficients in units of scattering factor per pixel volume: those of an image whose pixels
    hold the sum along the view of a map with cubic voxels of ``pixel_A``.

    Notes
    -----
    One type-1 non-uniform FFT of the rotated atoms an image (Barnett, Magland & af Klinteberg
    2019, SIAM J. Sci. Comput. 41, C479). Cost: a few milliseconds for 30,000 atoms.
    """
    n = band.size_px
    box_A = n * pixel_A
    modes = 2 * int(band.radius[-1] + 1.0) + 1
    half = modes // 2
    curves = basis.at(band.radius.numpy() / box_A)
    ky, kx = band.ky.numpy() + half, band.kx.numpy() + half
    strength = np.ascontiguousarray(basis.strength, dtype=np.complex64)
    # One thread: a transform takes less than waking a second one, and many times less than
    # waiting for one on a busy machine.
    plan = finufft.Plan(
        1,
        (modes, modes),
        n_trans=len(strength),
        eps=accuracy,
        isign=-1,
        dtype="complex64",
        nthreads=1,
    )
    out = np.empty((len(rotations), len(band)), np.complex64)
    for i, matrix in enumerate(rotations.double().numpy()):
        xy, inside = _phases((atoms.xyz_A @ matrix[:2].T) * (2 * math.pi / box_A), is_periodic)
        plan.setpts(
            np.ascontiguousarray(xy[:, 1], dtype=np.float32),
            np.ascontiguousarray(xy[:, 0], dtype=np.float32),
        )
        shown = strength if inside.all() else np.ascontiguousarray(strength[:, inside])
        spectra = plan.execute(shown).reshape(len(strength), modes, modes)
        out[i] = (spectra[:, ky, kx] * curves).sum(0)
    return torch.from_numpy(out / pixel_A**3)


def volume_from_atoms(
    atoms: Atoms, basis: ScatteringBasis, *, size_px: int, voxel_A: float, is_periodic: bool = True
) -> Float[Tensor, "z y x"]:
    """Return the map of the atoms, band-limited to the sphere below Nyquist.

    On the same scale as :func:`project_atoms`, whose ``is_periodic`` is the same: its projections
    are those images.
    """
    xyz, inside = _phases(atoms.xyz_A * (2 * math.pi / (size_px * voxel_A)), is_periodic)
    radius = frequency_radius(size_px, 3)
    curves = basis.at(radius.numpy() / (size_px * voxel_A)).astype(np.float32)
    total = np.zeros(radius.shape, np.complex64)
    z, y, x = (np.ascontiguousarray(xyz[:, a], dtype=np.float32) for a in (2, 1, 0))

    def spectrum(strength: np.ndarray) -> np.ndarray:
        # One thread: several add their atoms in the order in which they come, other bits each time.
        modes = finufft.nufft3d1(
            z, y, x, strength[inside].astype(np.complex64), (size_px,) * 3,
            eps=1e-5, isign=-1, nthreads=1,
        )  # fmt: skip
        return np.fft.ifftshift(modes)[:, :, : size_px // 2 + 1]

    for first in range(0, len(curves), _AT_ONCE):
        some = slice(first, first + _AT_ONCE)
        parts = side_by_side(spectrum, list(basis.strength[some]))
        for part, curve in zip(parts, curves[some], strict=True):
            total += part * curve
    half = torch.from_numpy(total / voxel_A**3)
    half[radius > (size_px - 1) / 2] = 0
    return volume_from_half(half, size_px)


def _phases(phase_rad: np.ndarray, is_periodic: bool) -> tuple[np.ndarray, np.ndarray]:
    """Return the phases of the atoms that are shown, brought to one period, and which these are."""
    inside = np.ones(len(phase_rad), bool)
    if not is_periodic:
        inside = np.abs(phase_rad).max(1) <= math.pi
    return np.mod(phase_rad[inside] + math.pi, 2 * math.pi) - math.pi, inside
