"""Insert every particle into its half's sums, and measure the noise anew."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from cryorefine.assign.particle_optics import magnified
from cryorefine.engine.blocks import Block
from cryorefine.engine.freed_memory import release_memory
from cryorefine.engine.progress import progress_of
from cryorefine.engine.protocol import Done, Engine, merged
from cryorefine.engine.threads import side_by_side
from cryorefine.events import EventLog
from cryorefine.geometry.protocol import Symmetry
from cryorefine.kernels.grid import Accumulator, SliceGrid, make_accumulator
from cryorefine.model.observe import GroupBand
from cryorefine.reconstruct.accumulate import (
    CentredImages,
    Levels,
    accumulate,
    centre,
    residual_power,
)
from cryorefine.reconstruct.balance import DataPerShell, balancing_curve
from cryorefine.reconstruct.crowding import Crowding, view_crowding
from cryorefine.reconstruct.group_power import GroupPower, power_sums
from cryorefine.reconstruct.solve import FoldedSums, fold, solve
from cryorefine.refine.finite import require_finite_halves, require_finite_sums
from cryorefine.refine.noise import group_noise
from cryorefine.state.particle_batches import (
    Batch,
    HalfOptics,
    ParticleStack,
    both_optics,
    has_several_groups,
    largest_magnification,
    particle_stack,
    rows_by_geometry,
)
from cryorefine.state.scores import measured
from cryorefine.state.state import Inputs, Poses, State

__all__ = [
    "HalvesInserted",
    "InsertImages",
    "ResidualModel",
    "reconstruct_halves",
    "solve_halves",
]

_DATA_SAMPLE = 64
"""Images that the mean of the contrast transfer's square is taken of: defoci differ among them
enough to level its oscillations, and only its rise at low resolution is used. Not measured."""

_MIN_IMAGES = 64
"""Partial sums of fewer images would cost more to add up than they save."""


@dataclass(frozen=True, eq=False)
class PartialSums:
    """What some particles add to a half's sums, and their residuals.

    Attributes
    ----------
    accumulator
        Weighted slices.
    power
        Of the particles' residuals, by optics group.
    """

    accumulator: Accumulator
    power: GroupPower

    def merge(self, other: "PartialSums") -> "PartialSums":
        """Return the sum of both, in the memory of this one."""
        self.accumulator.values.add_(other.accumulator.values)
        self.accumulator.weights.add_(other.accumulator.weights)
        self.power.merge(other.power)
        return self


@dataclass(frozen=True, eq=False)
class _Insertion:
    """Poses at which images of a batch go into the sums, and with which share of their weight."""

    image: Int[Tensor, "m"]
    rotations: Float[Tensor, "m 3 3"]
    shifts_px: Float[Tensor, "m 2"]
    probability: Float[Tensor, "m"]


@dataclass(frozen=True, eq=False)
class ResidualModel:
    """What is taken from images before their noise is measured.

    Attributes
    ----------
    grids
        References by half.
    resolution_A
        They are a model down to here; nothing is taken from the images beyond.
    """

    grids: tuple[SliceGrid, SliceGrid]
    resolution_A: float


@dataclass(frozen=True, eq=False)
class InsertImages:
    """Adds particles, at their poses, to empty sums of their half.

    Attributes
    ----------
    optics, levels
        By half.
    poses
        With their weights.
    model
        What residuals are taken against; None: nothing.
    largest
        By half: slices reach the model's resolution so much earlier; see
        :func:`~cryorefine.state.particle_batches.largest_magnification`.
    size_px, max_radius, oversampling
        Of the sums; see :func:`~cryorefine.kernels.grid.make_accumulator`.
    """

    stack: ParticleStack
    optics: tuple[HalfOptics, HalfOptics]
    poses: Poses
    model: ResidualModel | None
    largest: tuple[float, float]
    levels: tuple[Levels, Levels]
    size_px: int
    max_radius: float
    oversampling: float

    def run(self, block: Block, done: Done) -> PartialSums:
        """Return the sums over a block, which may hold images of several geometries."""
        optics = self.optics[block.half - 1]
        sums = PartialSums(
            make_accumulator(
                self.size_px,
                self.max_radius,
                oversampling=self.oversampling,
                device=self.stack.device,
            ),
            power_sums(optics.n_shells(), self.stack.device),
        )
        geometry_of = np.array(optics.geometry_of)[self.stack.table.optics_index[block.rows]]
        for geometry in np.unique(geometry_of):
            rows = block.rows[geometry_of == geometry]
            for batch in optics.batches(self.stack, int(geometry), rows, self.poses.optics):
                self._insert(sums, block.half, int(geometry), batch)
                done(len(batch.rows))
        return sums

    def _insert(self, sums: PartialSums, half: int, geometry: int, batch: Batch) -> None:
        optics = self.optics[half - 1]
        band = optics.band_of(geometry)
        grid, shell = None, 0
        if self.model is not None:
            grid = self.model.grids[half - 1]
            shell = _model_shell(band, self.model.resolution_A * self.largest[half - 1])
        poses = self.poses.select(batch.rows)
        weight = _weights(poses).to(self.stack.device)
        # Image by image where groups are compared, else all at once.
        compared = has_several_groups(self.stack.table, optics, geometry)
        groups = batch.group_of if compared else batch.group_of[:1]
        of = torch.arange(len(batch.rows), device=self.stack.device).clamp(max=len(groups) - 1)
        residual: Tensor | int = 0
        inverse_variance = batch.inverse_variance
        for part in _insertions(poses, len(batch.rows), band):
            x = centre(band, batch.x[part.image], part.shifts_px)
            images = CentredImages(band, x, batch.c[part.image], part.rotations)
            p = part.probability.to(weight)
            root = p.sqrt()[:, None]
            shared = replace(images, x=images.x * root, c=images.c * root)
            power = residual_power(
                grid, shared, max_shell=shell, of=of[part.image], n_sums=len(groups)
            )
            if compared:
                residual = residual + power
            else:
                sums.power.add(groups, power)
            accumulate(
                sums.accumulator, images,
                inverse_variance if len(inverse_variance) == 1 else inverse_variance[part.image],
                weight[part.image] * p, self.levels[half - 1],
            )  # fmt: skip
        if isinstance(residual, Tensor):
            sums.power.add_images(groups, residual, band.band)


def _weights(poses: Poses) -> Float[Tensor, "n"]:
    """Return what particles count in the sums."""
    return measured(poses.scores.weight).float()


def _model_shell(group_band: GroupBand, resolution_A: float) -> int:
    """Return the last shell of a group's images that the reference has a model for.

    Slices of groups that magnify frequencies reach the end of the reference earlier.
    """
    resolution_A = resolution_A * group_band.group.largest_stretch
    return min(group_band.band.n_shells - 1, int(group_band.group.box_A / resolution_A + 1e-6))


def _insertions(poses: Poses, size: int, group_band: GroupBand) -> Iterator[_Insertion]:
    """Yield the best poses of a batch, then those that share its images' weights."""
    device, n = group_band.points.device, len(poses.rotations)
    others = poses.others
    every = torch.arange(n)
    probability = torch.ones(n, dtype=torch.float64)
    if others is not None and len(others.row):
        probability = measured(poses.scores.probability).nan_to_num(1.0)
    parts = [(every, poses.rotations, poses.shift_A, probability)]
    if others is not None:
        for i in range(0, len(others.row), size):
            at = slice(i, i + size)
            row = others.row[at]
            parts.append((row, others.rotations[at], others.shift_A[at], others.probability[at]))
    for row, rotations, shift_A, share in parts:
        if poses.optics is not None:
            rotations = magnified(rotations, poses.optics[row])
        yield _Insertion(
            row.to(device), rotations.to(device), shift_A.to(device) / group_band.group.pixel_A,
            share.to(device),
        )  # fmt: skip


def _data_per_shell(inputs: Inputs, optics: HalfOptics, half: int) -> Float[Tensor, "s"]:
    """Return what a half's image knows about a coefficient, ``c² / σ²``: the mean over images."""
    data = DataPerShell(inputs.size_px // 2 + 2)
    for part in rows_by_geometry(inputs.table, inputs.half, optics, half):
        if len(part.rows) == 0:
            continue
        sample = part.rows[:: max(1, len(part.rows) // _DATA_SAMPLE)]
        band = optics.band_of(part.geometry)
        noise = optics.noise_of(inputs.table.optics_index[sample])
        known = noise.reciprocal().float()[:, band.band.shell]
        data.add(band, optics.transfer(inputs.table, sample), known, len(part.rows))
    return data.mean()


@dataclass(frozen=True, eq=False)
class HalvesInserted:
    """What was made of all images, by half.

    Attributes
    ----------
    sums
        Of the images, and of their mates and symmetric copies.
    noise
        Spectra by optics group; they keep their old values beyond the resolution of the sums.
    data_per_shell
        What an image knows about a coefficient, ``c² / σ²``: the mean over the half's images. None
        where the sums are of other images, too: mixtures of subsets.
    """

    sums: tuple[FoldedSums, FoldedSums]
    noise: tuple[tuple[Float[Tensor, "_"], ...], tuple[Float[Tensor, "_"], ...]]
    data_per_shell: tuple[Float[Tensor, "s"], Float[Tensor, "s"]] | None


def reconstruct_halves(
    inputs: Inputs,
    state: State,
    poses: Poses,
    model: ResidualModel | None,
    *,
    resolution_A: float,
    events: EventLog,
    engine: Engine,
) -> HalvesInserted:
    """Insert all images into their half's sums, and measure the noise anew.

    Parameters
    ----------
    poses
        With the column ``weight``: what each particle counts.
    model
        What residuals are taken against; None: nothing at all, which measures the images' power.
    resolution_A
        The sums are filled down to here.

    Raises
    ------
    InputError
        If they are no numbers, or hold nothing.
    """
    halves = (1, 2)
    optics = both_optics(inputs, state, resolution_A, poses.optics)
    crowding = side_by_side(lambda half: _crowding(inputs, poses, half), halves)
    data = _data_per_shell(inputs, optics[0], 1), _data_per_shell(inputs, optics[1], 2)
    levels = (
        Levels(balancing_curve(data[0]), crowding[0]),
        Levels(balancing_curve(data[1]), crowding[1]),
    )
    task = InsertImages(
        stack=particle_stack(inputs),
        optics=optics,
        poses=poses,
        model=model,
        largest=(
            largest_magnification(inputs, 1, poses.optics),
            largest_magnification(inputs, 2, poses.optics),
        ),
        levels=levels,
        size_px=inputs.size_px,
        max_radius=inputs.geometry.box_A / resolution_A,
        oversampling=inputs.settings.fourier_padding,
    )
    done = progress_of("reconstructing", events, len(inputs.table))
    folded, noise = [], []
    # Where memory is scarce the sums of one half must be gone before those of the other begin.
    for together in [halves] if inputs.working_memory.both_halves else [halves[:1], halves[1:]]:
        blocks = [block for half in together for block in _insertion_blocks(inputs, half)]
        found: list[PartialSums] = engine.map(task, blocks, done)
        parts = [[p for b, p in zip(blocks, found, strict=True) if b.half == h] for h in together]
        totals: list[PartialSums] = side_by_side(merged, parts)
        del found, parts
        noise += [
            group_noise(inputs, state, optics[half - 1], half, total.power.cpu())
            for half, total in zip(together, totals, strict=True)
        ]
        sums: list[tuple[Accumulator, Crowding | None] | None] = [
            (total.accumulator, levels[half - 1].crowding)
            for half, total in zip(together, totals, strict=True)
        ]
        del totals
        folded += _fold(sums, inputs.group)
    sums_of_halves, spectra = (folded[0], folded[1]), (noise[0], noise[1])
    require_finite_sums(inputs, sums_of_halves, spectra)
    return HalvesInserted(sums_of_halves, spectra, data)


def solve_halves(
    inputs: Inputs, sums: tuple[FoldedSums, FoldedSums]
) -> tuple[Float[Tensor, "z y x"], Float[Tensor, "z y x"]]:
    """Return the raw half maps of their sums.

    Raises
    ------
    InputError
        If one is no numbers, or empty.
    """
    first, second = side_by_side(solve, sums, at_once=inputs.working_memory.both_halves)
    release_memory()
    require_finite_halves(inputs, (first, second))
    return first, second


def _crowding(inputs: Inputs, poses: Poses, half: int) -> Crowding | None:
    mine = torch.from_numpy(inputs.half == half)
    weights = _weights(poses)[mine]
    return view_crowding(poses.rotations[mine], weights, inputs.group, inputs.device)


def _insertion_blocks(inputs: Inputs, half: int) -> list[Block]:
    """Cut a half into as many blocks as there may be partial sums; by the data alone."""
    rows = np.flatnonzero(inputs.half == half)
    n = min(inputs.working_memory.partial_sums, max(1, len(rows) // _MIN_IMAGES))
    return [Block(half, 0, "insert", part) for part in np.array_split(rows, n)]


def _fold(
    sums: list[tuple[Accumulator, Crowding | None] | None], group: Symmetry
) -> list[FoldedSums]:
    """Add mates and symmetric copies, and let go of slices as soon as that is done."""

    def folded(i: int) -> FoldedSums:
        item, sums[i] = sums[i], None
        if item is None:
            raise AssertionError("each half is folded once")
        return fold(item[0], group, item[1])

    halves = side_by_side(folded, range(len(sums)))
    release_memory()
    return halves
