"""A symmetry that is no point group, where only the protocol of one is asked for."""

import math
from dataclasses import dataclass

import pytest
import torch

from cryorefine.assign.align import can_be_tilted
from cryorefine.assign.own_noise import NoiseInReference, OwnNoise
from cryorefine.evaluate.calibration import pose_errors
from cryorefine.evaluate.coverage import direction_histogram
from cryorefine.geometry.protocol import Symmetry
from cryorefine.geometry.rotation import geodesic_angle, matrix_from_rotvec, random_rotations
from cryorefine.geometry.segments import HelicalStep
from cryorefine.geometry.sphere import asymmetric_unit, direction_grid
from cryorefine.geometry.symmetry import parse_symmetry
from cryorefine.kernels.grid import make_accumulator
from cryorefine.model.observe import make_group_band
from cryorefine.optics.group import OpticsGroup
from cryorefine.reconstruct.crowding import slice_density
from cryorefine.reconstruct.solve import fold
from cryorefine.reconstruct.symmetrise import symmetrise_volume
from cryorefine.weigh.stability import pose_change

TWIST_RAD = math.radians(27.3)  # no part of a full turn: the operators never close


@dataclass(frozen=True, eq=False)
class Twist:
    """The turns of a helix about an axis, up to ``reach`` steps either way, and its moves."""

    axis: tuple[float, float, float]
    reach: int = 2
    name: str = "twist"
    rise_A: float = 0.0

    @property
    def order(self) -> int:
        return 2 * self.reach + 1

    @property
    def steps(self) -> list[int]:
        return sorted(range(-self.reach, self.reach + 1), key=abs)

    @property
    def matrices(self) -> torch.Tensor:
        axis = torch.tensor(self.axis, dtype=torch.float64)
        return torch.stack([matrix_from_rotvec(k * TWIST_RAD * axis) for k in self.steps])

    @property
    def shifts_A(self) -> torch.Tensor:
        return self.rise_A * torch.tensor(self.steps)[:, None] * torch.tensor([self.axis]).double()

    @property
    def point_group(self) -> torch.Tensor:
        return torch.eye(3, dtype=torch.float64)[None]

    def equivalents(self, pose):
        return torch.stack([pose @ m for m in self.matrices.to(pose)], -3)

    def nearest(self, pose, target):
        copies = self.equivalents(pose)
        found = [
            c[geodesic_angle(c, t.expand_as(c)).argmin()]
            for c, t in zip(copies, target, strict=True)
        ]
        return torch.stack(found)

    def distance(self, a, b):
        copies = self.equivalents(a)
        angles = [geodesic_angle(copies[..., g, :, :], b) for g in range(self.order)]
        return torch.stack(angles).amin(0)


ABOUT_Z, ABOUT_X = Twist((0.0, 0.0, 1.0)), Twist((1.0, 0.0, 0.0))


def poses(n: int) -> torch.Tensor:
    return random_rotations(n, torch.Generator().manual_seed(n))


def turned(rotations: torch.Tensor, steps: int) -> torch.Tensor:
    turn = torch.tensor([0.0, 0.0, steps * TWIST_RAD], dtype=torch.float64)
    return rotations @ matrix_from_rotvec(turn)


@pytest.mark.parametrize("symmetry", [ABOUT_Z, parse_symmetry("c1"), parse_symmetry("i2")])
def test_point_groups_and_others_fulfil_the_protocol(symmetry):
    assert isinstance(symmetry, Symmetry)
    assert symmetry.matrices.shape == (symmetry.order, 3, 3)
    assert torch.equal(symmetry.matrices[0], torch.eye(3, dtype=torch.float64))


def test_poses_a_twist_apart_are_the_same_to_what_compares_them():
    before, shift_A = poses(20), torch.zeros(20, 2, dtype=torch.float64)
    angle_deg, _ = pose_change(turned(before, 2), shift_A, before, shift_A, ABOUT_Z)
    assert float(angle_deg.max()) < 1e-4
    # Three steps are one more than its operators reach.
    angle_deg, _ = pose_change(turned(before, 3), shift_A, before, shift_A, ABOUT_Z)
    torch.testing.assert_close(
        angle_deg, torch.full_like(angle_deg, math.degrees(TWIST_RAD)), rtol=1e-6, atol=1e-6
    )
    errors = pose_errors(turned(before, -2), shift_A, before, shift_A, ABOUT_Z)
    assert float(errors.abs().max()) < 1e-6


def test_an_images_own_noise_counts_at_all_copies_of_its_pose():
    inserted, shift_px = poses(6), torch.ones(6, 1, 2, dtype=torch.float64)
    noise = NoiseInReference(
        torch.ones(20, dtype=torch.float64), spread_A2=400.0 * torch.eye(3, dtype=torch.float64)
    )
    own = OwnNoise(inserted[:, None], shift_px, torch.ones(6, 1, dtype=torch.float64), noise)
    group = OpticsGroup("g", 2.0, 32, has_ctf=False)
    view = make_group_band(group, volume_size_px=32, voxel_A=2.0, resolution_A=8.0)
    c = torch.ones(6, len(view.points))
    helix, image_of = Twist((0.0, 0.0, 1.0), rise_A=5.0), torch.arange(6)
    # A step turns a pose about the filament, and moves it along it.
    copies, moved_px = HelicalStep(TWIST_RAD, 2.5).taken(inserted, shift_px[:, 0], torch.ones(6))
    beside = own.beside(copies, image_of, helix, view, c)
    torch.testing.assert_close(beside.rotations, copies)
    torch.testing.assert_close(beside.shifts_px, moved_px)
    without = own.beside(copies, image_of, parse_symmetry("c1"), view, c)
    torch.testing.assert_close(without.rotations, inserted)
    assert torch.equal(without.bonus, beside.bonus)


def test_a_pose_can_be_tilted_where_one_of_its_copies_can():
    # About x, the copies of the untilted pose are tilted by none, one and two steps.
    pose = torch.eye(3, dtype=torch.float64)[None]
    low = math.degrees(2 * TWIST_RAD)
    for tilt_deg, is_possible in ((low - 1, True), (low + 1, False)):
        limits = (math.radians(tilt_deg), math.pi / 2)
        assert can_be_tilted(pose, ABOUT_X, limits).tolist() == [is_possible]
    assert can_be_tilted(pose, ABOUT_Z, (0.1, math.pi / 2)).tolist() == [False]


def test_all_copies_of_views_are_counted():
    rotations, weights = poses(30), torch.ones(30)
    every = ABOUT_Z.equivalents(rotations).flatten(0, 1)
    nothing = parse_symmetry("c1")
    _, density = direction_histogram(rotations, ABOUT_Z)
    _, expected = direction_histogram(every, nothing)
    torch.testing.assert_close(density, expected)
    directions = torch.nn.functional.normalize(
        torch.randn(40, 3, generator=torch.Generator().manual_seed(1)), dim=1
    )
    density = slice_density(directions, rotations, weights, ABOUT_Z, band=0.1)
    expected = slice_density(directions, every, torch.ones(len(every)), nothing, band=0.1)
    torch.testing.assert_close(density, expected, rtol=1e-4, atol=1e-6)


def test_what_divides_the_sphere_leaves_all_of_it_where_nothing_is_a_point_group():
    directions = direction_grid(0.3)
    assert torch.equal(direction_grid(0.3, group=ABOUT_Z), directions)
    assert bool(asymmetric_unit(directions, ABOUT_X).all())


def test_sums_on_a_grid_refuse_what_is_no_point_group():
    accumulator = make_accumulator(8, 3.0)
    with pytest.raises(ValueError, match="twist is no point group"):
        fold(accumulator, ABOUT_Z)


def test_a_maps_copies_are_turned_and_moved():
    helix = Twist((0.0, 0.0, 1.0), reach=1, rise_A=8.5)
    size_px, voxel_A = 32, 2.0
    start_A = torch.tensor([12.0, -3.0, 2.0], dtype=torch.float64)
    copies_A = (helix.matrices @ start_A + helix.shifts_A).tolist()
    axis_A = (torch.arange(size_px) - size_px // 2) * voxel_A
    z, y, x = torch.meshgrid(axis_A, axis_A, axis_A, indexing="ij")

    def blob(at_A):
        square = (x - at_A[0]) ** 2 + (y - at_A[1]) ** 2 + (z - at_A[2]) ** 2
        return torch.exp(-square / (2 * 4.0**2))

    found = symmetrise_volume(blob(start_A.tolist()), helix, voxel_A=voxel_A)
    expected = (blob(copies_A[0]) + blob(copies_A[1]) + blob(copies_A[2])) / 3
    # Cubic splines of a blob of two voxels are exact to about 0.1 %.
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-3)
