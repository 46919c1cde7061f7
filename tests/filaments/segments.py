"""Simulated segments of filaments: without contrast transfer, at known poses, both polarities."""

from pathlib import Path

import numpy as np
import torch

from cryorefine.api.projection import project
from cryorefine.geometry.helix import Helix
from cryorefine.geometry.rotation import matrix_from_euler
from cryorefine.io.mrc import write_volume
from cryorefine.settings import RefineSettings, make_settings
from tests.builders import (
    helical_map,
    optics_columns,
    particle_columns,
    write_mrc,
    write_particle_star,
)

HELIX = Helix(33.0, 12.0)
VOXEL_A = 4.0
SIZE_PX = 40


def write_segments(
    folder: Path,
    helix: Helix,
    n: int,
    *,
    size_px: int = SIZE_PX,
    voxel_A: float = VOXEL_A,
    snr: float = 0.3,
    shift_A: float = 3.0,
    per_tube: int = 10,
    seed: int = 1,
) -> Path:
    """Write a particle file with true poses and priors, images, and truth.mrc; return the file.

    Each tube lies in one direction of its micrograph; whether a segment's true psi is its prior or
    the opposite is random by tube. Tilts are normal about 90°, 4° wide.
    """
    rng = np.random.default_rng(seed)
    tube = np.arange(n) // per_tube
    prior_deg = rng.uniform(-180, 180, tube[-1] + 1)[tube]
    is_flipped = (rng.random(tube[-1] + 1) < 0.5)[tube]
    euler_deg = np.stack(
        [rng.uniform(-180, 180, n), 90 + rng.normal(0, 4, n), prior_deg + 180 * is_flipped], -1
    )
    moved_A = rng.normal(0, shift_A, (n, 2))
    whole = helical_map(helix, 2 * size_px, voxel_A, bfactor_A2=600.0)
    rotations = matrix_from_euler(torch.from_numpy(np.radians(euler_deg)))
    images = project(whole.numpy(), rotations.numpy(), moved_A, voxel_A=voxel_A)
    middle = slice(size_px - size_px // 2, 2 * size_px - size_px // 2)
    images = images[:, middle, middle]
    noise = rng.normal(0, images.std() / np.sqrt(snr), images.shape)
    folder.mkdir(parents=True, exist_ok=True)
    write_mrc(folder / "stack.mrcs", (images + noise).astype(np.float32), pixel_A=voxel_A)
    write_volume(folder / "truth.mrc", whole[middle, middle, middle].contiguous(), voxel_A)
    step_A = 3 * helix.rise_A
    columns = particle_columns(
        n,
        stack=str(folder / "stack.mrcs"),
        rlnMicrographName=[f"mic{t // 2}.mrc" for t in tube],
        rlnHelicalTubeID=[int(t % 2) + 1 for t in tube],
        rlnHelicalTrackLengthAngst=[float(i % per_tube) * step_A for i in range(n)],
        rlnAngleRot=euler_deg[:, 0].tolist(),
        rlnAngleTilt=euler_deg[:, 1].tolist(),
        rlnAnglePsi=((euler_deg[:, 2] + 180) % 360 - 180).tolist(),
        rlnOriginXAngst=moved_A[:, 0].tolist(),
        rlnOriginYAngst=moved_A[:, 1].tolist(),
        rlnAnglePsiPrior=prior_deg.tolist(),
        rlnAngleTiltPrior=[90.0] * n,
        rlnAnglePsiFlipRatio=[0.5] * n,
    )
    optics = optics_columns(rlnImagePixelSize=voxel_A, rlnImageSize=size_px)
    return write_particle_star(folder / "particles.star", columns, optics)


def settings_of(particles: Path, **changes) -> RefineSettings:
    """Settings that take the segments as they are, with the true helix."""
    values = {
        "particles": particles,
        "ctf": False,
        "threads": 2,
        "device": "cpu",
        "helical_twist_deg": HELIX.twist_deg,
        "helical_rise_angstrom": HELIX.rise_A,
        "helical_radius_angstrom": 0.36 * SIZE_PX * VOXEL_A,
    }
    return make_settings({k: v for k, v in {**values, **changes}.items() if v is not None})


def correlation(a: torch.Tensor, b: torch.Tensor) -> float:
    """Return the correlation of two maps in a central cylinder."""
    n = a.shape[-1]
    axis = torch.arange(n) - n // 2
    inside = ((axis[:, None] ** 2 + axis**2) < (0.36 * n) ** 2)[None] & (axis.abs() < 0.35 * n)[
        :, None, None
    ]
    pair = torch.stack([a[inside], b[inside]]).double()
    return float(torch.corrcoef(pair)[0, 1])
