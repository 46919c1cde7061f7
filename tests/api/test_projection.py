import numpy as np
import pytest

import cryorefine as cr
from tests.builders import refused


def blob(size_px: int = 32, centre=(0.0, 0.0, 0.0), sigma_px: float = 2.5) -> np.ndarray:
    """A Gaussian at (x, y, z) voxels from the origin."""
    z, y, x = np.indices((size_px,) * 3) - size_px // 2
    square = (x - centre[0]) ** 2 + (y - centre[1]) ** 2 + (z - centre[2]) ** 2
    return np.exp(-square / (2 * sigma_px**2))


def centre_of(image: np.ndarray) -> np.ndarray:
    """Centre of mass as (x, y) from the origin."""
    y, x = np.indices(image.shape) - image.shape[-1] // 2
    return np.array([(x * image).sum(), (y * image).sum()]) / image.sum()


@pytest.mark.parametrize("size_px", [31, 32])
def test_the_untilted_projection_is_the_sum_along_z(size_px):
    volume = cr.Volume(blob(size_px, (4, -3, 2)), 2.0)
    image = cr.project(volume, np.eye(3))[0]
    expected = volume.data.sum(0)
    assert np.abs(image - expected).max() < 0.01 * expected.max()


def test_content_is_seen_where_the_rotation_takes_it():
    at = np.array([6.0, -4.0, 3.0])
    euler = np.array([[20.0, 35.0, -50.0], [120.0, 80.0, 10.0]])
    rotations = cr.rotations_from_euler(euler)
    images = cr.project(blob(centre=at), rotations, voxel_A=1.5)
    for image, rotation in zip(images, rotations, strict=True):
        # Slices have an error of 1 %, which the centre of a whole box weighs by the distance.
        np.testing.assert_allclose(centre_of(image), (rotation @ at)[:2], atol=0.1)


def test_a_shift_would_centre_the_content():
    volume = cr.Volume(blob(), 1.5)
    image = cr.project(volume, np.eye(3), shift_A=[3.0, -6.0])[0]
    np.testing.assert_allclose(centre_of(image), [-2.0, 4.0], atol=0.1)


def test_images_agree_best_with_projections_at_their_true_poses(small):
    particles = small.true_particles
    images = particles.images()

    def agreement(rotations, shift_A):
        views = cr.project(small.true_map, rotations, shift_A)
        pairs = zip(views, images, strict=True)
        return np.mean([np.corrcoef(a.ravel(), b.ravel())[0, 1] for a, b in pairs])

    true = agreement(particles.rotations, particles.shift_A)
    # Transposed matrices are the wrong frame; shifts of the other sign move twice as far away.
    assert true > 1.2 * agreement(particles.rotations.transpose(0, 2, 1), particles.shift_A)
    assert true > 1.2 * agreement(particles.rotations, -particles.shift_A)


def test_what_is_no_rotation_is_refused():
    with refused("rotations", "(1, 2, 3)"):
        cr.project(blob(), np.zeros((2, 3)), voxel_A=1.0)
    with refused("rotations", "matrix 1"):
        cr.project(blob(), [np.eye(3), np.diag([1, 1, -1])], voxel_A=1.0)
    with refused("shift_A", "(2, 2)"):
        cr.project(blob(), [np.eye(3)] * 2, np.zeros((3, 2)), voxel_A=1.0)
    with refused("volume", "no voxel size"):
        cr.project(blob(), np.eye(3))
    with refused("euler_deg", "(2,)"):
        cr.rotations_from_euler([1, 2])
