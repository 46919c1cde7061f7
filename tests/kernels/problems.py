"""Small volumes and poses for the kernels' tests, and a slow exact answer to compare with."""

import finufft
import numpy as np
import torch
from torch import Tensor

from cryorefine.fourier.band import make_band
from cryorefine.geometry.rotation import random_rotations


def ball_of_noise(size_px: int, *, fraction: float = 0.38, seed: int = 0) -> Tensor:
    """White noise within a sphere of ``fraction`` of the box."""
    generator = torch.Generator().manual_seed(seed)
    axis = torch.arange(size_px) - size_px // 2
    r2 = axis[:, None, None] ** 2 + axis[None, :, None] ** 2 + axis[None, None, :] ** 2
    noise = torch.randn((size_px,) * 3, generator=generator)
    return noise * (r2.float().sqrt() < fraction * size_px)


def poses_and_points(size_px: int, n: int, *, seed: int = 1) -> tuple[Tensor, Tensor]:
    """``n`` random rotations and all frequencies below Nyquist."""
    rotations = random_rotations(n, torch.Generator().manual_seed(seed))
    band = make_band(size_px, (size_px - 1) // 2 - 1)
    return rotations, torch.stack([band.kx, band.ky], -1).float()


def exact_slices(volume: Tensor, rotations: Tensor, points: Tensor) -> Tensor:
    """Slices by a non-uniform FFT with a relative error of 1e-9; points may be each rotation's."""
    n = volume.shape[-1]
    points = points.double().expand(len(rotations), -1, -1)
    k = torch.einsum("npa,nax->npx", points, rotations[:, :2]).numpy() * (2 * np.pi / n)
    x, y, z = (np.ascontiguousarray(k[..., a].ravel()) for a in range(3))
    values = finufft.nufft3d2(z, y, x, volume.numpy().astype(complex), eps=1e-9, isign=-1)
    return torch.from_numpy(values.reshape(k.shape[:2]))


def relative_error(a: Tensor, b: Tensor) -> float:
    """Norm of the difference over the norm of ``b``."""
    return float((a - b).norm() / b.norm())
