"""Recover a filament from a cylinder without features, from twist and rise that are 5 % wrong.

    python benchmarks/helical_refinement.py FOLDER [PARTICLES BOX_PX PIXEL_ANGSTROM SNR]

Simulates segments of filaments of 33° and 12 Å, both directions in the ice, unless FOLDER has them
already, and refines them automatically. Printed: twist and rise with their uncertainty,
and how well the map agrees with the truth once it is turned about and moved along its axis, which
nothing but chance decides.
"""

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch

import cryorefine as cr
from cryorefine.evaluate.fsc import fsc_within
from cryorefine.geometry.helix import Helix
from cryorefine.helices.common_frame import frame_onto
from cryorefine.helices.filament import filament_mask
from cryorefine.masks.cylinder import cylinder_mask
from cryorefine.restore.rigid import move_volume

_HELIX, _RADIUS_A, _WRONG = Helix(33.0, 12.0), 45.0, 1.05
_SIZES = ("2000", "128", "2.0", "0.1")


def simulate(folder: Path, particles: str, box_px: str, pixel_A: str, snr: str) -> None:
    """Make the set with the command."""
    options = {
        "--output": str(folder),
        "--particles": particles,
        "--box-px": box_px,
        "--pixel-angstrom": pixel_A,
        "--snr": snr,
        "--diameter-angstrom": str(2 * _RADIUS_A),
        "--helical-twist-deg": str(_HELIX.twist_deg),
        "--helical-rise-angstrom": str(_HELIX.rise_A),
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


def main() -> None:
    """Simulate, refine, compare."""
    folder = Path(sys.argv[1])
    sizes = (*sys.argv[2:6], *_SIZES[len(sys.argv) - 2 :])
    if not (folder / "particles.star").exists():
        simulate(folder, *sizes)
    truth = cr.read_volume(folder / "truth_map.mrc")
    n, voxel_A = truth.size_px, truth.voxel_A
    cylinder = cylinder_mask(n, _RADIUS_A / voxel_A, 3.0).numpy()
    begun = time.monotonic()
    result = cr.refine(
        folder / "particles.star",
        cr.Volume(cylinder, voxel_A),
        output=folder / "run",
        overwrite=True,
        progress=True,
        helical_twist_deg=_WRONG * _HELIX.twist_deg,
        helical_rise_angstrom=_WRONG * _HELIX.rise_A,
        helical_twist_range_deg=(0.9 * _HELIX.twist_deg, 1.12 * _HELIX.twist_deg),
        helical_rise_range_angstrom=(0.9 * _HELIX.rise_A, 1.12 * _HELIX.rise_A),
        helical_radius_angstrom=1.2 * _RADIUS_A,
        initial_lowpass_angstrom=20.0,
    )
    print((folder / "run" / "summary.txt").read_text())
    print(f"FSC 0.5 with the truth at {agreement(result.map, truth):.2f} Å")
    print(f"{time.monotonic() - begun:.0f} s")


if __name__ == "__main__":
    main()
