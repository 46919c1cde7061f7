"""Segments of filaments as micrographs hold them: tubes picked at even steps, either polarity."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from cryorefine.geometry.helix import Helix
from cryorefine.geometry.rotation import matrix_from_euler
from cryorefine.model.filament import MAX_LEAN_DEG

__all__ = ["TubePlan", "Tubes", "draw_tubes", "micrograph_side_px"]

_MICROGRAPH_PX = 4096
"""Side of a micrograph, as of most detectors in use; larger where two boxes would not fit in."""


@dataclass(frozen=True)
class TubePlan:
    """How filaments lie, and how they are picked.

    Attributes
    ----------
    helix
        Of all filaments.
    segments_per_tube, step_A
        Segments of a tube, and their distance along it. The last tube of a micrograph may be
        shorter.
    tilt_spread_deg
        Standard deviation of the tubes' tilts about 90°.
    prior_error_deg
        Standard deviation of the psi that tubes are given about their true one.
    """

    helix: Helix
    segments_per_tube: int
    step_A: float
    tilt_spread_deg: float
    prior_error_deg: float


@dataclass(frozen=True, eq=False)
class Tubes:
    """What is drawn of the segments of tubes; arrays per segment.

    Attributes
    ----------
    number
        Of the tube in its micrograph, from 1.
    track_A
        Distance along the tube from its first segment.
    corner_px
        (x, y) of the pixel of the micrograph that is the segment's origin.
    polarity
        1 where the filament's z axis runs along the tube, -1 where it runs back.
    psi_prior_deg
        That of the tube's line: a filament of polarity -1 has this psi, and one of polarity 1 half
        a turn more.
    rotations, shift_A
        True poses. Of all that show the same image, those whose filament is moved along its axis
        by at most half a rise.
    """

    number: Int[np.ndarray, "n"]
    track_A: Float[np.ndarray, "n"]
    corner_px: Int[np.ndarray, "n 2"]
    polarity: Int[np.ndarray, "n"]
    psi_prior_deg: Float[np.ndarray, "n"]
    rotations: Float[Tensor, "n 3 3"]
    shift_A: Float[Tensor, "n 2"]

    def columns(self) -> dict[str, np.ndarray]:
        """Return what picking of filaments tells, by RELION's labels."""
        n = len(self.number)
        return {
            "rlnCoordinateX": self.corner_px[:, 0].astype(np.float64),
            "rlnCoordinateY": self.corner_px[:, 1].astype(np.float64),
            "rlnHelicalTubeID": self.number,
            "rlnHelicalTrackLengthAngst": self.track_A,
            "rlnAngleTiltPrior": np.full(n, 90.0),
            "rlnAnglePsiPrior": self.psi_prior_deg,
            "rlnAnglePsiFlipRatio": np.full(n, 0.5),
        }


def micrograph_side_px(box_px: int) -> int:
    """Return the side of the micrographs that images of a box are of."""
    return max(_MICROGRAPH_PX, 2 * box_px)


def draw_tubes(
    plan: TubePlan,
    micrograph: Int[np.ndarray, "n"],
    *,
    box_px: int,
    pixel_A: float,
    pick_error_A: float,
    seed: int,
) -> Tubes:
    """Draw where the filaments lie and how they are picked.

    Parameters
    ----------
    micrograph
        Of each segment; equal ones stand together.
    pick_error_A
        Standard deviation, in x and in y, of the picked places about even steps on the axis. They
        are whole pixels, besides.

    Notes
    -----
    At distance s along a tube the filament's own z is ``z₀ + polarity s / sin(tilt)``, and is the
    origin of the image. With m the nearest whole number of rises, the image is that of the filament
    turned by m twists, moved by what is left.
    """
    rng = np.random.default_rng((seed, 2))
    n = len(micrograph)
    within = np.arange(n) - np.searchsorted(micrograph, micrograph)
    number = within // plan.segments_per_tube + 1
    track_A = within % plan.segments_per_tube * plan.step_A
    tube = np.unique(np.stack([micrograph, number]), axis=1, return_inverse=True)[1].reshape(-1)
    n_tubes = int(tube[-1]) + 1
    # From here on the values of a tube, then of its segments.
    direction = rng.uniform(-math.pi, math.pi, n_tubes)
    polarity = rng.integers(0, 2, n_tubes) * 2 - 1
    lean = np.clip(plan.tilt_spread_deg * rng.standard_normal(n_tubes), -MAX_LEAN_DEG, MAX_LEAN_DEG)
    tilt = np.radians(90 + lean)
    rot, first_z = rng.uniform(-math.pi, math.pi, n_tubes), rng.uniform(-0.5, 0.5, n_tubes)
    prior = -np.degrees(direction) + plan.prior_error_deg * rng.standard_normal(n_tubes)
    along = np.stack([np.cos(direction), np.sin(direction)], -1)
    place = rng.uniform(0, 1, (n_tubes, 2))
    on_axis_px = track_A[:, None] / pixel_A * along[tube]
    picked = on_axis_px + pick_error_A / pixel_A * rng.standard_normal((n, 2))
    corner = np.empty((n, 2), np.int64)
    for t in range(n_tubes):
        rows = tube == t
        low, high = picked[rows].min(0), picked[rows].max(0)
        room = micrograph_side_px(box_px) - box_px - np.ceil(high - low)
        start = box_px // 2 + place[t] * np.maximum(room, 0) - low
        corner[rows] = np.rint(picked[rows] + start)
        on_axis_px[rows] += start
    # The nearest point of the axis to where the segment was picked, and what is left across.
    away_A = (corner - on_axis_px) * pixel_A
    further_A = (away_A * along[tube]).sum(-1)
    across_A = away_A - further_A[:, None] * along[tube]
    helix = plan.helix
    z_A = first_z[tube] * helix.rise_A + polarity[tube] * (track_A + further_A) / np.sin(tilt[tube])
    steps = np.rint(z_A / helix.rise_A)
    left_A = z_A - steps * helix.rise_A
    # Angles turn the frame: the object is turned by the twist where rot is less by it.
    # The axis of z points to (-cos psi, sin psi) in the image; against the line for polarity -1.
    psi = -direction + np.where(polarity > 0, math.pi, 0.0)
    euler = np.stack([rot[tube] - steps * helix.twist_rad, tilt[tube], psi[tube]], -1)
    rotations = matrix_from_euler(torch.from_numpy(euler))
    return Tubes(
        number=number,
        track_A=track_A,
        corner_px=corner,
        polarity=polarity[tube],
        psi_prior_deg=(prior[tube] + 180) % 360 - 180,
        rotations=rotations,
        shift_A=torch.from_numpy(left_A[:, None]) * rotations[:, :2, 2]
        + torch.from_numpy(across_A),
    )
