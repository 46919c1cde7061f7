"""Both half maps of a helix in one frame, where a start without features left it to chance."""

from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from cryorefine.filaments.imposition import filament_of
from cryorefine.helices.common_frame import Frame, frame_onto
from cryorefine.restore.rigid import move_volume
from cryorefine.state.helix import present_helix
from cryorefine.state.plan import IterationPlan
from cryorefine.state.state import Inputs, Poses, State

__all__ = ["in_one_frame", "moved_poses"]

Maps = tuple[Float[Tensor, "z y x"], Float[Tensor, "z y x"]]

_WORTH = 0.5
"""Movement, in units of the resolution that poses were compared at, below which half maps stay
where they are: such a movement is noise of the poses, and lowers the FSC as it should."""


def in_one_frame(
    inputs: Inputs, state: State, halves: Maps, poses: Poses, plan: IterationPlan
) -> tuple[Maps, Poses]:
    """Return half maps and poses, half 2 turned about and moved along the filament onto half 1.

    A cylinder has no frame: each half chooses its own turn, place along the axis and direction.
    Three numbers are what both halves share thereby, and none of the signal. Mixtures of random
    subsets stay as they are.
    """
    last = state.history[-1].helix if state.history else None
    helix = present_helix(inputs.settings, inputs.group.name, last)
    if helix is None or plan.subset is not None or plan.mode != "global":
        return halves, poses
    radius_A = filament_of(inputs, halves).radius_A
    frame = frame_onto(
        halves[0],
        halves[1],
        helix,
        voxel_A=inputs.voxel_A,
        radius_px=radius_A / inputs.voxel_A,
        resolution_A=plan.align_resolution_A,
    )
    far_A = max(abs(frame.angle_rad) * radius_A, abs(frame.rise_px) * inputs.voxel_A)
    if not (frame.is_upside_down or far_A > _WORTH * plan.align_resolution_A):
        return halves, poses
    second = move_volume(halves[1], frame.rotation, frame.shift_px)
    return (halves[0], second), moved_poses(poses, inputs.half == 2, frame, inputs.voxel_A)


def moved_poses(
    poses: Poses, is_moved: Bool[np.ndarray, "n"], frame: Frame, voxel_A: float
) -> Poses:
    """Return poses that show of a moved map what they showed of the map before.

    Parameters
    ----------
    is_moved
        (n,) whose map was moved.
    """
    rows = torch.from_numpy(is_moved)
    back, shift_A = frame.rotation.T, frame.shift_px * voxel_A

    def moved(rotations: Tensor, centring_A: Tensor, which: Tensor) -> tuple[Tensor, Tensor]:
        turned = rotations @ back
        there_A = centring_A + (turned @ shift_A)[:, :2]
        return (
            torch.where(which[:, None, None], turned, rotations),
            torch.where(which[:, None], there_A, centring_A),
        )

    rotations, centring_A = moved(poses.rotations, poses.shift_A, rows)
    others = poses.others
    if others is not None:
        found = moved(others.rotations, others.shift_A, rows[others.row])
        others = replace(others, rotations=found[0], shift_A=found[1])
    return replace(poses, rotations=rotations, shift_A=centring_A, others=others)
