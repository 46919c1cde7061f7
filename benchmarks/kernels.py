"""Time and accuracy of the inner loops on this machine.

    python benchmarks/kernels.py [--box 128] [--threads 1]

Prints nanoseconds per sample (CPU time, the best of several runs) and the relative error against
a non-uniform FFT. The trilinear kernel on a doubled grid, the field's usual choice, is here to
compare with and nowhere in the program.
"""

import argparse
import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import finufft
import numpy as np
import torch
from numba import njit, prange

from cryorefine.engine.threads import use_threads
from cryorefine.fourier.band import make_band
from cryorefine.fourier.fft import volume_to_half
from cryorefine.geometry.rotation import random_rotations
from cryorefine.geometry.symmetry import parse_symmetry
from cryorefine.kernels import dispatch
from cryorefine.kernels.grid import make_accumulator, make_slice_grid
from cryorefine.kernels.poses import LevenbergMarquardt, PoseProblem
from cryorefine.model.atoms import scattering_basis, volume_from_atoms
from cryorefine.model.phantom import make_phantom


def best_cpu_s(work: Callable[[], object], runs: int = 7) -> float:
    """Return the least CPU time of several runs, after one to compile and warm up."""
    work()
    times = []
    for _ in range(runs):
        start = time.process_time()
        work()
        times.append(time.process_time() - start)
    return min(times)


@njit(parallel=True, fastmath=True)
def trilinear(grid, centre, rotations, points, out):
    """Eight-point slices from a grid of two points a coefficient, x from 0 upwards."""
    for i in prange(rotations.shape[0]):
        r = rotations[i]
        for p in range(points.shape[0]):
            kx, ky = 2 * points[p, 0], 2 * points[p, 1]
            x = kx * r[0, 0] + ky * r[1, 0]
            y = kx * r[0, 1] + ky * r[1, 1]
            z = kx * r[0, 2] + ky * r[1, 2]
            sign = np.float32(1.0)
            if x < 0:
                x, y, z, sign = -x, -y, -z, np.float32(-1.0)
            x0, y0, z0 = int(math.floor(x)), int(math.floor(y)), int(math.floor(z))
            fx, fy, fz = np.float32(x - x0), np.float32(y - y0), np.float32(z - z0)
            re, im = np.float32(0), np.float32(0)
            for dz in range(2):
                wz = fz if dz else 1 - fz
                for dy in range(2):
                    w = wz * (fy if dy else 1 - fy)
                    row = grid[centre + z0 + dz, centre + y0 + dy]
                    re += w * ((1 - fx) * row[x0].real + fx * row[x0 + 1].real)
                    im += w * ((1 - fx) * row[x0].imag + fx * row[x0 + 1].imag)
            out[i, p] = complex(re, sign * im)


def trilinear_grid(volume: torch.Tensor) -> tuple[np.ndarray, int]:
    """Return the doubled, sinc²-corrected transform with its origin at (centre, centre, 0)."""
    n = volume.shape[-1]
    line = torch.sinc((torch.arange(n) - n // 2) / (2 * n)) ** 2
    scaled = volume / (line[:, None, None] * line[None, :, None] * line[None, None, :])
    box = torch.zeros((2 * n,) * 3)
    box[n - n // 2 : n - n // 2 + n, n - n // 2 : n - n // 2 + n, n - n // 2 : n - n // 2 + n] = (
        scaled
    )
    half = torch.fft.fftshift(volume_to_half(box), dim=(0, 1))
    return half.contiguous().numpy(), n


@dataclass(frozen=True)
class KernelCase:
    """A volume and what the kernels are given to work on it, up to Nyquist."""

    volume: torch.Tensor
    rotations: torch.Tensor
    points: torch.Tensor
    k_px: torch.Tensor

    @property
    def samples(self) -> int:
        """Samples of all images together."""
        return len(self.rotations) * len(self.points)

    def problem(self, values: torch.Tensor) -> PoseProblem:
        """Refine every image from its own pose."""
        n_images = len(self.rotations)
        return PoseProblem(
            x=values,
            c=torch.ones(values.shape),
            points=self.points,
            k_px=self.k_px,
            image_size_px=self.volume.shape[-1],
            image_of=torch.arange(n_images),
            rotations=self.rotations,
            shifts_px=torch.zeros(n_images, 2).double(),
            prior_shift_px=torch.zeros(n_images, 2).double(),
        )


SCORE_ONCE = LevenbergMarquardt(0, 5.0, 0.1, 1.0)


def kernel_case(n: int, n_images: int) -> KernelCase:
    """Return a phantom in a box of ``n`` and random poses."""
    pixel_A = 2.0
    atoms = make_phantom(parse_symmetry("c1"), diameter_A=0.75 * n * pixel_A, seed=1)
    basis = scattering_basis(atoms, 0.95 / pixel_A)
    volume = volume_from_atoms(atoms, basis, size_px=n, voxel_A=pixel_A)
    rotations = random_rotations(n_images, torch.Generator().manual_seed(0))
    band = make_band(n, n // 2 - 2)
    k_px = torch.stack([band.kx, band.ky], -1)
    return KernelCase(volume, rotations, k_px.float(), k_px)


def gemm_rate() -> float:
    """Return the floating-point operations a CPU second of a matrix product."""
    a, b = torch.randn(2000, 400), torch.randn(400, 6000)
    return 2 * 2000 * 400 * 6000 / best_cpu_s(lambda: a @ b, 5)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--box", type=int, default=128)
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    use_threads(options.threads)
    n = options.box
    case = kernel_case(n, options.images)
    volume, rotations, points, samples = case.volume, case.rotations, case.points, case.samples
    k = torch.einsum("pa,nax->npx", points.double(), rotations[:20, :2]).numpy() * (2 * np.pi / n)
    x, y, z = (np.ascontiguousarray(k[..., a].ravel()) for a in range(3))
    exact = finufft.nufft3d2(z, y, x, volume.numpy().astype(complex), eps=1e-9, isign=-1)
    exact = exact.reshape(20, -1)

    def error(values: np.ndarray) -> float:
        return float(np.linalg.norm(values[:20] - exact) / np.linalg.norm(exact))

    print(
        f"box {n}, {options.images} images, {len(points)} samples each, {options.threads} thread(s)"
    )
    grid = make_slice_grid(volume, n / 2)
    spent = best_cpu_s(lambda: dispatch.extract_slices(grid, rotations, points))
    value = error(dispatch.extract_slices(grid, rotations, points).numpy())
    megabytes = grid.values.numel() * 8 / 1e6
    print(
        f"slices, Kaiser-Bessel 3 at 1.5x  {spent / samples * 1e9:7.1f} ns"
        f"  error {value:.2e}  {megabytes:.0f} MB"
    )
    doubled, centre = trilinear_grid(volume)
    out = np.empty((options.images, len(points)), np.complex64)
    arrays = (rotations.numpy().astype(np.float32), points.numpy())
    spent = best_cpu_s(lambda: trilinear(doubled, centre, *arrays, out))
    print(
        f"slices, trilinear at 2x          {spent / samples * 1e9:7.1f} ns"
        f"  error {error(out):.2e}  {doubled.nbytes / 1e6:.0f} MB"
    )
    values = torch.from_numpy(out)
    weights = values.real.abs()
    acc = make_accumulator(n, n / 2)
    spent = best_cpu_s(lambda: dispatch.insert_slices(acc, rotations, points, values, weights))
    print(f"insertion, values and weights    {spent / samples * 1e9:7.1f} ns")
    problem = case.problem(values)
    spent = best_cpu_s(lambda: dispatch.refine_poses(grid, problem, SCORE_ONCE))
    print(f"likelihood with derivatives      {spent / samples * 1e9:7.1f} ns")
    spent = best_cpu_s(lambda: make_slice_grid(volume, n / 2), 3)
    print(f"preparing a reference            {spent * 1e3:7.0f} ms")
    rate = gemm_rate() / 1e9
    print(f"matrix product                   {rate:7.1f} GFLOP/s of CPU time")
    images = torch.randn(256, n, n)
    spent = best_cpu_s(lambda: torch.fft.rfft2(images), 5)
    print(f"FFT of an image                  {spent / 256 * 1e6:7.0f} µs")


if __name__ == "__main__":
    main()
