"""Grids of rotations: directions times in-plane angles, and their hierarchical subdivision."""

import math

import torch
from jaxtyping import Float, Int
from scipy.spatial import KDTree
from torch import Tensor

from cryorefine.geometry.rotation import (
    matrix_from_euler,
    matrix_from_rotvec,
    quaternion_from_matrix,
)
from cryorefine.geometry.sphere import direction_grid
from cryorefine.geometry.symmetry import SymmetryGroup

__all__ = ["in_plane_angles", "neighbours", "rotation_grid", "rotations_from", "subdivide"]


def in_plane_angles(step_rad: float) -> Float[Tensor, "m"]:
    """Return evenly spaced angles over the full turn, radians, no farther apart than the step."""
    m = max(1, math.ceil(2 * math.pi / step_rad - 1e-9))
    return torch.arange(m, dtype=torch.float64) * (2 * math.pi / m)


def rotations_from(
    directions: Float[Tensor, "n 3"], psi_rad: Float[Tensor, "m"]
) -> Float[Tensor, "n m 3 3"]:
    """Return the poses that look along each direction, turned in plane by each angle."""
    rot = torch.atan2(directions[:, 1], directions[:, 0])
    tilt = torch.acos(directions[:, 2].clamp(-1, 1))
    n, m = len(directions), len(psi_rad)
    euler = torch.stack(
        [rot[:, None].expand(n, m), tilt[:, None].expand(n, m), psi_rad[None].expand(n, m)], -1
    )
    return matrix_from_euler(euler)


def rotation_grid(
    step_rad: float,
    *,
    group: SymmetryGroup | None = None,
    min_tilt_rad: float = 0.0,
    max_tilt_rad: float = math.pi,
) -> Float[Tensor, "n 3 3"]:
    """Return poses that cover SO(3), or its asymmetric unit within a tilt band, at a step.

    Parameters are those of :func:`~cryorefine.geometry.sphere.direction_grid`. About
    ``8 π² / step³`` poses for ``c1``; the in-plane step equals the direction step.
    """
    directions = direction_grid(
        step_rad, group=group, min_tilt_rad=min_tilt_rad, max_tilt_rad=max_tilt_rad
    )
    return rotations_from(directions, in_plane_angles(step_rad)).flatten(0, 1)


def subdivide(poses: Float[Tensor, "*b 3 3"], step_rad: float) -> Float[Tensor, "*b 8 3 3"]:
    """Split each grid cell of side ``step_rad`` into its eight halves.

    A cell is a small cube of rotation vectors about its pose, in the image frame: two axes tip
    the direction, the third turns it in plane. The children stand a quarter step from the centre
    along each axis and own cells of half the side, at any level, with no table.
    """
    quarter = 0.25 * step_rad
    signs = torch.tensor([-1.0, 1.0], dtype=poses.dtype, device=poses.device)
    offsets = torch.cartesian_prod(signs, signs, signs) * quarter
    return matrix_from_rotvec(offsets) @ poses[..., None, :, :]


def neighbours(
    poses: Float[Tensor, "n 3 3"], radius_rad: float, *, group: SymmetryGroup | None = None
) -> list[Int[Tensor, "k"]]:
    """Return for each pose the indices of all poses within ``radius_rad``, itself included.

    With a group the distance is taken modulo the group.
    """
    chord = 2 * math.sin(min(radius_rad, math.pi) / 4)  # between unit quaternions
    q = quaternion_from_matrix(poses).double().cpu().numpy()
    n = len(q)
    matrices = torch.eye(3, dtype=poses.dtype)[None] if group is None else group.matrices.to(poses)
    found: list[set[int]] = [set() for _ in range(n)]
    copies = quaternion_from_matrix(poses[:, None] @ matrices).double().cpu().numpy()
    for g in range(len(matrices)):
        tree = KDTree(copies[:, g])
        for sign in (1.0, -1.0):
            for i, hits in enumerate(tree.query_ball_point(sign * q, chord + 1e-12)):
                found[i].update(hits)
    return [torch.tensor(sorted(s), dtype=torch.int64) for s in found]
