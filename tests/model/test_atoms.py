import math
import os
import subprocess
import sys
from functools import lru_cache

import numpy as np
import pytest
import torch

from cryorefine.fourier.band import Band, make_band, phase_ramp
from cryorefine.fourier.fft import image_from_half, image_to_half
from cryorefine.geometry.rotation import matrix_from_rotvec, random_rotations
from cryorefine.kernels.dispatch import extract_slices
from cryorefine.kernels.grid import make_slice_grid
from cryorefine.model.atoms import (
    Atoms,
    project_atoms,
    scattering_basis,
    volume_from_atoms,
)

# Electron scattering factors of International Tables C, table 4.3.2.2: hydrogen to oxygen and
# sulphur. Only that they differ matters here.
GAUSSIAN_A = np.array(
    [
        [0.0349, 0.1201, 0.1970, 0.0573, 0.1195],
        [0.0893, 0.2563, 0.7570, 1.0487, 0.3575],
        [0.1022, 0.3219, 0.7982, 0.8197, 0.1715],
        [0.0974, 0.2921, 0.6910, 0.6990, 0.2039],
        [0.2497, 0.5628, 1.3899, 2.1865, 0.7715],
    ]
)
GAUSSIAN_B = np.array(
    [
        [0.5347, 3.5867, 12.3471, 18.9525, 38.6269],
        [0.2465, 1.7100, 6.4094, 18.6113, 50.2523],
        [0.2451, 1.7481, 6.1925, 17.3894, 48.1431],
        [0.2067, 1.3815, 4.6943, 12.7105, 32.4726],
        [0.2681, 1.6711, 7.0267, 19.5377, 50.3888],
    ]
)


@lru_cache
def _atoms(n: int, b_low: float, b_high: float, radius_A: float = 20.0) -> Atoms:
    """Return atoms of five elements spread over a ball, B-factors to 0.01 Å² as files have them."""
    rng = np.random.default_rng(n)
    xyz = rng.normal(size=(n, 3))
    xyz *= radius_A * rng.random((n, 1)) ** (1 / 3) / np.linalg.norm(xyz, axis=1, keepdims=True)
    return Atoms(
        xyz_A=xyz,
        gaussian_a=GAUSSIAN_A,
        gaussian_b_A2=GAUSSIAN_B,
        type_index=rng.integers(0, len(GAUSSIAN_A), n),
        bfactor_A2=np.round(rng.uniform(b_low, b_high, n), 2),
        occupancy=rng.uniform(0.3, 1.0, n),
    )


def _turned(atoms: Atoms, rotation: torch.Tensor, shift_A: np.ndarray) -> Atoms:
    moved = atoms.xyz_A @ rotation.numpy().T + shift_A
    return Atoms(**{**atoms.__dict__, "xyz_A": moved})


def _poses(n: int) -> torch.Tensor:
    return random_rotations(n, torch.Generator().manual_seed(7))


def _direct_sum(atoms: Atoms, poses: torch.Tensor, band: Band, pixel_A: float) -> np.ndarray:
    """Return the projections' transforms as sums over atoms in double precision."""
    box_A = band.size_px * pixel_A
    k = np.stack([band.kx.numpy(), band.ky.numpy()], -1) / box_A
    s2 = (k**2).sum(1)
    out = []
    for pose in poses.numpy():
        total = np.zeros(len(k), complex)
        for i in range(len(atoms)):
            t = atoms.type_index[i]
            b = atoms.gaussian_b_A2[t] + atoms.bfactor_A2[i]
            factor = (atoms.gaussian_a[t][:, None] * np.exp(-b[:, None] * s2 / 4)).sum(0)
            place = (pose @ atoms.xyz_A[i])[:2]
            total += atoms.occupancy[i] * factor * np.exp(-2j * math.pi * (k @ place))
        out.append(total)
    return np.array(out) / pixel_A**3


def _relative(found, expected) -> float:
    found, expected = np.asarray(found), np.asarray(expected)
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


@pytest.mark.parametrize("size_px", [48, 49])
@pytest.mark.parametrize(("b_low", "b_high"), [(0.0, 0.0), (20.0, 20.0), (0.0, 150.0)])
@pytest.mark.parametrize("pixel_A", [1.0, 2.5])
def test_projections_are_the_sums_over_atoms_in_double_precision(size_px, b_low, b_high, pixel_A):
    atoms, band = _atoms(120, b_low, b_high), make_band(size_px, size_px)
    basis = scattering_basis(atoms, 0.75 / pixel_A)
    found = project_atoms(atoms, basis, _poses(2), band, pixel_A)
    assert found.dtype == torch.complex64
    # The scattering curves' basis drops what is below 1e-4; the transform itself adds 1e-5.
    assert _relative(found, _direct_sum(atoms, _poses(2), band, pixel_A)) < 1e-4


def test_one_atom_at_the_origin_scatters_its_factor_and_nothing_else():
    atoms = Atoms(
        np.zeros((1, 3)), GAUSSIAN_A[1:2], GAUSSIAN_B[1:2], np.zeros(1, int), np.zeros(1),
        np.ones(1),
    )  # fmt: skip
    band = make_band(32, 15)
    found = project_atoms(atoms, scattering_basis(atoms, 0.75), _poses(1), band, 1.0)[0]
    s = band.radius.double().numpy() / 32
    expected = (GAUSSIAN_A[1][:, None] * np.exp(-GAUSSIAN_B[1][:, None] * s**2 / 4)).sum(0)
    # The curves are tabulated at 2,049 points and joined by straight lines.
    np.testing.assert_allclose(found, expected, atol=5e-5 * expected[0])


def test_no_poses_give_no_projections():
    atoms, band = _atoms(5, 20.0, 20.0), make_band(16, 7)
    found = project_atoms(atoms, scattering_basis(atoms, 0.75), _poses(0), band, 1.0)
    assert found.shape == (0, len(band))


def test_strengths_and_curves_multiply_to_every_atoms_scattering():
    atoms = _atoms(120, 0.0, 150.0)
    basis = scattering_basis(atoms, 0.5)
    s = np.linspace(0, 0.5, 300)
    found = basis.strength.T @ basis.at(s)
    b = atoms.gaussian_b_A2[atoms.type_index] + atoms.bfactor_A2[:, None]
    a = atoms.gaussian_a[atoms.type_index] * atoms.occupancy[:, None]
    expected = (a[..., None] * np.exp(-b[..., None] * s**2 / 4)).sum(1)
    # Each row within the tolerance times the first singular value, here √(5 types · 24 B) curves.
    worst = np.linalg.norm(found - expected, axis=1) / np.linalg.norm(expected, axis=1)
    assert worst.max() < 1e-4 * math.sqrt(5 * 24)
    assert len(basis.curves) <= 10


@pytest.mark.parametrize("accuracy", [1e-2, 1e-5])
def test_the_accuracy_asked_for_is_kept(accuracy):
    atoms, band = _atoms(120, 20.0, 80.0), make_band(48, 48)
    basis = scattering_basis(atoms, 0.75, tolerance=1e-7)
    found = project_atoms(atoms, basis, _poses(2), band, 1.0, accuracy=accuracy)
    # finufft's error is relative to the norm of strengths and of its output.
    assert _relative(found, _direct_sum(atoms, _poses(2), band, 1.0)) < 3 * accuracy


@pytest.mark.parametrize("size_px", [40, 41])
def test_turning_the_atoms_and_their_poses_back_changes_nothing(size_px):
    atoms, band, poses = _atoms(120, 20.0, 60.0), make_band(size_px, size_px), _poses(3)
    turn = matrix_from_rotvec(torch.tensor([0.3, -1.1, 0.8], dtype=torch.float64))
    basis = scattering_basis(atoms, 0.75)
    before = project_atoms(atoms, basis, poses, band, 1.0)
    after = project_atoms(_turned(atoms, turn, np.zeros(3)), basis, poses @ turn.T, band, 1.0)
    assert _relative(after, before) < 2e-5


@pytest.mark.parametrize("size_px", [40, 41])
def test_moving_the_atoms_moves_the_projection_by_the_posed_shift(size_px):
    atoms, band, poses = _atoms(120, 20.0, 60.0), make_band(size_px, size_px), _poses(3)
    shift_A, pixel_A = np.array([3.0, -5.5, 2.2]), 1.3
    basis = scattering_basis(atoms, 0.75 / pixel_A)
    before = project_atoms(atoms, basis, poses, band, pixel_A)
    moved = _turned(atoms, torch.eye(3), shift_A)
    after = project_atoms(moved, basis, poses, band, pixel_A)
    seen_px = (poses @ torch.from_numpy(shift_A))[:, :2] / pixel_A
    assert _relative(after, before * phase_ramp(band, seen_px)) < 2e-5


def test_atoms_beyond_the_box_come_in_from_the_other_side():
    # As any periodic box does it: a shift by whole boxes is no shift.
    atoms, band = _atoms(120, 20.0, 60.0), make_band(40, 40)
    basis = scattering_basis(atoms, 0.75)
    pose = torch.eye(3, dtype=torch.float64)[None]
    moved = _turned(atoms, torch.eye(3), np.array([40.0, -80.0, 13.0]))
    assert _relative(
        project_atoms(moved, basis, pose, band, 1.0), project_atoms(atoms, basis, pose, band, 1.0)
    ) < 2e-5  # fmt: skip


# Along the axes the projection of the map is a sum of voxels: no interpolation comes in.
ALONG_AXES = {
    "z": ((1, 0, 0), (0, 1, 0), (0, 0, 1)),
    "x": ((0, 1, 0), (0, 0, 1), (1, 0, 0)),
    "y": ((0, 0, 1), (1, 0, 0), (0, 1, 0)),
}


@pytest.mark.parametrize("size_px", [32, 33])
@pytest.mark.parametrize("along", ALONG_AXES)
def test_summing_the_map_along_an_axis_gives_the_projection_of_the_atoms(size_px, along):
    atoms, voxel_A = _atoms(120, 20.0, 60.0), 1.6
    basis = scattering_basis(atoms, 0.95 / voxel_A)
    volume = volume_from_atoms(atoms, basis, size_px=size_px, voxel_A=voxel_A)
    assert volume.shape == (size_px,) * 3
    band = make_band(size_px, (size_px - 1) / 2)
    pose = torch.tensor(ALONG_AXES[along], dtype=torch.float64)[None]
    expected = project_atoms(atoms, basis, pose, band, voxel_A)[0]
    # Axes z, y, x of the map; image rows are y, columns x of the posed object.
    summed = {"z": volume.sum(0), "x": volume.sum(2), "y": volume.sum(1).T}[along]
    assert _relative(band.take(image_to_half(summed)), expected) < 2e-5
    picture = image_from_half(band.put(expected), size_px)
    assert _relative(summed, picture) < 2e-5


@pytest.mark.parametrize("size_px", [48, 49])
def test_slices_of_the_map_are_projections_of_the_atoms(size_px):
    # B-factors that let nothing reach the map's cut at Nyquist, so that only the slices'
    # interpolation is left: 1 % relative error, as the kernel states.
    atoms, voxel_A = _atoms(120, 200.0, 300.0), 1.5
    basis = scattering_basis(atoms, 0.95 / voxel_A)
    volume = volume_from_atoms(atoms, basis, size_px=size_px, voxel_A=voxel_A)
    band, poses = make_band(size_px, (size_px - 1) // 2 - 1), _poses(6)
    k = torch.stack([band.kx, band.ky], -1).float()
    found = extract_slices(make_slice_grid(volume, size_px), poses, k)
    assert _relative(found, project_atoms(atoms, basis, poses, band, voxel_A)) < 0.01


SAME_BITS = """
import torch
from cryorefine.engine.threads import use_threads
from cryorefine.model.atoms import scattering_basis, volume_from_atoms
from tests.model.test_atoms import _atoms

atoms = _atoms(5000, 0.0, 150.0, radius_A=40.0)
basis = scattering_basis(atoms, 0.95)
assert len(basis.strength) > 2  # more than are transformed at once
found = []
for threads in (1, 2, 2, 5):
    use_threads(threads)
    found.append(volume_from_atoms(atoms, basis, size_px=48, voxel_A=1.0))
assert all(torch.equal(one, found[0]) for one in found)
"""


def test_the_map_has_the_same_bits_each_time_and_with_any_number_of_threads():
    # In a process of its own, since OpenMP takes its number of threads when it is loaded.
    environment = {**os.environ, "OMP_NUM_THREADS": "4"}
    subprocess.run([sys.executable, "-c", SAME_BITS], env=environment, check=True)


@pytest.mark.parametrize("size_px", [32, 33])
def test_the_map_has_nothing_beyond_the_sphere_below_nyquist(size_px):
    atoms = _atoms(50, 0.0, 0.0)
    volume = volume_from_atoms(atoms, scattering_basis(atoms, 0.95), size_px=size_px, voxel_A=1.0)
    k = np.fft.fftfreq(size_px, 1 / size_px)
    radius = np.sqrt(sum(a**2 for a in np.meshgrid(k, k, k, indexing="ij")))
    spectrum = np.abs(np.fft.fftn(volume.double().numpy()))
    assert spectrum[radius > (size_px - 1) / 2].max() < 1e-5 * spectrum.max()
    assert spectrum[radius <= (size_px - 1) / 2].min() > 1e-5 * spectrum.max()
