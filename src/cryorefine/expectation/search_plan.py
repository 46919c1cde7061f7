"""Prepare the search over all orientations of one half and geometry: depth, grid, proof."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from cryorefine.assign.align import AlignmentOptions
from cryorefine.assign.comparison import Reference
from cryorefine.assign.exhaustive import CoarseSearch, PoseGrid, make_coarse_search, shift_grid
from cryorefine.assign.planted import planted_missed
from cryorefine.assign.search_depth import (
    Search,
    SearchSpace,
    discriminating_power,
    plan_depth,
)
from cryorefine.engine.blocks import Block
from cryorefine.engine.protocol import Done
from cryorefine.events import SearchTried
from cryorefine.geometry.protocol import Symmetry
from cryorefine.geometry.segments import HelicalStep
from cryorefine.geometry.so3 import rotation_grid
from cryorefine.kernels.grid import SliceGrid
from cryorefine.model.observe import GroupBand
from cryorefine.particles.table import ParticleTable
from cryorefine.state.particle_batches import HalfOptics
from cryorefine.state.plan import IterationPlan
from cryorefine.state.state import Inputs

__all__ = ["PoseSpace", "PrepareSearch", "PreparedSearch", "pose_space"]

# Contrast transfers that a plan is averaged over. Not measured.
_PLAN_SAMPLE = 16
# A tenth of the images, 24 to 96: 1 to 6 % of an iteration (docs/decisions.md).
_MAX_PLANTED, _MIN_PLANTED, _PLANTED_SHARE = 96, 24, 10
# Share that may be missed beyond what is planned, as of known poses (many_missed in policy.py).
_MAY_MISS = 0.01
# Three times the poses at each try where too many were missed; three tries. Not measured.
_FINER, _ATTEMPTS = 1.25, 3
# Of the price of loss: particles lost in a part are searched again with all. Not measured.
_WORTH_OF_A_PART = 0.1
_FULL = 0.5
"""Share of the candidates that may be kept: where more are, their number is what loses poses."""


@dataclass(frozen=True, eq=False)
class PreparedSearch:
    """A search that has been planned, and tried on planted images.

    Attributes
    ----------
    search
        Its table, and how deep it goes.
    attempts
        What was tried, for the log.
    """

    search: Search
    attempts: tuple[SearchTried, ...]


@dataclass(frozen=True, eq=False)
class PoseSpace:
    """Where the poses of a run's particles may lie.

    Attributes
    ----------
    symmetry
        Of the particle.
    radius_A
        Of the particle.
    tilt_range_rad, tilt_fraction
        Allowed viewing tilts, and their share of the sphere.
    max_shift_fraction
        Largest shift, in boxes.
    step
        Of the helix, in ångströms; None without one.
    """

    symmetry: Symmetry
    radius_A: float
    tilt_range_rad: tuple[float, float]
    tilt_fraction: float
    max_shift_fraction: float
    step: HelicalStep | None = None

    def max_shift_px(self, band: GroupBand) -> float:
        """Return the largest shift in an image's pixels."""
        return self.max_shift_fraction * band.group.box_px

    def search_space(
        self, band: GroupBand, *, max_shift_px: float, shift_sigma_px: float
    ) -> SearchSpace:
        """Return where a search looks, in an image's pixels."""
        return SearchSpace(
            radius_px=self.radius_A / band.group.pixel_A,
            box_px=band.group.box_px,
            group_order=len(self.symmetry.point_group),
            tilt_fraction=self.tilt_fraction,
            max_shift_px=max_shift_px,
            shift_sigma_px=shift_sigma_px,
        )

    def coarse_search(
        self,
        grid: SliceGrid,
        band: GroupBand,
        *,
        max_shell: int,
        step_rad: float,
        shift_step_px: float,
        max_shift_px: float,
        weight: Float[Tensor, "p"] | None = None,
    ) -> CoarseSearch:
        """Take a reference's slices at all orientations within the allowed tilts.

        ``weight``: see :func:`~cryorefine.assign.exhaustive.make_coarse_search`. Shifts along a
        filament are within half a rise.
        """
        low, high = self.tilt_range_rad
        rotations = rotation_grid(
            step_rad, group=self.symmetry, min_tilt_rad=low, max_tilt_rad=high
        )
        rotations = rotations.to(band.points.device)
        shifts = shift_grid(max_shift_px, shift_step_px)
        within = None
        if self.step is not None:
            step = self.step.in_units_of(band.group.pixel_A)
            within = step.is_within(rotations, shifts, shift_step_px)
        poses = PoseGrid(rotations, step_rad, shifts, within)
        return make_coarse_search(grid, band, poses, max_shell=max_shell, weight=weight)


def pose_space(inputs: Inputs) -> PoseSpace:
    """Return where a run's poses may lie."""
    return PoseSpace(
        symmetry=inputs.group,
        radius_A=inputs.geometry.radius_A,
        tilt_range_rad=inputs.tilt_range_rad,
        tilt_fraction=inputs.geometry.tilt_fraction,
        max_shift_fraction=inputs.settings.max_shift_percent / 100,
    )


@dataclass(frozen=True, eq=False)
class PrepareSearch:
    """Plans a search for a block's images, and makes it finer if it fails planted ones.

    Attributes
    ----------
    table
        Of all particles: their contrast transfer is what planted images are given.
    optics, grids
        By half: how images see the volume, and the references.
    options
        Of the alignment, by half and geometry.
    seed
        Of the planted images.
    """

    table: ParticleTable
    optics: tuple[HalfOptics, HalfOptics]
    grids: tuple[SliceGrid, SliceGrid]
    space: PoseSpace
    options: dict[tuple[int, int], AlignmentOptions]
    plan: IterationPlan
    seed: int

    def run(self, block: Block, done: Done) -> PreparedSearch:
        """Return the search for all particles of a half and geometry, which the block holds."""
        optics, grid = self.optics[block.half - 1], self.grids[block.half - 1]
        band = optics.band_of(block.geometry)
        options, plan = self.options[block.half, block.geometry], self.plan
        reference = Reference(grid, self.space.symmetry)
        space = self.space.search_space(
            band, max_shift_px=options.max_shift_px, shift_sigma_px=options.shift_sigma_px
        )
        # In proportion to what is searched: where it is every third image, a third as many.
        n_searched = len(block.rows) // plan.search_every
        n_planted = min(_MAX_PLANTED, max(_MIN_PLANTED, n_searched // _PLANTED_SHARE))
        sample = block.rows[np.arange(n_planted) * len(block.rows) // n_planted]
        noise = optics.noise_of(self.table.optics_index[sample])
        c = optics.transfer(self.table, sample) * noise.rsqrt().float()[:, band.band.shell]
        power = discriminating_power(grid, band, c[:: max(1, n_planted // _PLAN_SAMPLE)])
        finer, least = plan.search_finer, 0
        # Iterations over a part of the particles make references for those that follow.
        worth = 1.0 if plan.share >= 1 else _WORTH_OF_A_PART
        attempts: list[SearchTried] = []
        while True:
            depth = plan_depth(power, band.band, space, finer=finer, least=least, worth=worth)
            table = self.space.coarse_search(
                grid,
                band,
                max_shell=depth.max_shell,
                step_rad=depth.step_rad,
                shift_step_px=depth.shift_step_px,
                max_shift_px=options.max_shift_px,
                weight=c.square().mean(0).sqrt(),
            )
            key = hash((self.seed, plan.iteration, block.half, len(attempts) + 1))
            generator = torch.Generator().manual_seed(key & 0x7FFFFFFF)
            search = Search(table, depth)
            is_missed, is_found = planted_missed(band, c, reference, search, options, generator)
            missed = int(is_missed.sum())
            attempts.append(
                SearchTried(
                    half=block.half,
                    optics_group=band.group.name,
                    **_described(search, band),
                    planted=n_planted,
                    planted_found=int(is_found.sum()),
                    planted_missed=missed,
                )
            )
            # Planned losses cost more to avoid than they are worth.
            allowed = (_MAY_MISS + max(0.0, depth.decidable - depth.recall)) * n_planted
            if missed <= allowed + 2 * allowed**0.5 or len(attempts) == _ATTEMPTS:
                return PreparedSearch(search, tuple(attempts))
            if depth.candidates > _FULL * depth.most:
                least = 2 * depth.most
            else:
                finer *= _FINER


def _described(search: Search, band: GroupBand) -> dict[str, Any]:
    """Return the measures of a search as the log has them."""
    table, depth = search.table, search.depth
    return {
        "resolution_A": band.group.box_A / depth.max_shell,
        "step_deg": math.degrees(depth.step_rad),
        "orientations": len(table.rotations),
        "shifts": len(table.shifts_px),
        "terms": table.slices.shape[0],
        "points": table.last - table.first,
        "most_candidates": depth.most,
        "thinned": depth.apart_rad > 0,
        "expected_candidates": depth.candidates,
        "expected_recall": depth.recall,
        "decidable": depth.decidable,
        "operations": depth.operations,
    }
