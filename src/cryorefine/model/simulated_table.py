"""The canonical table of a simulated set."""

from pathlib import Path

import numpy as np
import torch

from cryorefine.geometry.rotation import euler_from_matrix
from cryorefine.model.simulate import SimulatedSet
from cryorefine.particles.table import ParticleTable

__all__ = ["simulated_table"]


def simulated_table(drawn: SimulatedSet, stack: Path, *, with_poses: bool) -> ParticleTable:
    """Return the particles of one simulated stack, with their true poses or without any."""
    n = len(drawn.scale)
    d = drawn.stated_defocus

    def column(values: torch.Tensor) -> np.ndarray:
        return values.double().numpy()

    index = np.arange(n, dtype=np.int64)
    micrographs = int(drawn.micrograph_index.max()) + 1
    return ParticleTable(
        stacks=(stack,),
        stack_index=np.zeros(n, np.int32),
        image_index=index,
        optics=drawn.groups,
        optics_index=drawn.group_index,
        micrographs=tuple(f"micrograph_{m + 1:04d}.mrc" for m in range(micrographs)),
        micrograph_index=drawn.micrograph_index,
        euler_rad=euler_from_matrix(drawn.rotations).numpy(),
        shift_A=column(drawn.shift_A),
        has_pose=with_poses,
        defocus_u_A=column(d.u_A),
        defocus_v_A=column(d.v_A),
        defocus_angle_rad=column(d.angle_rad),
        phase_shift_rad=column(d.phase_shift_rad),
        bfactor_A2=column(d.bfactor_A2),
        ctf_scale=column(d.scale),
        half_set=np.zeros(n, np.int8),
        names=np.array([f"{i + 1:06d}@{stack.name}" for i in index]),
        extra={} if drawn.tubes is None else drawn.tubes.columns(),
    )
