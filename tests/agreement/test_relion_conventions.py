"""RELION's own projections of one point, with known poses, origins and contrast transfer.

relion_project wrote the images from a 64³ map with a single voxel set; a point shows every
convention at once: where it lands says how Euler angles and origins are meant, its rings say how
the contrast transfer is.
"""

import math
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from cryorefine.fourier.band import Band, make_band, phase_ramp
from cryorefine.fourier.fft import image_from_half, image_to_half
from cryorefine.geometry.rotation import matrix_from_euler
from cryorefine.io.mrc import read_stack_header, read_volume
from cryorefine.kernels.dispatch import extract_slices
from cryorefine.kernels.grid import make_slice_grid
from cryorefine.optics.ctf import contrast_transfer, image_frequencies
from cryorefine.particles.formats.relion import read_relion
from cryorefine.particles.table import ParticleTable

VOXEL_A, SIZE_PX = 3.54, 64
# The file does not say with which padding it was projected; the error of trilinear interpolation
# below tells that it was 1.
STACKS = {"relion_proj_batch": 1, "relion_proj_batch_pfac3": 3}


def _trilinear_loss(padding: int, distance_px: float) -> float:
    """Return by how much trilinear interpolation lowers the correlation of a point's images.

    The kernel's transform sinc² leaves, besides the point (divided out again), copies of it
    ``padding`` boxes apart: the copy m is weaker by ``(x / (x - m padding n))²``. Their energies
    add up to ε² and the correlation is 1 / sqrt(1 + ε²).
    """
    x, period = distance_px, padding * SIZE_PX
    energy = sum((x / (x - m * period)) ** 4 for m in range(-50, 51) if m)
    return 1 - 1 / math.sqrt(1 + energy)


@dataclass(frozen=True)
class Projections:
    """One stack of RELION's projections as coefficients, and what it was made from."""

    table: ParticleTable
    point_px: torch.Tensor
    band: Band
    images: torch.Tensor

    def transfer(self, table: ParticleTable) -> torch.Tensor:
        k = torch.stack([self.band.kx, self.band.ky], -1).double()
        defocus = table.defocus(np.arange(len(table)))
        group = table.optics[0]
        return contrast_transfer(group, defocus, image_frequencies(group, k))

    def predict(self, table: ParticleTable) -> torch.Tensor:
        """Return exact coefficients: the point's place in each image, moved, transferred."""
        place = matrix_from_euler(torch.from_numpy(table.euler_rad))[:, :2] @ self.point_px
        origin = torch.from_numpy(table.shift_A) / VOXEL_A
        return phase_ramp(self.band, place - origin) * self.transfer(table)

    def correlation(self, predicted: torch.Tensor) -> torch.Tensor:
        cross = (self.images * predicted.conj()).real.sum(1)
        return cross / (self.images.norm(dim=1) * predicted.norm(dim=1))


@pytest.fixture(scope="module")
def conventions(shared_data) -> Path:
    return shared_data / "conventions"


@pytest.fixture(scope="module")
def volume(conventions) -> torch.Tensor:
    return read_volume(conventions / "pointmass.mrc", voxel_A=VOXEL_A).data


@pytest.fixture(scope="module", params=STACKS)
def projections(request, conventions, volume) -> Projections:
    table = read_relion(conventions / f"{request.param}.star")
    stack = read_stack_header(conventions / f"{request.param}.mrcs").read()
    images = torch.from_numpy(np.array(stack[table.image_index])).double()
    band = make_band(SIZE_PX, SIZE_PX)
    point = torch.nonzero(volume)
    assert len(point) == 1
    point_px = (point[0] - SIZE_PX // 2).flip(0).double()  # x, y, z
    return Projections(table, point_px, band, band.take(image_to_half(images)))


@pytest.fixture
def loss(projections) -> float:
    name = projections.table.source.stem
    return _trilinear_loss(STACKS[name], float(projections.point_px.norm()))


def test_all_24_images_are_there_and_differ_in_pose_and_origin(projections):
    table = projections.table
    assert len(table) == 24
    assert np.ptp(table.euler_rad, axis=0).min() > 1
    assert np.abs(table.shift_A).max() > 2 * VOXEL_A


def test_the_point_lands_where_the_pose_and_the_origin_put_it(projections):
    # Multiplying by the contrast transfer gathers the rings into one peak, found on an eightfold
    # finer grid and between its points by a parabola.
    fine = 8
    gathered = projections.images * projections.transfer(projections.table)
    band = replace(projections.band, size_px=fine * SIZE_PX)
    maps = image_from_half(band.put(gathered), fine * SIZE_PX)
    place = matrix_from_euler(torch.from_numpy(projections.table.euler_rad))
    expected = (place[:, :2] @ projections.point_px).numpy()
    expected = expected - projections.table.shift_A / VOXEL_A
    found = np.array([_peak(m.numpy()) for m in maps]) / fine
    missed = np.linalg.norm(found - expected, axis=1)
    assert missed.max() < 0.1
    # The interpolation's false copies of the point, at padding 3, hardly move it.
    if STACKS[projections.table.source.stem] == 3:
        assert missed.max() < 0.01


def _peak(image: np.ndarray) -> tuple[float, float]:
    """Return (x, y) of an image's maximum from the origin."""
    y, x = np.unravel_index(image.argmax(), image.shape)

    def between(low: float, middle: float, high: float) -> float:
        return 0.5 * (low - high) / (low - 2 * middle + high)

    n = len(image)
    dx = between(image[y, x - 1], image[y, x], image[y, (x + 1) % n])
    dy = between(image[y - 1, x], image[y, x], image[(y + 1) % n, x])
    return x + dx - n // 2, y + dy - n // 2


def test_the_images_are_as_like_the_exact_ones_as_trilinear_interpolation_lets_them(
    projections, loss
):
    found = projections.correlation(projections.predict(projections.table))
    assert found.shape == (24,)
    # The loss is a mean over some 1,500 coefficients, weighted by the contrast transfer: known to
    # a tenth, three standard deviations.
    np.testing.assert_allclose(found, 1 - loss, atol=0.1 * loss)
    assert float(found.min()) > 0.989


def test_slices_of_the_map_are_relions_projections_on_the_same_grey_scale(
    projections, volume, loss
):
    table, band = projections.table, projections.band
    k = torch.stack([band.kx, band.ky], -1)
    grid = make_slice_grid(volume, SIZE_PX // 2 - 1)
    slices = extract_slices(grid, matrix_from_euler(torch.from_numpy(table.euler_rad)), k.float())
    ramp = phase_ramp(band, -torch.from_numpy(table.shift_A) / VOXEL_A)
    predicted = slices * ramp * projections.transfer(table)
    # Our own interpolation adds a relative error of 1 % at most.
    assert float(projections.correlation(predicted).min()) > 1 - 1.1 * loss - 0.01**2 / 2
    scale = (projections.images * predicted.conj()).real.sum(1) / predicted.abs().square().sum(1)
    error = math.sqrt(2 * loss)
    # A cross term of the errors, over some 1,500 coefficients, three standard deviations.
    np.testing.assert_allclose(scale, 1.0, atol=0.01 + 3 * error / math.sqrt(len(band)))


def _with_euler(table: ParticleTable, change) -> ParticleTable:
    return replace(table, euler_rad=change(table.euler_rad))


# The sign of tilt alone does not show: the point lies on the x axis, so that only the first column
# of the matrix enters. RELION's manual has all angles positive in the same, right-handed sense.
MISREADINGS = {
    "Euler angles in reverse order": lambda t: _with_euler(t, lambda e: e[:, ::-1].copy()),
    "the inverse rotation": lambda t: _with_euler(t, lambda e: -e[:, ::-1]),
    "the sign of rot": lambda t: _with_euler(t, lambda e: e * [-1, 1, 1]),
    "the sign of psi": lambda t: _with_euler(t, lambda e: e * [1, 1, -1]),
    "the sign of the origin": lambda t: replace(t, shift_A=-t.shift_A),
    "x and y of the origin": lambda t: replace(t, shift_A=t.shift_A[:, ::-1].copy()),
    "the unit of the origin": lambda t: replace(t, shift_A=t.shift_A / VOXEL_A),
    "the sign of the defocus": lambda t: replace(
        t, defocus_u_A=-t.defocus_u_A, defocus_v_A=-t.defocus_v_A
    ),
    "the sign of the astigmatism's angle": lambda t: replace(
        t, defocus_angle_rad=-t.defocus_angle_rad
    ),
    "where the astigmatism's angle starts": lambda t: replace(
        t, defocus_angle_rad=t.defocus_angle_rad + math.pi / 2
    ),
    "the sign of the amplitude contrast": lambda t: replace(
        t, optics=(replace(t.optics[0], amplitude_contrast=-0.1),)
    ),
    "the sign of the spherical aberration": lambda t: replace(
        t, optics=(replace(t.optics[0], cs_mm=-1.4),)
    ),
    "the sign of the contrast": lambda t: replace(t, phase_shift_rad=t.phase_shift_rad + math.pi),
    "whether there is a CTF": lambda t: replace(t, optics=(replace(t.optics[0], has_ctf=False),)),
}


@pytest.mark.parametrize("misreading", MISREADINGS)
def test_any_convention_read_otherwise_would_show(projections, misreading, loss):
    wrong = projections.predict(MISREADINGS[misreading](projections.table))
    # Far outside of what the test above allows; some poses cannot tell, half of them can.
    assert float(projections.correlation(wrong).median()) < 1 - 1.1 * loss - 0.002
