"""Particles of one half and sampling geometry, batch by batch, in their geometry's band."""

from collections.abc import Hashable, Iterator, Sequence
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
from cryorefine.model.odd_factors import OddFactors, make_odd_factors
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
    "has_several_groups",
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
        Noise variance of each image by shell; one row for all where they share their spectrum.
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
        return self.noise.rsqrt().float().index_select(1, self.shell)

    @property
    def inverse_variance(self) -> Float[Tensor, "#b p"]:
        """Inverse variance of the noise."""
        return self.noise.reciprocal().float().index_select(1, self.shell)

    def whitened(self, group_band: GroupBand) -> WhitenedImages:
        """Return the images, whitened, with the band of their geometry."""
        return WhitenedImages(group_band, self.x * self.white, self.c * self.white)


@dataclass(frozen=True, eq=False)
class HalfOptics:
    """How one half's optics groups see the volume down to a resolution.

    Groups that share pixel, box and magnification matrix have one geometry: they share bands,
    batches and search tables. Those that share all constants of the contrast transfer are worked on
    together: hundreds of groups, as beam shifts make them, differ in beam tilt and amplitude alone.

    Attributes
    ----------
    geometry_bands
        By geometry, as its first group sees the volume.
    geometry_of
        Geometry of each optics group.
    views, view_of
        By contrast transfer, as the first group that has it sees the volume; and which of them each
        optics group has.
    odd_factors
        By geometry; None where all its groups have the antisymmetric aberrations of the first.
    amplitude
        By optics group, between volume and images: the group's scale in that half included.
    noise
        Noise variance by optics group and shell of its images, where the bands are.
    """

    geometry_bands: tuple[GroupBand, ...]
    geometry_of: tuple[int, ...]
    views: tuple[GroupBand, ...]
    view_of: Int[np.ndarray, "g"]
    odd_factors: tuple[OddFactors | None, ...]
    amplitude: Float[Tensor, "g"]
    noise: tuple[Float[Tensor, "_"], ...]

    def band_of(self, geometry: int) -> GroupBand:
        """Return the band of the first group of a geometry: for what does not depend on groups."""
        return self.geometry_bands[geometry]

    def n_shells(self) -> list[int]:
        """Return how many shells the images of each optics group have."""
        return [self.geometry_bands[geometry].band.n_shells for geometry in self.geometry_of]

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
            odd = self._odd_factor(geometry, group_of)
            parts = []
            for places, view in self.by_view(group_of):
                defocus = stack.table.defocus(part[places])
                if own is not None:
                    defocus = with_defocus_change(defocus, own[places])
                parts.append(
                    as_seen_by(
                        x[places], view, defocus,
                        odd_factor=odd if odd is None or len(odd) == 1 else odd[places],
                        amplitude=self.amplitudes(group_of[places]),
                    )
                )  # fmt: skip
            x, c = _in_place(parts, self.view_of[group_of])
            if own is not None:
                x = without_offset(self.band_of(geometry), x, own[:, 1])
                c = c * (1 + own[:, :1]).float()
            yield Batch(part, group_of, x, c, self.noise_of(group_of), band.shell)

    def transfer(self, table: ParticleTable, rows: np.ndarray) -> Float[Tensor, "b p"]:
        """Return the contrast transfer of particles of one geometry, their amplitude included."""
        group_of = table.optics_index[rows]
        parts = [
            (
                contrast_transfer(view.group, table.defocus(rows[places]), view.s_per_A)
                * self.amplitudes(group_of[places]),
            )
            for places, view in self.by_view(group_of)
        ]
        return _in_place(parts, self.view_of[group_of])[0]

    def by_view(self, group_of: np.ndarray) -> Iterator[tuple[np.ndarray | slice, GroupBand]]:
        """Yield the places of the images that share a contrast transfer, and their view of it."""
        view_of = self.view_of[group_of]
        views = np.unique(view_of)
        for v in views:
            places = slice(None) if len(views) == 1 else np.flatnonzero(view_of == v)
            yield places, self.views[v]

    def amplitudes(self, group_of: np.ndarray) -> Float[Tensor, "#b 1"]:
        """Return the amplitudes of images; one row if they share their group."""
        groups = group_of[:1] if (group_of == group_of[0]).all() else group_of
        return self.amplitude[torch.from_numpy(groups).to(self.amplitude.device), None]

    def _odd_factor(self, geometry: int, group_of: np.ndarray) -> Complex[Tensor, "#b p"] | None:
        """Return what removes images' antisymmetric aberrations; None if they have none."""
        factors = self.odd_factors[geometry]
        if factors is not None:
            return factors.of(group_of)
        shared = self.geometry_bands[geometry].odd_factor
        return None if shared is None else shared[None]

    def noise_of(self, group_of: np.ndarray) -> Float[Tensor, "#b s"]:
        """Return the noise variance of images; one row if they share their spectrum."""
        first, spectrum_of = self._spectra
        spectra, place = np.unique(spectrum_of[group_of], return_inverse=True)
        noise = torch.stack([self.noise[first[s]] for s in spectra])
        return noise if len(spectra) == 1 else noise[torch.from_numpy(place).to(noise.device)]

    @cached_property
    def _spectra(self) -> tuple[list[int], np.ndarray]:
        """The first group of each different noise spectrum, and which of them each group has."""
        first, spectrum_of = _numbered([noise.cpu().numpy().tobytes() for noise in self.noise])
        return first, np.array(spectrum_of)


def _in_place(parts: list[tuple[Tensor, ...]], view_of: np.ndarray) -> tuple[Tensor, ...]:
    """Put rows that were worked on view by view back into their order."""
    if len(parts) == 1:
        return parts[0]
    order = np.argsort(np.argsort(view_of, kind="stable"), kind="stable")
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
    geometries, geometry_of = _numbered([sampling_geometry(group) for group in groups])
    transfers, view_of = _numbered([group.without_odd_part for group in groups])
    bands = [
        make_group_band(
            groups[first],
            volume_size_px=volume_size_px,
            voxel_A=voxel_A,
            resolution_A=resolution_A,
            device=device,
        )
        for first in geometries
    ]
    odd_parts = [(g.cs_mm, g.voltage_kV, g.beam_tilt_mrad, g.odd_zernike) for g in groups]
    differ = {
        geometry
        for geometry, odd in zip(geometry_of, odd_parts, strict=True)
        if odd != odd_parts[geometries[geometry]]
    }
    of_groups = [bands[geometry] for geometry in geometry_of]
    return HalfOptics(
        geometry_bands=tuple(bands),
        geometry_of=tuple(geometry_of),
        views=tuple(replace(of_groups[first], group=groups[first]) for first in transfers),
        view_of=np.array(view_of),
        odd_factors=tuple(
            make_odd_factors(groups, band) if geometry in differ else None
            for geometry, band in enumerate(bands)
        ),
        amplitude=torch.tensor([band.amplitude for band in of_groups]).to(device),
        noise=tuple(
            torch.ones(band.band.n_shells, dtype=torch.float64, device=device) for band in of_groups
        ),
    )


def _numbered(keys: Sequence[Hashable]) -> tuple[list[int], list[int]]:
    """Return the first place of each different key, and which of them each key is."""
    number: dict[Hashable, int] = {}
    first = []
    for place, key in enumerate(keys):
        if key not in number:
            number[key] = len(number)
            first.append(place)
    return first, [number[key] for key in keys]


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
    # As doubles: they are rounded to single precision once, as they are multiplied with.
    amplitude = [
        plain.band_of(geometry).amplitude * scale
        for geometry, scale in zip(plain.geometry_of, scales, strict=True)
    ]
    return replace(
        plain,
        amplitude=torch.tensor(amplitude).to(inputs.device),
        noise=tuple(spectrum.to(inputs.device) for spectrum in noise),
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


def has_several_groups(table: ParticleTable, optics: HalfOptics, geometry: int) -> bool:
    """Tell whether particles of a geometry are in several optics groups."""
    counts = np.bincount(table.optics_index, minlength=len(table.optics))
    return int((counts[np.array(optics.geometry_of) == geometry] > 0).sum()) > 1


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
