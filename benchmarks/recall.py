"""How many poses one search over all orientations finds, predicted and measured.

    python benchmarks/recall.py MODEL.pdb.gz --symmetry c1 --particles 3000 --keep FOLDER

For each signal-to-noise ratio a set is simulated as of particles in ice (unless FOLDER has it), and
one global iteration is made with the true map low-passed to 8 Å. Printed: the share of the
particles within 5° of the truth; what the program predicted, and what it found of images that it
planted itself; the share that the data can decide at all, as predicted; operations of the search
and CPU time of the whole iteration (reading, search, half maps) for each particle.
"""

import argparse
import json
import shutil
import tempfile
from pathlib import Path

import numpy as np

from cryorefine.events import SearchTried, read_events
from cryorefine.fourier.filter import low_pass
from cryorefine.io.mrc import read_volume, write_volume
from cryorefine.particles.formats.relion import read_relion
from trial import ICE, markdown, number, pose_errors, refine, simulate

_START_A, _RIGHT_DEG = 8.0, 5.0


def row(model: str, folder: Path, snr: float, options: argparse.Namespace) -> list[str]:
    """Simulate, search once, compare; return a row of the table."""
    data = simulate(
        model, folder / f"snr_{snr:g}", particles=options.particles, box_px=options.box,
        pixel_angstrom=options.pixel, symmetry=options.symmetry, snr=snr, atom_bfactor=60,
        seed=options.seed, **ICE,
    )  # fmt: skip
    truth_map = read_volume(data / "truth_map.mrc")
    start = data / "reference_8A.mrc"
    if not start.exists():
        blurred = low_pass(truth_map.data, voxel_A=truth_map.voxel_A, resolution_A=_START_A)
        write_volume(start, blurred, truth_map.voxel_A)
    run = folder / f"run_{snr:g}"
    refine(
        data / "particles.star", start, run, symmetry=options.symmetry, alignment="global",
        iterations=1, initial_lowpass_angstrom=_START_A, threads=options.threads,
    )  # fmt: skip
    angle_deg, _ = pose_errors(
        read_relion(run / "particles.star"),
        read_relion(data / "truth_particles.star"),
        options.symmetry,
    )
    # Of each half the search that was used: the last that was tried.
    searches = {e.half: e for e in read_events(run / "events.jsonl") if isinstance(e, SearchTried)}
    means = {
        name: float(np.mean([getattr(e, name) for e in searches.values()]))
        for name in (
            "expected_recall", "decidable", "resolution_A", "step_deg", "most_candidates",
            "expected_candidates", "operations",
        )
    }  # fmt: skip
    planted = sum(e.planted_found for e in searches.values()) / sum(
        e.planted for e in searches.values()
    )
    cpu_s = json.loads((run / "summary.json").read_text())["cpu_s"]
    return [
        f"{snr:g}",
        number(100 * float((angle_deg < _RIGHT_DEG).mean()), 1),
        number(100 * means["expected_recall"], 1),
        number(100 * planted, 1),
        number(100 * means["decidable"], 1),
        number(means["resolution_A"], 0),
        number(means["step_deg"], 1),
        f"{means['expected_candidates']:.0f} of {means['most_candidates']:.0f}",
        number(means["operations"] / 1e9, 2),
        number(1000 * cpu_s / len(angle_deg), 1),
    ]


def main() -> None:
    """Make the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model")
    parser.add_argument("--symmetry", default="c1")
    parser.add_argument("--particles", type=int, default=3000)
    parser.add_argument("--box", type=int, default=128)
    parser.add_argument("--pixel", type=float, default=2.0)
    parser.add_argument("--snr", type=float, nargs="+", default=[0.05, 0.02, 0.01, 0.005, 0.003])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--keep", type=Path, help="folder of the sets and runs")
    options = parser.parse_args()
    folder = options.keep or Path(tempfile.mkdtemp())
    head = [
        "SNR", "within 5° %", "predicted %", "planted found %", "decidable %", "searched at Å",
        "step °", "candidates", "10⁹ operations", "CPU ms a particle",
    ]  # fmt: skip
    print(markdown([head, *(row(options.model, folder, snr, options) for snr in options.snr)]))
    if options.keep is None:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
