"""Where the axis of a filament lies that is not quite z through the box's origin.

A first guess is the line through the middles of a map's sections; a helix whose subunit lies to one
side of it has its axis elsewhere. What decides is the helix itself: offset and tilt of the axis are
found together with twist and rise, where the map agrees best with its copies.
"""

import math

import numpy as np
import torch
from jaxtyping import Float
from scipy import optimize
from torch import Tensor

from cryorefine.errors import InputError
from cryorefine.fourier.crop import resize_volume
from cryorefine.fourier.filter import low_pass
from cryorefine.geometry.helix import Helix
from cryorefine.helices.filament import FilamentAxis, filament_radius_A, rotation_from_z
from cryorefine.helices.helical_search import (
    HelicalRanges,
    prepared_map,
    score_of,
    screws,
)
from cryorefine.symmetry.turn import turned_map

__all__ = ["density_axis", "find_axis", "onto_z", "radius_about", "require_along_z"]

_OUTLINE_A = 15.0
"""Detail at which a filament is told from its surroundings, in Å, as where its radius is found."""

_OUTLINE = 0.3
"""Share of the highest density (99.9 %) above which a voxel is the filament's."""

_LARGE_PX = 400
"""Side of the largest map whose outline is looked at as it is: in double precision a larger one
takes gigabytes, and detail of 15 Å needs a few voxels only."""

_LEAST_SECTIONS = 8  # with density, for a line through their middles

_RADIUS_VOXELS = 3  # within that detail, where the radius is measured

_MIDDLE = 0.35
"""Part of the box to either side whose sections are used: those at the ends are cut by the box."""

_COPIES, _PLACES = 12, 12_000
"""Copies of each place that are compared, and places: the sum over all pairs, 66 for each, has a
relative error of a percent."""

_COARSER = 2.5
"""Detail of the first fit, times that of the last: it finds axes farther away."""

_STEPS = 25
"""Steps of a fit of six numbers, which moves less than a tenth of its uncertainty after ten."""

_REACH = 64.0
"""Bound of a fit, in quarters of the resolution: 16 resolutions for the axis, two for the farthest
copy along and about it. No fit comes near it but those that go astray."""

_WORTH = 0.15
"""Part of the resolution that the axis has to be away from z somewhere on the filament for a map to
be moved: copies then lie up to twice as far from where they are looked for."""

_MAX_SLOPE, _MAX_OFFSET = math.tan(math.radians(25.0)), 0.25
"""Tilt, and offset as a share of the box, up to which an axis is looked for: beyond it the box cuts
too much of the filament away."""

_LONGER = 2.0
"""Variance of density along its longest direction, of that along the next, from which a map holds a
filament along it: one of 0.3 of the box in radius has 3, particles with axes of 1 to 0.8 1.5."""

_STARTS = 3
"""Helices, with places of the axis, that are fitted: the best need not be the true one, and every
second or third subunit of it does as well."""


def onto_z(
    volume: Float[Tensor, "z y x"], axis: FilamentAxis, voxel_A: float
) -> Float[Tensor, "z y x"]:
    """Return a map moved so that an axis of it becomes z through the origin."""
    back = axis.rotation.T
    move = -(back @ torch.tensor([*axis.offset_A, 0.0], dtype=torch.float64)) / voxel_A
    return turned_map(volume, back, move)


def density_axis(
    volume: Float[Tensor, "z y x"], voxel_A: float, *, winds: bool = False
) -> FilamentAxis:
    """Return the line through the middles of a map's sections.

    Parameters
    ----------
    winds
        Whether they wind about the line once or more, as those of a helix with one start do: a
        circle of the pitch that fits best is then found with it.
    """
    volume, voxel_A = _coarse(volume, voxel_A)
    n = volume.shape[-1]
    weight, axis = _outline(volume, voxel_A)
    weight = weight * ((axis[:, None] ** 2 + axis**2) <= (n * voxel_A / 2) ** 2)
    mass = weight.sum((1, 2))
    x, y = (weight.sum(3 - along) @ axis / mass.clamp_min(1e-30) for along in (2, 1))
    used = (axis.abs() <= _MIDDLE * n * voxel_A) & (mass > 0)
    z, middle = axis[used].numpy(), torch.complex(x, y)[used].numpy()
    amount = mass[used].sqrt().numpy()
    if len(z) < _LEAST_SECTIONS:
        return FilamentAxis()
    waves = [None]
    if winds:
        turns = np.linspace(1, 2 * _MIDDLE * n * voxel_A / (2 * _OUTLINE_A), 40)
        rates = 2 * math.pi * turns / (2 * _MIDDLE * n * voxel_A)
        waves = [sign * rate for rate in rates for sign in (1, -1)]
    best, least = np.zeros(2, complex), math.inf
    for rate in waves:
        terms = [np.ones_like(z), z] + ([] if rate is None else [np.exp(1j * rate * z)])
        design = np.stack(terms, 1) * amount[:, None]
        found = np.linalg.lstsq(design, middle * amount, rcond=None)[0]
        left = float(np.linalg.norm(design @ found - middle * amount))
        if left < least:
            best, least = found, left
    at, slope = complex(best[0]), complex(best[1])
    return FilamentAxis((at.real, at.imag), (slope.real, slope.imag))


def _coarse(volume: Tensor, voxel_A: float) -> tuple[Tensor, float]:
    """Return a map and its voxels, four of them within the outline's detail if it is large."""
    n = volume.shape[-1]
    if n <= _LARGE_PX:
        return volume, voxel_A
    size = min(_LARGE_PX, 2 * math.ceil(n * voxel_A * 4 / _OUTLINE_A / 2)) + n % 2
    return resize_volume(volume, size), n * voxel_A / size


def _outline(volume: Tensor, voxel_A: float) -> tuple[Tensor, Tensor]:
    """Return the density of a filament, 0 around it, and coordinates along each axis in Å."""
    n = volume.shape[-1]
    smooth = low_pass(volume, voxel_A=voxel_A, resolution_A=max(_OUTLINE_A, 4 * voxel_A))
    ground = smooth.median()
    level = ground + _OUTLINE * (smooth.flatten().kthvalue(int(0.999 * n**3)).values - ground)
    axis = (torch.arange(n) - n // 2).double() * voxel_A
    return ((smooth - ground) * (smooth > level)).double(), axis


def radius_about(volume: Float[Tensor, "z y x"], axis: FilamentAxis, voxel_A: float) -> float:
    """Return the radius of a filament about an axis."""
    n = volume.shape[-1]
    size = min(n, 2 * math.ceil(n * voxel_A * _RADIUS_VOXELS / _OUTLINE_A / 2) + n % 2)
    small, step_A = resize_volume(volume, size), n * voxel_A / size
    return filament_radius_A(onto_z(small, axis, step_A), step_A)


def require_along_z(volume: Float[Tensor, "z y x"], voxel_A: float) -> None:
    """Refuse a map whose density is longest along a direction far from z.

    Raises
    ------
    InputError
        If that is so: nothing along z can be found of it.
    """
    volume, voxel_A = _coarse(volume, voxel_A)
    n = volume.shape[-1]
    weight, axis = _outline(volume, voxel_A)
    z, y, x = torch.meshgrid(axis, axis, axis, indexing="ij")
    weight = weight * (x**2 + y**2 + z**2 <= (n * voxel_A / 2) ** 2)
    total = weight.sum().clamp_min(1e-30)
    middle = torch.stack([(weight * v).sum() / total for v in (x, y, z)])
    apart = torch.stack([x - middle[0], y - middle[1], z - middle[2]]).flatten(1)
    spread, directions = torch.linalg.eigh((apart * weight.flatten()) @ apart.T / total)
    longest = directions[:, 2]
    if spread[2] < _LONGER * spread[1] or abs(float(longest[2])) > math.cos(math.radians(30)):
        return
    off_deg = math.degrees(math.acos(min(abs(float(longest[2])), 1.0)))
    words = ", ".join(f"{v:.2f}" for v in longest.tolist())
    raise InputError(
        f"the filament does not lie along z: its density is longest along ({words}), "
        f"{off_deg:.0f}° from z",
        do="turn the map so that its axis is z (up to 25° are found and mended)",
    )


def find_axis(
    volume: Float[Tensor, "z y x"],
    ranges: HelicalRanges,
    *,
    voxel_A: float,
    fsc: Float[Tensor, "s"] | None = None,
) -> FilamentAxis:
    """Find the axis of a map of a helix; z itself where that is as good.

    Parameters
    ----------
    ranges
        Of twist and rise; a radius of the filament about its axis.
    fsc
        Of half maps; see :func:`~cryorefine.helices.helical_search.prepared_map`.
    """
    fine, coarse = (
        prepared_map(volume, voxel_A=voxel_A, resolution_A=r, fsc=fsc)
        for r in (ranges.resolution_A, _COARSER * ranges.resolution_A)
    )
    length_A = volume.shape[-1] * voxel_A * ranges.fraction
    worth_A = _WORTH * ranges.resolution_A
    starts = [FilamentAxis()]
    for winds in (False, True):
        by_density = density_axis(volume, voxel_A, winds=winds)
        if by_density.farthest_A(length_A) > worth_A and _is_held(by_density, volume, voxel_A):
            starts.append(by_density)
    tried = [
        (found.score, number, start, found.helix)
        for number, start in enumerate(starts)
        for found in screws(onto_z(fine[0], start, fine[1]), fine[1], ranges)
    ]
    tried.sort(key=lambda one: (-one[0], one[1]))
    best, highest = FilamentAxis(), -math.inf
    for _, _, axis, helix in tried[:_STARTS]:
        for small, step_A in (coarse, fine):
            axis, helix = _Fit(small, step_A, ranges, length_A).best(axis, helix)
        moved = onto_z(fine[0], axis, fine[1])
        score = score_of(moved, fine[1], helix, ranges)
        if score > highest:
            best, highest = axis, score
    is_far = best.farthest_A(length_A) > worth_A
    return best if is_far and _is_held(best, volume, voxel_A) else FilamentAxis()


def _is_held(axis: FilamentAxis, volume: Tensor, voxel_A: float) -> bool:
    """Tell whether the box holds enough of the filament about an axis."""
    return (
        math.hypot(*axis.slope) < _MAX_SLOPE
        and axis.distance_A < _MAX_OFFSET * volume.shape[-1] * voxel_A
    )


class _Fit:
    """Agreement of a map with its helical copies, by offset and slope of the axis, twist and rise.

    Places at random in the cylinder, each with copies over the length of the filament: the sum of
    products of their values, over the sum of squares.
    """

    def __init__(
        self, small: Float[Tensor, "w u v"], step_A: float, ranges: HelicalRanges, length_A: float
    ) -> None:
        self._map, self._step_A, self._ranges = small[None, None], step_A, ranges
        self._half_A = length_A / 2
        generator = torch.Generator().manual_seed(0)
        draw = torch.rand(4, _PLACES, generator=generator, dtype=torch.float64)
        radius_A, angle = ranges.radius_A * draw[0].sqrt(), 2 * math.pi * draw[1]
        self._x, self._y = radius_A * angle.cos(), radius_A * angle.sin()
        self._z = (2 * draw[2] - 1) * self._half_A
        self._jitter = torch.rand(_COPIES, _PLACES, generator=generator, dtype=torch.float64)
        turns = torch.randint(ranges.fold, (_COPIES, _PLACES), generator=generator)
        self._turn = turns * (2 * math.pi / ranges.fold)

    def best(self, axis: FilamentAxis, helix: Helix) -> tuple[FilamentAxis, Helix]:
        """Return axis and helix of the nearest highest agreement."""
        number = self._steps(helix)
        farthest = max(float(number.abs().max()), 1.0)
        unit_A = self._ranges.resolution_A / 4
        scale = torch.tensor(
            [unit_A, unit_A, unit_A / self._half_A, unit_A / self._half_A,
             unit_A / self._ranges.radius_A / farthest, unit_A / farthest],
            dtype=torch.float64,
        )  # fmt: skip
        start = torch.tensor(
            [*axis.offset_A, *axis.slope, helix.twist_rad, helix.rise_A], dtype=torch.float64
        )

        def cost(x: np.ndarray) -> tuple[float, np.ndarray]:
            moved = torch.from_numpy(x).requires_grad_()
            value = -self._agreement(start + scale * moved, number)
            value.backward()
            slope = moved.grad
            return float(value.detach()), np.zeros(6) if slope is None else slope.numpy().copy()

        reach = np.array([_REACH] * 4 + [_REACH / 8] * 2)
        found = optimize.minimize(
            cost, np.zeros(6), jac=True, method="L-BFGS-B",
            bounds=list(zip(-reach, reach, strict=True)), options={"maxiter": _STEPS},
        )  # fmt: skip
        at = start + scale * torch.from_numpy(found.x)
        u, v, p, q, twist, rise = at.tolist()
        turned = Helix(math.degrees(twist), max(rise, 1e-3), helix.fold)
        return FilamentAxis((u, v), (p, q)), turned

    def _steps(self, helix: Helix) -> Tensor:
        """Return for each place numbers of steps, of as many equal parts of those that are held."""
        low = torch.ceil((-self._half_A - self._z) / helix.rise_A)
        held = torch.floor((self._half_A - self._z) / helix.rise_A) - low + 1
        n = int(min(_COPIES, max(float(held.min()), 1)))
        part = (torch.arange(n)[:, None] + self._jitter[:n]) / n
        return low + torch.floor(part * held)

    def _agreement(self, at: Tensor, number: Tensor) -> Tensor:
        angle = number * at[4] + self._turn[: len(number)]
        c, s = angle.cos(), angle.sin()
        places = torch.stack(
            [c * self._x - s * self._y, s * self._x + c * self._y, self._z + number * at[5]], -1
        )
        where = places @ rotation_from_z(at[2:4]).T + torch.cat([at[:2], torch.zeros(1)])
        n = self._map.shape[-1]
        index = (where / self._step_A + n // 2) * (2 / (n - 1)) - 1
        values = torch.nn.functional.grid_sample(
            self._map, index[None, None].to(self._map), align_corners=True
        )[0, 0, 0].double()
        squares = (values**2).sum()
        return ((values.sum(0) ** 2).sum() - squares) / squares / max(len(number) - 1, 1)
