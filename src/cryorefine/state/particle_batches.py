"""Particles of one half and sampling geometry, batch by batch, in their geometry's band."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Complex, Float, Int
from torch import Tensor

from cryorefine.assign.comparison import WhitenedImages
from cryorefine.assign.particle_optics import (
    magnification_matrix,
    with_defocus_change,
    without_offset,
)
from cryorefine.engine.blocks import Rows
from cryorefine.engine.memory import MemoryPlan, batch_size
from cryorefine.model.observe import (
    GroupBand,
    ImageStatistics,
    as_seen_by,
    image_coefficients,
    make_group_band,
    sampling_geometry,
    select_statistics,
)
from cryorefine.optics.ctf import contrast_transfer
from cryorefine.optics.group import OpticsGroup
from cryorefine.particles.images import ImageSource
from cryorefine.particles.table import ParticleTable
from cryorefine.state.state import Inputs, Poses, State

__all__ = [
    "Batch",
    "HalfOptics",
    "ParticleStack",
    "both_optics",
    "group_counts",
    "half_optics",
    "is_assigned",
    "largest_magnification",
    "make_half_optics",
    "particle_stack",
    "poses_of",
    "rows_by_geometry",
]


@dataclass(frozen=True, eq=False)
class ParticleStack:
    """What work on images needs of the particles; it can be pickled.

    Attributes
    ----------
    table, images, statistics
        Of all particles, without labels.
    memory
        How much a batch may hold.
    device
        Where batches are worked on.
    """

    table: ParticleTable
    images: ImageSource
    statistics: ImageStatistics
    memory: MemoryPlan
    device: torch.device


def particle_stack(inputs: Inputs) -> ParticleStack:
    """Return what tasks need of a run's particles."""
    return ParticleStack(
        inputs.table.without_labels(),
        inputs.images,
        inputs.statistics,
        inputs.working_memory,
        inputs.device,
    )


@dataclass(frozen=True, eq=False)
class Batch:
    """Images of one half and sampling geometry, in its band.

    Attributes
    ----------
    rows
        The particles.
    group_of
        Their optics groups.
    x, c
        Coefficients and contrast transfer, not whitened, corrected for what is the particles' own.
    noise
        Noise variance of each image by shell; one row for all where they share their group.
    shell
        Of each coefficient.
    """

    rows: np.ndarray
    group_of: np.ndarray
    x: Complex[Tensor, "b p"]
    c: Float[Tensor, "b p"]
    noise: Float[Tensor, "#b s"]
    shell: Int[Tensor, "p"]

    @property
    def index(self) -> Int[Tensor, "b"]:
        """The particles, to index tensors on the CPU with."""
        return torch.from_numpy(self.rows)

    @cached_property
    def white(self) -> Float[Tensor, "#b p"]:
        """Inverse standard deviation of the noise."""
        return self.noise.rsqrt().float()[:, self.shell]

    @property
    def inverse_variance(self) -> Float[Tensor, "#b p"]:
        """Inverse variance of the noise."""
        return self.noise.reciprocal().float()[:, self.shell]

    def whitened(self, group_band: GroupBand) -> WhitenedImages:
        """Return the images, whitened, with the band of their geometry."""
        return WhitenedImages(group_band, self.x * self.white, self.c * self.white)


@dataclass(frozen=True, eq=False)
class HalfOptics:
    """How one half's optics groups see the volume down to a resolution.

    Groups that share pixel, box and magnification matrix have one geometry: they share bands,
    batches and search tables.

    Attributes
    ----------
    bands
        By optics group, its amplitude times the group's scale in that half.
    geometry_of
        Geometry of each optics group.
    noise
        Noise variance by optics group and shell of its images, where the bands are.
    """

    bands: tuple[GroupBand, ...]
    geometry_of: tuple[int, ...]
    noise: tuple[Float[Tensor, "_"], ...]

    def band_of(self, geometry: int) -> GroupBand:
        """Return the band of the first group of a geometry: for what does not depend on groups."""
        return self.bands[self.geometry_of.index(geometry)]

    def batches(
        self,
        stack: ParticleStack,
        geometry: int,
        rows: np.ndarray,
        optics: Float[Tensor, "n v"] | None = None,
    ) -> Iterator[Batch]:
        """Read particles of one geometry batch by batch.

        ``optics`` are all particles' own values, None where there are none.
        """
        band = self.band_of(geometry).band
        size = batch_size(stack.memory, len(band))
        for part, images in stack.images.batches(rows, size, stack.device):
            x = image_coefficients(images, select_statistics(stack.statistics, part), band)
            own = None if optics is None else optics[torch.from_numpy(part)]
            group_of = stack.table.optics_index[part]
            parts = []
            for places, group_band in self.by_group(group_of):
                rows_of_group = part[places]
                defocus = stack.table.defocus(rows_of_group)
                if own is not None:
                    defocus = with_defocus_change(defocus, own[places])
                parts.append(as_seen_by(x[places], group_band, defocus))
            x, c = _in_place(parts, group_of)
            if own is not None:
                x = without_offset(self.band_of(geometry), x, own[:, 1])
                c = c * (1 + own[:, :1]).float()
            yield Batch(part, group_of, x, c, self.noise_of(group_of), band.shell)

    def transfer(self, table: ParticleTable, rows: np.ndarray) -> Float[Tensor, "b p"]:
        """Return the contrast transfer of particles of one geometry, their amplitude included."""
        group_of = table.optics_index[rows]
        parts = [
            (
                contrast_transfer(band.group, table.defocus(rows[places]), band.s_per_A)
                * band.amplitude,
            )
            for places, band in self.by_group(group_of)
        ]
        return _in_place(parts, group_of)[0]

    def by_group(self, group_of: np.ndarray) -> Iterator[tuple[np.ndarray | slice, GroupBand]]:
        """Yield the places of each optics group's images, and the group's band."""
        groups = np.unique(group_of)
        for g in groups:
            yield (
                (slice(None) if len(groups) == 1 else np.flatnonzero(group_of == g)),
                self.bands[g],
            )

    def noise_of(self, group_of: np.ndarray) -> Float[Tensor, "#b s"]:
        """Return the noise variance of images; one row if they share their group."""
        groups, place = np.unique(group_of, return_inverse=True)
        noise = torch.stack([self.noise[g] for g in groups])
        return noise if len(groups) == 1 else noise[torch.from_numpy(place).to(noise.device)]


def _in_place(parts: list[tuple[Tensor, ...]], group_of: np.ndarray) -> tuple[Tensor, ...]:
    """Put rows that were worked on group by group back into their order."""
    if len(parts) == 1:
        return parts[0]
    order = np.argsort(np.argsort(group_of, kind="stable"), kind="stable")
    index = torch.from_numpy(order).to(parts[0][0].device)
    return tuple(torch.cat(columns)[index] for columns in zip(*parts, strict=True))


def make_half_optics(
    groups: Sequence[OpticsGroup],
    *,
    volume_size_px: int,
    voxel_A: float,
    resolution_A: float,
    device: torch.device | str = "cpu",
) -> HalfOptics:
    """Return how optics groups see a volume: on one grey scale, with noise of variance 1."""
    first: dict[tuple[object, ...], int] = {}
    bands: list[GroupBand] = []
    geometry_of = []
    for group in groups:
        key = sampling_geometry(group)
        alike = bands[first[key]] if key in first else None
        first.setdefault(key, len(bands))
        geometry_of.append(list(first).index(key))
        bands.append(
            make_group_band(
                group,
                volume_size_px=volume_size_px,
                voxel_A=voxel_A,
                resolution_A=resolution_A,
                device=device,
                alike=alike,
            )
        )
    noise = (torch.ones(b.band.n_shells, dtype=torch.float64, device=device) for b in bands)
    return HalfOptics(tuple(bands), tuple(geometry_of), tuple(noise))


def largest_magnification(
    inputs: Inputs, half: int, values: Float[Tensor, "n v"] | None = None
) -> float:
    """Return by what a half's particles magnify frequencies at most, at least 1.

    It is what refinement may make of them, or more where it took out their mean since.

    Parameters
    ----------
    values
        The particles' own values that slices are read or written with; None: none but those
        that are being refined.
    """
    largest = inputs.settings.largest_magnification
    # The other half's particles must not change this one's band.
    mine = torch.from_numpy(inputs.half == half)
    if values is None or not bool(mine.any()):
        return largest
    matrices = magnification_matrix(values[mine])
    return max(largest, float(torch.linalg.matrix_norm(matrices, 2).max()))


def half_optics(
    inputs: Inputs,
    state: State,
    half: int,
    resolution_A: float,
    values: Float[Tensor, "n v"] | None = None,
) -> HalfOptics:
    """Return how a half's optics groups see the volume down to a resolution.

    Bands end so early that no particle's slice leaves a grid made for the resolution, however the
    particle is magnified; ``values`` is as for :func:`largest_magnification`.
    """
    largest = largest_magnification(inputs, half, values)
    if largest > 1:
        # The volume's own transform ends here, whatever the resolution.
        finest_A = 2 * inputs.geometry.box_A / (inputs.size_px - 1)
        resolution_A = largest * max(resolution_A, finest_A)
    plain = make_half_optics(
        inputs.optics,
        volume_size_px=inputs.size_px,
        voxel_A=inputs.voxel_A,
        resolution_A=resolution_A,
        device=inputs.device,
    )
    scales, noise = state.group_scale[half - 1], state.noise[half - 1]
    bands = (
        replace(band, amplitude=band.amplitude * scale)
        for band, scale in zip(plain.bands, scales, strict=True)
    )
    return replace(
        plain, bands=tuple(bands), noise=tuple(spectrum.to(inputs.device) for spectrum in noise)
    )


def both_optics(
    inputs: Inputs,
    state: State,
    resolution_A: float,
    values: Float[Tensor, "n v"] | None = None,
) -> tuple[HalfOptics, HalfOptics]:
    """Return how the optics groups of both halves see the volume; see :func:`half_optics`."""
    return (
        half_optics(inputs, state, 1, resolution_A, values),
        half_optics(inputs, state, 2, resolution_A, values),
    )


def rows_by_geometry(
    table: ParticleTable, half_of: np.ndarray, optics: HalfOptics, half: int, action: str = ""
) -> list[Rows]:
    """Return the particles of a half by the geometry of their images."""
    geometry = np.array(optics.geometry_of)[table.optics_index]
    return [
        Rows(half, g, action, np.flatnonzero((half_of == half) & (geometry == g)))
        for g in range(max(optics.geometry_of) + 1)
    ]


def group_counts(table: ParticleTable, half_of: np.ndarray, half: int) -> Int[np.ndarray, "g"]:
    """Return how many particles of a half each optics group has."""
    return np.bincount(table.optics_index[half_of == half], minlength=len(table.optics))


def poses_of(poses: Poses | None, rows: np.ndarray, group_band: GroupBand) -> tuple[Tensor, Tensor]:
    """Return rotations and shifts in pixels of some particles, where their images are."""
    if poses is None:
        raise ValueError("no poses are known yet")
    index, device = torch.from_numpy(rows), group_band.points.device
    shifts_px = poses.shift_A[index] / group_band.group.pixel_A
    return poses.rotations[index].to(device), shifts_px.to(device)


def is_assigned(state: State, n: int) -> np.ndarray:
    """Tell which of n particles have a pose that this run has found."""
    return np.zeros(n, bool) if state.poses is None else state.poses.is_assigned.numpy()
