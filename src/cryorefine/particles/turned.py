"""Poses for an object that is turned, as from one setting of its symmetry axes to another."""

from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from cryorefine.errors import InputError
from cryorefine.geometry.rotation import euler_from_matrix, matrix_from_euler
from cryorefine.particles.table import ParticleTable

__all__ = ["turned_poses"]

_PRIORS = ("rlnAngleTiltPrior", "rlnAnglePsiPrior")
"""Columns of angles that travel as they are, and would be those of another object."""

_SAME = 1e-9  # of cosines: rounding in float64 leaves 1e-15


def turned_poses(table: ParticleTable, rotation: Float[Tensor, "3 3"]) -> ParticleTable:
    """Return a table with poses for an object that is turned; all else stays.

    Parameters
    ----------
    rotation
        Active on object coordinates: a pose ``A`` becomes ``A Rᵀ``.

    Raises
    ------
    InputError
        If there are no poses, or priors of angles that would have to be turned, too.
    """
    where = str(table.source)
    if not table.has_pose:
        raise InputError("there are no poses to turn", where=where, do="give particles with angles")
    keeps_z = float(rotation[2, 2]) > 1 - _SAME
    priors = [label for label in _PRIORS if label in table.extra]
    if priors and not keeps_z:
        raise InputError(
            f"the file has {priors[0]}, which cannot be turned",
            where=where,
            do="remove the columns of priors first",
        )
    matrix = matrix_from_euler(torch.from_numpy(table.euler_rad)) @ rotation.to(torch.float64).T
    turned = euler_from_matrix(matrix).numpy()
    return replace(table, euler_rad=np.where(table.lacks_pose[:, None], table.euler_rad, turned))
