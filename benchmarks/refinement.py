"""Refine a simulated set from a low-passed start and compare with the truth.

    python benchmarks/refinement.py                                  a small phantom
    python benchmarks/refinement.py MODEL.cif --symmetry d7 --particles 500 --pixel 2.0 --snr 0.03

Prints pose errors, FSC against the truth, the same for a reconstruction with the true poses, and
what it cost.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch

from cryorefine.evaluate.fsc import fsc, resolution
from cryorefine.geometry.rotation import matrix_from_euler
from cryorefine.geometry.symmetry import parse_symmetry
from cryorefine.io.mrc import read_volume
from cryorefine.masks.soft import solvent_mask
from cryorefine.particles.relion import read_relion


def run(*arguments: object) -> None:
    """Run the program as a user would, in a process of its own."""
    subprocess.run([sys.executable, "-m", "cryorefine", *map(str, arguments)], check=True)


def truth_resolution_A(folder: Path, truth_path: Path) -> float:
    """Return where the FSC of the averaged half maps against the truth falls below 0.5."""
    first, second = read_volume(folder / "half1.mrc"), read_volume(folder / "half2.mrc")
    truth = read_volume(truth_path)
    mask = solvent_mask(
        truth.data, voxel_A=truth.voxel_A, radius_px=truth.size_px / 2, resolution_A=15.0
    )
    curve = fsc((first.data + second.data) / 2 * mask, truth.data * mask)
    frequency = torch.arange(len(curve)).double() / (truth.size_px * truth.voxel_A)
    return resolution(curve, frequency, 0.5)


def pose_errors(found_path: Path, truth_path: Path, symmetry: str) -> tuple[np.ndarray, np.ndarray]:
    """Return angles in degrees and shifts in ångströms between found and true poses."""
    found, truth = read_relion(found_path), read_relion(truth_path)
    rows = np.argsort(truth.image_index)[found.image_index]
    angle = parse_symmetry(symmetry).distance(
        matrix_from_euler(torch.from_numpy(found.euler_rad)),
        matrix_from_euler(torch.from_numpy(truth.euler_rad[rows])),
    )
    shift = np.linalg.norm(found.shift_A - truth.shift_A[rows], axis=1)
    return np.rad2deg(angle.numpy()), shift


def main() -> None:
    """Simulate, refine, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", nargs="?", default="phantom")
    parser.add_argument("--symmetry", default="d2")
    parser.add_argument("--particles", type=int, default=500)
    parser.add_argument("--box", type=int, default=None)
    parser.add_argument("--pixel", type=float, default=None)
    parser.add_argument("--snr", type=float, default=0.05)
    parser.add_argument("--start", type=float, default=30.0, help="low-pass of the start in Å")
    parser.add_argument("--atom-bfactor", type=float, default=None)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="folder for particles and runs")
    options = parser.parse_args()
    phantom = options.model == "phantom"
    box = options.box or (64 if phantom else 128)
    pixel = options.pixel or (3.0 if phantom else 2.0)
    work = options.keep or Path(tempfile.mkdtemp())
    data, found, best = work / "particles", work / "run", work / "true_poses"
    simulate = [
        "simulate", options.model, "--output", data, "--particles", options.particles,
        "--box-px", box, "--pixel-angstrom", pixel, "--symmetry", options.symmetry,
        "--snr", options.snr, "--reference-angstrom", options.start, "--seed", options.seed,
    ]  # fmt: skip
    if options.atom_bfactor is not None:
        simulate += ["--atom-bfactor", options.atom_bfactor]
    if not data.exists():
        run(*simulate)
    run(
        "refine", data / "particles.star", "--reference", data / "reference.mrc",
        "--symmetry", options.symmetry, "--initial-lowpass-angstrom", options.start,
        "--output", found, "--overwrite",
    )  # fmt: skip
    run(
        "reconstruct", data / "truth_particles.star", "--symmetry", options.symmetry,
        "--output", best, "--overwrite",
    )  # fmt: skip
    summary = json.loads((found / "summary.json").read_text())
    angle, shift = pose_errors(
        found / "particles.star", data / "truth_particles.star", options.symmetry
    )
    ours = truth_resolution_A(found, data / "truth_map.mrc")
    limit = truth_resolution_A(best, data / "truth_map.mrc")
    print(f"pose error, median      {np.median(angle):.2f}°  {np.median(shift):.2f} Å "
          f"({np.median(shift) / pixel:.2f} px), "
          f"beyond 10°: {100 * np.mean(angle > 10):.1f} %")  # fmt: skip
    print(f"FSC 0.5 against truth   {ours:.2f} Å, with the true poses {limit:.2f} Å "
          f"({100 * (ours / limit - 1):+.1f} %)")  # fmt: skip
    print(f"resolution reported     {summary['resolution_A']:.2f} Å "
          f"(unmasked {summary['resolution_unmasked_A']:.2f} Å)")  # fmt: skip
    print(f"cost                    {summary['cpu_s']:.0f} s CPU, {summary['wall_s']:.0f} s wall, "
          f"{summary['peak_rss_bytes'] / 1e9:.2f} GB, "
          f"{summary['iterations']} iterations")  # fmt: skip
    if options.keep is None:
        shutil.rmtree(work)


if __name__ == "__main__":
    main()
