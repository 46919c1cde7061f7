"""Peak memory and time of what is done to whole maps: each restoration, and a helix.

    python benchmarks/map_memory.py FOLDER --box-px 256
    python benchmarks/map_memory.py FOLDER --box-px 512 --names filter-bank

Makes half maps of a filament with noise in FOLDER, and runs the commands as a user does, each in a
process of its own. Printed: peak of resident memory by the kernel's count, as it is and in maps
(beside 0.57 GB of libraries), and seconds.
"""

import argparse
import sys
from pathlib import Path

import torch

from cryorefine.engine.threads import use_threads
from cryorefine.fourier.crop import resize_volume
from cryorefine.geometry.helix import Helix
from cryorefine.io.mrc import write_volume
from cryorefine.masks.soft import sphere_mask
from cryorefine.model.filament import filament_atoms, filament_map, made_up_subunit
from measured import measure

_SMALL_PX, _SMALL_A, _HELIX = 96, 2.0, Helix(33.0, 12.0)
"""Made this small, and resampled to the box: detail to 4 Å, whatever the size."""

_LIBRARIES_GB = 0.57
"""What the program takes for maps of 64 voxels a side, whatever it does to them."""

_RESTORATIONS = {
    "symmetrise": "--post-symmetry i1 --post-symmetry-mask {folder}/ball.mrc",
    "align": "--post-align-halves",
    "denoise": "--post-denoise",
    "filter-bank": "--post-filter-bank",
    "laplacian": "--post-laplacian",
    "deconvolve": "--post-deconvolve",
    "undershoot": "--post-undershoot-sigmas 9",
    "difference": "--post-difference",
    "mask": "--post-mask {folder}/ball.mrc",
}
_OTHERS = {
    "mask found in the map": "restore {folder}/half1.mrc {folder}/half2.mrc"
    " --post-undershoot-sigmas 9",
    "all": "restore {folder}/half1.mrc {folder}/half2.mrc --mask {folder}/ball.mrc "
    + " ".join(_RESTORATIONS.values()),
    "helical-search": "helical-search {folder}/half1.mrc {folder}/half2.mrc"
    " --rise-range-angstrom 5 20",
    "helical-search, wide": "helical-search {folder}/half1.mrc {folder}/half2.mrc"
    " --rise-range-angstrom 5 20 --radius-angstrom 95 --resolution-angstrom {finest}",
}


def make_maps(folder: Path, size_px: int) -> float:
    """Write half maps and a mask where they are not there; return the size of their voxels."""
    voxel_A = _SMALL_PX * _SMALL_A / size_px
    if (folder / "ball.mrc").exists():
        return voxel_A
    folder.mkdir(parents=True, exist_ok=True)
    unit = made_up_subunit(80.0, 1)
    atoms = filament_atoms(unit, _HELIX, box_A=_SMALL_PX * _SMALL_A)
    signal = resize_volume(filament_map(atoms, size_px=_SMALL_PX, voxel_A=_SMALL_A), size_px)
    for half in (1, 2):
        noise = torch.randn(signal.shape, generator=torch.Generator().manual_seed(half))
        write_volume(folder / f"half{half}.mrc", signal + noise * float(signal.std()), voxel_A)
    write_volume(folder / "ball.mrc", sphere_mask(size_px, 0.3 * size_px, 5.0), voxel_A)
    return voxel_A


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--box-px", type=int, default=256)
    parser.add_argument("--names", nargs="*", default=[])
    options = parser.parse_args()
    use_threads(None)
    size_px, folder = options.box_px, options.folder / str(options.box_px)
    voxel_A = make_maps(folder, size_px)
    given = "restore {folder}/half1.mrc {folder}/half2.mrc --mask {folder}/ball.mrc "
    commands = {name: given + words for name, words in _RESTORATIONS.items()} | _OTHERS
    print("| | peak (GB) | in maps | time (s) | CPU (s) |\n|---|---|---|---|---|")
    for name, words in commands.items():
        if options.names and name not in options.names:
            continue
        output = folder / f"out_{name.replace(' ', '_').replace(',', '')}"
        filled = words.format(folder=folder, finest=2.2 * voxel_A).split()
        command = [sys.executable, "-m", "cryorefine", *filled, "--output", output]
        if filled[0] == "restore":
            command.append("--overwrite")
        code, cost = measure(command, folder / "log.txt")
        peak_GB = cost.peak_bytes / 1e9
        in_maps = (peak_GB - _LIBRARIES_GB) * 1e9 / (4 * size_px**3)
        told = "" if code == 0 else f" (exit {code})"
        times = f"{cost.wall_s:.0f} | {cost.cpu_s:.0f}"
        print(f"| {name}{told} | {peak_GB:.2f} | {in_maps:.1f} | {times} |", flush=True)


if __name__ == "__main__":
    main()
