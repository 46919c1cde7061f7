"""Particles per second of each stage on a GPU, beside what the device can do.

    python benchmarks/gpu.py [--box 256] [--images 1024] [--symmetry c1] [--device cuda]

Every stage is timed on one batch of simulated images, the best of several runs after one that
compiles. Beside it stands the share of the device's own rate that it reaches: of its matrix
product for the exhaustive search, of its copy bandwidth for the rest, as if all that a stage
reads and writes went through memory (caches lift gathers above 100 %). ``--device cpu`` shows the
same for the CPU.
"""

import argparse
import math
import time
from collections.abc import Callable

import torch

from cryorefine.assign.align import AlignmentOptions, align_globally, align_locally
from cryorefine.assign.comparison import Reference, WhitenedImages
from cryorefine.assign.exhaustive import (
    PoseGrid,
    make_coarse_search,
    search_coarse,
    shift_grid,
)
from cryorefine.assign.search_depth import Search, SearchDepth
from cryorefine.engine.device import choose_device, device_name
from cryorefine.errors import InputError
from cryorefine.evaluate.fsc import fsc
from cryorefine.fourier.fft import image_from_half
from cryorefine.geometry.rotation import random_rotations
from cryorefine.geometry.so3 import rotation_grid
from cryorefine.geometry.symmetry import parse_symmetry
from cryorefine.kernels.dispatch import extract_slices, refine_poses
from cryorefine.kernels.grid import make_accumulator, make_slice_grid
from cryorefine.kernels.poses import LevenbergMarquardt, PoseProblem
from cryorefine.model.atoms import scattering_basis, volume_from_atoms
from cryorefine.model.observe import image_statistics, make_group_band, observe
from cryorefine.model.phantom import make_phantom
from cryorefine.optics.ctf import Defocus
from cryorefine.optics.group import OpticsGroup
from cryorefine.reconstruct.accumulate import CentredImages, Levels, accumulate
from cryorefine.reconstruct.solve import fold, solve

PIXEL_A, COARSE_A, SNR = 1.5, 30.0, 0.1
NEIGHBOURS = 27


def best_s(work: Callable[[], object], device: torch.device, runs: int = 5) -> float:
    """Return the least wall time of several runs, after one to compile and warm up."""
    times = []
    for _ in range(runs + 1):
        start = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - start)
    return min(times[1:])


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--box", type=int, default=256)
    parser.add_argument("--images", type=int, default=1024)
    parser.add_argument("--symmetry", default="c1")
    parser.add_argument("--device", default="cuda")
    options = parser.parse_args()
    try:
        device = choose_device(options.device)
    except InputError as error:
        raise SystemExit(str(error)) from None
    n, b = options.box, options.images
    print(f"{device_name(device)}, torch {torch.__version__}: box {n}, {b} images")

    is_gpu = device.type == "cuda"
    source = torch.zeros(1 << (28 if is_gpu else 25), device=device)
    target = torch.zeros_like(source)
    copy_rate = 2 * 4 * len(source) / best_s(lambda: target.copy_(source), device)
    del source, target
    side = 8192 if is_gpu else 2048
    a = torch.randn(side, side, device=device)
    gemm_rate = 2 * side**3 / best_s(lambda: a @ a, device)
    del a
    print(f"copy {copy_rate / 1e9:.0f} GB/s, matrix product {gemm_rate / 1e12:.2f} TFLOP/s (fp32)")

    def tell(stage: str, spent_s: float, *, n_bytes: float = 0, operations: float = 0) -> None:
        line = f"{stage:32s}{b / spent_s:12.0f} particles/s"
        if operations:
            line += f"{operations / gemm_rate / spent_s:10.1%} of matrix product"
        elif n_bytes:
            line += f"{n_bytes / copy_rate / spent_s:10.1%} of copy"
        print(line)

    group = parse_symmetry(options.symmetry)
    radius_A = 0.375 * n * PIXEL_A
    atoms = make_phantom(group, diameter_A=2 * radius_A, seed=1)
    basis = scattering_basis(atoms, 0.95 / PIXEL_A)
    volume = volume_from_atoms(atoms, basis, size_px=n, voxel_A=PIXEL_A).to(device)
    optics = OpticsGroup("simulated", PIXEL_A, n)
    view = make_group_band(
        optics, volume_size_px=n, voxel_A=PIXEL_A, resolution_A=3 * PIXEL_A, device=device
    )
    p = len(view.band)
    grid = make_slice_grid(volume, n / 2)
    generator = torch.Generator().manual_seed(0)
    rotations = random_rotations(b, generator).to(device)
    shifts = torch.zeros(b, 2, dtype=torch.float64, device=device)
    spread = torch.rand(b, generator=generator, dtype=torch.float64)
    zero = torch.zeros_like(spread)
    defocus = Defocus(1e4 + 1e4 * spread, 9.8e3 + 1e4 * spread, zero, zero, zero, zero + 1)

    # Images as a detector would give them, on the host.
    blank = image_statistics(torch.randn(b, n, n, generator=generator), n / 2.5)
    _, c = observe(torch.zeros(b, n, n, device=device), blank, view, defocus)
    clean = image_from_half(view.band.put(extract_slices(grid, rotations, view.points) * c), n)
    noise = torch.randn(b, n, n, generator=generator) * (clean.std().cpu() / math.sqrt(SNR))
    images = clean.cpu() + noise
    del clean, noise
    if is_gpu:
        images = images.pin_memory()
    statistics = image_statistics(images.to(device), n / 2.5)

    image_bytes = 4.0 * b * n * n
    if is_gpu:
        tell("to the device", best_s(lambda: images.to(device), device), n_bytes=image_bytes)
    there = images.to(device)
    spent = best_s(lambda: observe(there, statistics, view, defocus), device)
    tell("coefficients and CTF", spent, n_bytes=image_bytes + 12.0 * b * p)
    x, c = observe(there, statistics, view, defocus)
    sigma = x.abs().square().mean().sqrt()
    x, c = x / sigma, c / sigma

    step_rad = COARSE_A / radius_A / 2
    shell = int(optics.box_A / COARSE_A)
    everywhere = rotation_grid(step_rad, group=group).to(device)
    shift_step_px = COARSE_A / 6 / PIXEL_A
    looked_at = PoseGrid(everywhere, step_rad, shift_grid(0.05 * n, shift_step_px))
    search = make_coarse_search(grid, view, looked_at, max_shell=shell)
    depth = SearchDepth(shell, step_rad, shift_step_px, 64, 0.0, 0.0, 1.0, 1.0, 0.0)
    spent = best_s(lambda: search_coarse(search, x, c, depth.on_grid), device)
    operations = 2.0 * b * len(search.shifts_px) * search.slices.numel()
    tell(f"search of {len(everywhere)} poses", spent, operations=operations)

    samples = b * p
    problem = PoseProblem(
        x=x, c=c, points=view.points, k_px=view.k_px(), image_size_px=n,
        image_of=torch.arange(b, device=device), rotations=rotations, shifts_px=shifts,
        prior_shift_px=shifts,
    )  # fmt: skip
    once = LevenbergMarquardt(0, 5.0, 0.1, 1.0)
    gathered = 8.0 * NEIGHBOURS * samples
    spent = best_s(lambda: extract_slices(grid, rotations, view.points), device)
    tell("slices", spent, n_bytes=gathered + 8.0 * samples)
    spent = best_s(lambda: refine_poses(grid, problem, once), device)
    tell("likelihood with derivatives", spent, n_bytes=gathered + 12.0 * samples)
    how = AlignmentOptions(
        max_shift_px=0.05 * n, shift_sigma_px=2.0, resolution_turn_rad=3 * PIXEL_A / radius_A
    )
    whitened, reference = WhitenedImages(view, x, c), Reference(grid, group)
    deep = Search(search, depth)
    spent = best_s(lambda: align_globally(whitened, reference, deep, how), device, 2)
    tell("global alignment", spent)
    spent = best_s(lambda: align_locally(whitened, reference, rotations, shifts, how), device, 2)
    tell("local alignment", spent)

    sums = make_accumulator(n, n / 2, device=device)
    flat, ones = torch.ones(p, device=device), torch.ones(b, device=device)
    centred = CentredImages(view, x, c, rotations)
    spent = best_s(lambda: accumulate(sums, centred, flat, ones, Levels()), device)
    tell("insertion", spent, n_bytes=2 * 12.0 * NEIGHBOURS * samples)
    spent = best_s(lambda: solve(fold(sums, group)), device, 2)
    print(f"{'symmetry and division':32s}{spent * 1e3:12.1f} ms")
    print(f"{'FSC':32s}{best_s(lambda: fsc(volume, volume), device, 2) * 1e3:12.1f} ms")


if __name__ == "__main__":
    main()
