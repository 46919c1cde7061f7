"""Bring half 2 to the frame of half 1 by a rigid movement: three angles and three shifts."""

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float
from scipy.optimize import least_squares
from torch import Tensor

from cryorefine.fourier.crop import resize_volume
from cryorefine.fourier.fft import fast_even_length
from cryorefine.fourier.filter import low_pass
from cryorefine.geometry.protocol import Symmetry
from cryorefine.geometry.rotation import matrix_from_rotvec
from cryorefine.restore.protocol import Context, Fact, Halves, Restored, inside
from cryorefine.restore.rigid import FourierSeries, move_volume

__all__ = ["AlignHalves"]

_VOXELS_A_PERIOD = 2.5
"""Voxels of the maps that are compared, for each period of their resolution: more than the two that
hold it."""

_MAX_PX = 96
"""Box that is compared at most: a shift is found to a hundredth of its voxel."""

_STEP_PX = 1e-2
"""Of the numerical slope, in voxels of the small box: far above rounding, far below a period."""


@dataclass(frozen=True, eq=False)
class AlignHalves:
    """Moves half 2 so that it correlates best with half 1 within the mask.

    Six numbers at most; scale is not one of them. With an n-fold axis only the rotation about it
    and the shift along it are free, and with axes that cross nothing is: a symmetric map cannot lie
    otherwise. Only movements smaller than the resolution are found. The Fourier series of half 2 is
    evaluated at the new places, so that it is not damped.

    Attributes
    ----------
    group
        Symmetry that was imposed on both.
    """

    group: Symmetry
    name: ClassVar[str] = "align"
    title: ClassVar[str] = "rigid alignment of the halves"
    mixes_halves: ClassVar[bool] = False

    def __call__(self, halves: Halves, context: Context) -> Restored:
        """Return half 1 as it is and half 2 moved."""
        free = _free_parameters(self.group)
        if not free:
            reason = f"symmetry {self.group.name} leaves no movement free"
            return Restored(halves, {"unchanged_because": reason})
        if not bool(inside(context).any()):
            return Restored(halves, {"unchanged_because": "the mask is empty"})
        found = _movement(halves, context, free)
        if found is None:
            return Restored(halves, {"unchanged_because": "the halves share nothing to align"})
        turn, shift_px = found[:3], found[3:]
        rotation = matrix_from_rotvec(torch.from_numpy(turn))
        moved = move_volume(halves[1], rotation, torch.from_numpy(shift_px))
        facts: dict[str, Fact] = {}
        for axis, angle, shift in zip("xyz", turn, shift_px, strict=True):
            facts[f"rotation_{axis}_deg"] = math.degrees(angle)
            facts[f"shift_{axis}_A"] = float(shift) * context.voxel_A
        return Restored((halves[0], moved), facts)


def _free_parameters(group: Symmetry) -> list[int]:
    """Return which of rotations about and shifts along x, y, z the symmetry leaves free."""
    if group.order == 1:
        return [0, 1, 2, 3, 4, 5]
    z = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)
    keeps_z = bool(((group.point_group @ z - z).abs() < 1e-6).all())
    return [2, 5] if keeps_z else []


def _movement(halves: Halves, context: Context, free: list[int]) -> np.ndarray | None:
    """Return rotation vector (rad) and shift (voxels) that bring half 2 to half 1."""
    n = halves[0].shape[-1]
    resolution_A = max(context.curves.resolution_A(0.5), 2 * context.voxel_A)
    if not math.isfinite(resolution_A):
        return None
    wanted = _VOXELS_A_PERIOD * n * context.voxel_A / resolution_A
    size = min(n, _MAX_PX, fast_even_length(max(wanted, 16)))
    first, second = (
        resize_volume(
            low_pass(v.cpu(), voxel_A=context.voxel_A, resolution_A=resolution_A), size
        ).double()
        for v in halves
    )
    mask = resize_volume(context.mask.cpu(), size).clamp(0, 1).double()
    rows = torch.nonzero(mask > 0.1)
    weight = mask[tuple(rows.T)].sqrt()
    target, series = first[tuple(rows.T)], FourierSeries(second)
    places = (rows.flip(1) - size // 2).double()
    if min(float(v.std()) for v in (first, second)) == 0 or len(rows) <= len(free):
        return None

    def residuals(parameters: np.ndarray) -> np.ndarray:
        moved = series.at(_sources(places, parameters, free))
        return (_normalised(moved, weight) - _normalised(target, weight)).numpy()

    # Angles are scaled to be shifts at the particle's edge, so that all steps are alike.
    radius = float(places.norm(dim=1).max())
    scale = np.array([1 / radius] * 3 + [1.0] * 3)[free]

    def slopes(parameters: np.ndarray) -> np.ndarray:
        here = residuals(parameters * scale)
        steps = np.eye(len(free)) * _STEP_PX
        return np.stack([residuals((parameters + s) * scale) - here for s in steps], 1) / _STEP_PX

    fit = least_squares(
        lambda p: residuals(p * scale),
        np.zeros(len(free)),
        slopes,  # type: ignore[arg-type]
        method="lm",
        xtol=1e-4,
    )
    out = np.zeros(6)
    out[free] = fit.x * scale
    out[3:] *= n / size
    return out


def _sources(places: Tensor, parameters: np.ndarray, free: list[int]) -> Float[Tensor, "m 3"]:
    """Return where the values that move to places come from."""
    full = torch.zeros(6, dtype=torch.float64)
    full[free] = torch.from_numpy(parameters)
    return (places - full[3:]) @ matrix_from_rotvec(full[:3])


def _normalised(values: Tensor, weight: Tensor) -> Tensor:
    """Return weighted values without their mean, of unit length."""
    values = (values - (values * weight).sum() / weight.sum()) * weight
    return values / values.norm().clamp_min(torch.finfo(values.dtype).tiny)
