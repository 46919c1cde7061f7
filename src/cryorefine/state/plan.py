"""What an iteration is to do, and what it showed: the records that the schedule works on."""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from cryorefine.state.counts import ParticleCounts
from cryorefine.state.helix import HelixRecord

__all__ = ["Geometry", "IterationPlan", "IterationRecord", "shown_share"]

Mode = Literal["global", "local", "none"]
_GOLDEN_RATIO = (1 + math.sqrt(5)) / 2
"""Its multiples modulo 1 lie as evenly as can be, however many there are (Weyl): any share of the
rows is spread over the file, and each share holds the smaller ones."""


@dataclass(frozen=True)
class Geometry:
    """Sizes that the schedule needs.

    Attributes
    ----------
    box_A, nyquist_A
        Side of the volume's box; twice its voxel.
    radius_A
        Of the particle.
    max_shift_A
        Largest shift.
    group_order
        Of the point group.
    tilt_fraction
        Share of the sphere within the allowed tilts.
    n_particles
        In both halves together.
    """

    box_A: float
    nyquist_A: float
    radius_A: float
    max_shift_A: float
    group_order: int
    tilt_fraction: float = 1.0
    n_particles: int = 1


@dataclass(frozen=True)
class IterationRecord:
    """What an iteration showed.

    Attributes
    ----------
    resolution_A
        From the corrected FSC.
    align_resolution_A, reconstruct_resolution_A
        What poses were compared at, and down to where half maps were filled.
    median_turn_deg, jumped_fraction
        Change of poses since the iteration before (medians; fraction that turned by more than a
        coarse step); NaN where there was none.
    jumped_at_least
        The same fraction less two standard deviations of the count of those that jumped.
    mean_fsc
        The corrected FSC, averaged over all shells up to Nyquist. It tells what is gained: a
        resolution is where one curve crosses a threshold, which noise moves by several per cent.
    median_sigma_rotation_deg
        Estimated accuracy of the poses: by the Gauss-Newton matrix alone, which is too sure of them
        by 10 to 30 %, and calibrated at the end of a run.
    share
        Of the particles, used so far.
    missed_fraction
        Of the particles that were searched, those that kept a pose which the search alone would
        not have found, less two standard deviations of their count; NaN where none had one.
    unsearched_fraction
        Particles that fit worse than one at its right pose should, and were not searched at this
        resolution.
    undecided_fraction
        Particles that fit, but at several poses alike.
    subset
        Particles of each half that were to be drawn for it; None: all, or ``share`` of them.
    counts
        Of its particles; None in runs of earlier versions.
    helix
        That of its half maps; None where none was imposed.
    """

    iteration: int
    mode: Mode
    resolution_A: float
    align_resolution_A: float
    reconstruct_resolution_A: float
    median_turn_deg: float
    jumped_fraction: float
    median_sigma_rotation_deg: float
    share: float = 1.0
    missed_fraction: float = math.nan
    unsearched_fraction: float = 0.0
    undecided_fraction: float = 0.0
    jumped_at_least: float = math.nan
    mean_fsc: float = math.nan
    subset: int | None = None
    counts: ParticleCounts | None = None
    helix: HelixRecord | None = None


@dataclass(frozen=True)
class IterationPlan:
    """What the next iteration does, and how finely it looks at angles, shifts and frequencies.

    Attributes
    ----------
    align_resolution_A
        Finest detail of the reference that poses are compared at.
    search_finer
        Divides the steps of a search over all orientations; its depth follows from the data, see
        :mod:`cryorefine.assign.search_depth`.
    rescues
        Whether particles that fit worse than they should are searched everywhere, whatever the
        mode, unless they have been at this resolution.
    reconstruct_resolution_A
        Half maps are filled up to here.
    search_every
        A global iteration searches one in so many particles everywhere, in turn; the others are
        refined from where they are. Those that have no pose yet are searched in any case.
    searches_doubtful
        Whether particles whose pose is not sure are searched, too, whose turn it is not: searches
        have become finer than the one that found it.
    guard_every
        Of the particles that are not searched, one in so many looks about its pose for a better
        one, in turn; the others are refined from where they are.
    share
        Of the particles, used in this iteration.
    subset
        Particles of each half that are drawn for this iteration; None: as ``share`` says.
    is_last
        Whether the run ends after it.
    """

    iteration: int
    mode: Mode
    align_resolution_A: float
    search_finer: float
    rescues: bool
    reconstruct_resolution_A: float
    search_every: int
    guard_every: int
    share: float
    subset: int | None
    is_last: bool
    searches_doubtful: bool = False

    def is_searched(self, n: int) -> np.ndarray:
        """Tell which of n particles it is the turn of to be searched everywhere."""
        if self.mode != "global":
            return np.zeros(n, bool)
        return (np.arange(n) + self.iteration) % self.search_every == 0

    def is_restarted(self, n: int) -> np.ndarray:
        """Tell which of n particles it is the turn of to look about their pose."""
        return (np.arange(n) + self.iteration) % self.guard_every == 0

    def rows(self, n: int) -> np.ndarray:
        """Return which of n particles are used: spread over the file, more at a larger share."""
        return np.flatnonzero(np.arange(n) * _GOLDEN_RATIO % 1.0 < self.share)


def shown_share(count: int, of: int) -> float:
    """Return the share that a count shows: less two of its standard deviations, none of nothing.

    Two of 150 do not show that it is more than 1 %.
    """
    return max(0.0, count - 2 * count**0.5) / max(of, 1)
