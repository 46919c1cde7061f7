"""Recover a filament from twist and rise that are 5 % wrong.

    python benchmarks/helical_refinement.py FOLDER [PARTICLES BOX_PX PIXEL_ANGSTROM SNR]
    python benchmarks/helical_refinement.py FOLDER 300 48 4 0.5 --symmetry d1 --start wrong-helix
    python benchmarks/helical_refinement.py FOLDER 300 48 4 0.5 --seeds 30 --carry 2

Simulates segments of filaments of 33° and 12 Å, both directions in the ice, unless FOLDER has them
already, and refines them automatically: from a cylinder without features, or from a map of the
same subunits on a helix with the wrong twist and rise, low-passed to 20 Å. Printed: twist and rise
with their uncertainty, and how well the map agrees with the truth once it is turned about and moved
along its axis, which nothing but chance decides. With several seeds each run has one line, and the
last line says how many ended at another helix: by more than a tenth of a degree.
"""

import argparse
import subprocess
import time
from pathlib import Path

import numpy as np
import torch

import cryorefine as cr
from cryorefine.evaluate.fsc import fsc_within
from cryorefine.filaments import momentum
from cryorefine.geometry.helix import Helix
from cryorefine.helices.common_frame import frame_onto
from cryorefine.helices.filament import filament_mask
from cryorefine.masks.cylinder import cylinder_mask
from cryorefine.restore.rigid import move_volume

_HELIX, _RADIUS_A, _WRONG = Helix(33.0, 12.0), 45.0, 1.05
_WRONG_DEG = 0.1
_SIZES = ("2000", "128", "2.0", "0.1")


def simulate(folder: Path, sizes: tuple[str, ...], symmetry: str, helix: Helix) -> None:
    """Make a set with the command."""
    particles, box_px, pixel_A, snr = sizes
    options = {
        "--output": str(folder),
        "--particles": particles,
        "--box-px": box_px,
        "--pixel-angstrom": pixel_A,
        "--snr": snr,
        "--diameter-angstrom": str(2 * _RADIUS_A),
        "--symmetry": symmetry,
        "--helical-twist-deg": str(helix.twist_deg),
        "--helical-rise-angstrom": str(helix.rise_A),
    }
    words = [word for pair in options.items() for word in pair]
    subprocess.run(["cryorefine", "simulate", "phantom", *words], check=True)


def agreement(map_: cr.Volume, truth: cr.Volume) -> float:
    """Return the resolution (Å) at which a map, brought onto the truth, has an FSC of 0.5."""
    found, true = torch.from_numpy(map_.data), torch.from_numpy(truth.data)
    n, voxel_A = true.shape[-1], truth.voxel_A
    radius_px = 1.2 * _RADIUS_A / voxel_A
    frame = frame_onto(true, found, _HELIX, voxel_A=voxel_A, radius_px=radius_px, resolution_A=10.0)
    moved = move_volume(found, frame.rotation, frame.shift_px)
    curve = fsc_within(moved, true, filament_mask(n, radius_px)).numpy()
    below = np.flatnonzero(curve[1:] < 0.5)
    shell = 1 + int(below[0]) if len(below) else n // 2
    return n * voxel_A / shell


def start_of(folder: Path, name: str, sizes: tuple[str, ...], symmetry: str) -> cr.Volume:
    """Return the initial map."""
    truth = cr.read_volume(folder / "truth_map.mrc")
    if name == "cylinder":
        mask = cylinder_mask(truth.size_px, _RADIUS_A / truth.voxel_A, 3.0)
        return cr.Volume(mask.numpy(), truth.voxel_A)
    wrong = folder / "wrong_helix"
    if not wrong.exists():
        helix = Helix(_WRONG * _HELIX.twist_deg, _WRONG * _HELIX.rise_A)
        simulate(wrong, ("2", *sizes[1:]), symmetry, helix)
    return cr.read_volume(wrong / "truth_map.mrc")


def refined(
    options: argparse.Namespace, start: cr.Volume, output: Path, seed: int
) -> cr.Refinement:
    """Refine the segments of a folder."""
    return cr.refine(
        options.folder / "particles.star",
        start,
        output=output,
        overwrite=True,
        progress=options.seeds is None,
        seed=seed,
        threads=options.threads,
        symmetry=options.symmetry,
        helical_twist_deg=_WRONG * _HELIX.twist_deg,
        helical_rise_angstrom=_WRONG * _HELIX.rise_A,
        helical_twist_range_deg=(0.9 * _HELIX.twist_deg, 1.12 * _HELIX.twist_deg),
        helical_rise_range_angstrom=(0.9 * _HELIX.rise_A, 1.12 * _HELIX.rise_A),
        helical_radius_angstrom=1.2 * _RADIUS_A,
        initial_lowpass_angstrom=20.0,
    )


def of_seeds(options: argparse.Namespace, start: cr.Volume, truth: cr.Volume) -> None:
    """Print where runs with other random numbers end."""
    wrong, iterations = 0, []
    for seed in range(options.seeds):
        output = options.folder / f"run_{options.start}_{options.carry:g}"
        result = refined(options, start, output, seed)
        helix = result.summary["helix"]
        off_deg = helix["twist_deg"] - _HELIX.twist_deg
        unsure_deg = helix["twist_uncertainty_deg"]
        unsure = "unknown" if unsure_deg is None else f"{unsure_deg:.3f}"
        wrong += abs(off_deg) > _WRONG_DEG
        iterations.append(result.number)
        print(
            f"seed {seed}: {off_deg:+.3f}° ± {unsure}, {helix['rise_A'] - _HELIX.rise_A:+.3f} Å, "
            f"{result.number} iterations, FSC 0.5 with the truth at "
            f"{agreement(result.map, truth):.2f} Å",
            flush=True,
        )
    mean = np.mean(iterations)
    print(f"{wrong} of {options.seeds} ended at another helix, after {mean:.1f} iterations")


def main() -> None:
    """Simulate, refine, compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("sizes", nargs="*", help="particles, box, pixel size and SNR")
    parser.add_argument("--symmetry", default="c1")
    parser.add_argument("--start", choices=("cylinder", "wrong-helix"), default="cylinder")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--seeds", type=int, help="runs, with other random numbers each")
    parser.add_argument("--carry", type=float, default=momentum._CARRY, help="see momentum.py")
    options = parser.parse_args()
    momentum._CARRY = options.carry
    folder = options.folder
    sizes = (*options.sizes, *_SIZES[len(options.sizes) :])
    if not (folder / "particles.star").exists():
        simulate(folder, sizes, options.symmetry, _HELIX)
    start = start_of(folder, options.start, sizes, options.symmetry)
    truth = cr.read_volume(folder / "truth_map.mrc")
    if options.seeds is not None:
        of_seeds(options, start, truth)
        return
    output = folder / f"run_{options.start}"
    begun, cpu = time.monotonic(), time.process_time()
    result = refined(options, start, output, seed=0)
    print((output / "summary.txt").read_text())
    print(f"FSC 0.5 with the truth at {agreement(result.map, truth):.2f} Å")
    print(f"{time.monotonic() - begun:.0f} s, {time.process_time() - cpu:.0f} s of CPU time")


if __name__ == "__main__":
    main()
