"""Grids of rotations: directions times in-plane angles, and their hierarchical subdivision."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from cryorefine.geometry.protocol import Symmetry
from cryorefine.geometry.rotation import (
    matrix_from_euler,
)
from cryorefine.geometry.sphere import direction_grid

__all__ = ["in_plane_angles", "rotation_grid", "rotations_from"]


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
    group: Symmetry | None = None,
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
