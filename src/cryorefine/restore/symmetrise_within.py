"""Average the symmetric copies of half maps where a mask says so, and nowhere else."""

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from cryorefine.engine.threads import MAX_AT_ONCE, side_by_side
from cryorefine.geometry.cosets import coset_representatives
from cryorefine.geometry.protocol import Symmetry
from cryorefine.geometry.symmetry import SymmetryGroup
from cryorefine.restore.protocol import Context, Halves, Restored
from cryorefine.restore.rigid import POINTS_AT_ONCE, FourierSeries
from cryorefine.restore.voxelwise import values_where

__all__ = ["SymmetriseWithin", "oriented", "permuted", "symmetric_copies"]


@dataclass(frozen=True, eq=False)
class SymmetriseWithin:
    """Blends a map with its symmetric average: ``M V_sym + (1 - M) V``.

    Attributes
    ----------
    group
        With axes as they lie in the map; see :func:`oriented`.
    mask
        M, 0 to 1, soft; where it is 0 the map stays as it is, to the bit. It should have the
        symmetry itself.
    """

    group: Symmetry
    mask: Float[Tensor, "z y x"]
    name: ClassVar[str] = "symmetrise"
    title: ClassVar[str] = "symmetry within a mask"
    mixes_halves: ClassVar[bool] = False

    def __call__(self, halves: Halves, context: Context) -> Restored:
        """Return both half maps, each symmetrised with copies of itself."""
        mask = self.mask.to(halves[0])
        where = mask > 0

        def blended(volume: Float[Tensor, "z y x"]) -> tuple[Float[Tensor, "z y x"], float | None]:
            average = symmetric_copies(volume, self.group, where)
            values, weight = values_where(volume, where), values_where(mask, where)
            blend = torch.lerp(values, average, weight)
            agreement = _correlation(average, values, weight)
            del average, values, weight
            return volume.masked_scatter(where, blend), agreement

        at_once = mask.numel() <= MAX_AT_ONCE
        (first, agreement1), (second, agreement2) = side_by_side(blended, halves, at_once=at_once)
        facts = {
            "group": self.group.name,
            "correlation_with_copies_half1": agreement1,
            "correlation_with_copies_half2": agreement2,
        }
        return Restored((first, second), facts)


def oriented(group: SymmetryGroup, rotation: Float[Tensor, "3 3"]) -> SymmetryGroup:
    """Return a point group whose axes are turned by a rotation from where convention has them."""
    turn = rotation.double()
    matrices = turn @ group.matrices @ turn.T
    exact = matrices.round()
    matrices = torch.where((matrices - exact).abs() < 1e-12, exact, matrices)
    return replace(group, matrices=matrices)


def symmetric_copies(
    volume: Float[Tensor, "z y x"], group: Symmetry, where: Tensor
) -> Float[Tensor, "m"]:
    """Return the mean of a map's copies under a point group, at some voxels.

    Operators that take voxels to voxels move them. For the others the Fourier series of the sum of
    those copies is evaluated; the box repeats, so that nothing is lost at its edges.

    Raises
    ------
    ValueError
        If the symmetry has operators that are not of its point group.
    """
    if group.order > len(group.point_group):
        raise ValueError(f"symmetry {group.name} is no point group")
    representatives, exact = coset_representatives(group)
    total = volume
    if len(exact) > 1:
        total = torch.zeros_like(volume)
        for matrix in exact:
            total += permuted(volume, matrix)
    out = values_where(total, where)
    if len(representatives) < 2:
        return (out.double() / group.order).to(volume)
    series = FourierSeries(total)
    del total
    n, begin = volume.shape[-1], 0
    for planes in _runs_of_planes(where):
        rows = torch.nonzero(where[planes].flatten()).flatten().cpu() + planes.start * n**2
        part = slice(begin, begin + len(rows))
        sums = out[part].double()
        for matrix in representatives[1:]:
            sums += series.at(_places(rows, n, matrix, volume.dtype)).to(sums)
        out[part] = (sums / group.order).to(out)
        begin = part.stop
    return out


def _runs_of_planes(where: Tensor) -> list[slice]:
    """Return runs of planes (z) with as many voxels as are evaluated together, at most."""
    counts = [int(torch.count_nonzero(plane)) for plane in where]
    runs, start, held = [], 0, 0
    for z, count in enumerate(counts):
        if held and held + count > POINTS_AT_ONCE:
            runs.append(slice(start, z))
            start, held = z, 0
        held += count
    if held:
        runs.append(slice(start, len(counts)))
    return runs


def _places(rows: Tensor, size_px: int, matrix: Tensor, dtype: torch.dtype) -> Tensor:
    """Return where voxels, counted through a map, come to lie; (x, y, z) from the origin."""
    voxels = torch.stack([rows % size_px, rows // size_px % size_px, rows // size_px**2], 1)
    return ((voxels - size_px // 2).double() @ matrix.T).to(dtype)


def permuted(volume: Float[Tensor, "z y x"], matrix: Float[Tensor, "3 3"]) -> Tensor:
    """Return the map read at the images of its voxels under a rotation that permutes the axes."""
    # Row a of the matrix says which axis of the voxel becomes axis a of the place that is read.
    rows = matrix.flip(0, 1).round().long().tolist()  # of z, y, x
    source = [next(b for b in range(3) if row[b]) for row in rows]
    out = volume
    for axis, row in enumerate(rows):
        if row[source[axis]] < 0:
            out = _mirrored(out, axis)
    # Axis a of what is read becomes axis source[a] of the result.
    return out.permute([source.index(axis) for axis in range(3)])


def _mirrored(volume: Tensor, axis: int) -> Tensor:
    """Return a map mirrored at the origin's plane; the first plane of even axes stays."""
    mirrored = volume.flip(axis)
    return mirrored.roll(1, axis) if volume.shape[axis] % 2 == 0 else mirrored


def _correlation(a: Tensor, b: Tensor, weight: Tensor) -> float | None:
    """Return the correlation of two lists of voxels, by their weights; None without any."""
    total = weight.sum()
    if len(a) == 0 or float(total) == 0:
        return None
    a = a - (a * weight).sum() / total
    b = b - (b * weight).sum() / total
    norm = ((a * a * weight).sum() * (b * b * weight).sum()).sqrt()
    return float((a * b * weight).sum() / norm) if float(norm) > 0 else None
