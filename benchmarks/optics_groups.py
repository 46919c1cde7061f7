"""What many optics groups of one sampling geometry cost, and whether they change the result.

    python benchmarks/optics_groups.py --keep WORK
    python benchmarks/optics_groups.py --particles 1000 --groups 1 500 --keep WORK

The same images under as many group names as asked for, as files of movies with one group for each
beam shift have them.
"""

import argparse
import json
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np

from cryorefine.io.mrc import read_volume
from cryorefine.particles.formats.relion import read_relion, write_relion
from trial import map_quality, markdown, number, pose_errors, refine, run_halves, simulate

_RIGHT_DEG = 5.0


def with_groups(data: Path, n_groups: int) -> Path:
    """Write the set's particle file with its particles dealt to so many optics groups."""
    table = read_relion(data / "particles.star")
    first = table.optics[0]
    groups = tuple(replace(first, name=f"shift{g + 1}") for g in range(n_groups))
    # Neighbours in the file, as the exposures of one hole, have different groups.
    index = np.arange(len(table)) % n_groups
    extra = {label: column[:1].repeat(n_groups) for label, column in table.extra_optics.items()}
    path = data / f"particles_{n_groups}.star"
    write_relion(path, replace(table, optics=groups, optics_index=index, extra_optics=extra))
    return path


def main() -> None:
    """Refine the set under all numbers of groups and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--particles", type=int, default=1000)
    parser.add_argument("--box-px", type=int, default=96)
    parser.add_argument("--symmetry", default="d2")
    parser.add_argument("--snr", type=float, default=0.02)
    parser.add_argument("--groups", type=int, nargs="+", default=[1, 10, 500])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--keep", type=Path, help="folder for sets and runs")
    options = parser.parse_args()
    work = options.keep or Path(tempfile.mkdtemp())
    data = simulate(
        "phantom", work / f"{options.symmetry}_{options.particles}_{options.box_px}",
        particles=options.particles, box_px=options.box_px, pixel_angstrom=288 / options.box_px,
        symmetry=options.symmetry, diameter_angstrom=140, snr=options.snr, seed=1,
    )  # fmt: skip
    truth = read_relion(data / "truth_particles.star")
    volume = read_volume(data / "truth_map.mrc")
    rows = [["groups", "CPU s", "wall s", "peak GB", "iterations", "% within 5°", "reported Å",
             "FSC 0.5 with the truth Å"]]  # fmt: skip
    for n_groups in options.groups:
        run = work / f"groups_{n_groups}"
        cost = refine(
            with_groups(data, n_groups), data / "reference.mrc", run,
            symmetry=options.symmetry, threads=options.threads,
        )  # fmt: skip
        angle_deg, _ = pose_errors(read_relion(run / "particles.star"), truth, options.symmetry)
        summary = json.loads((run / "summary.json").read_text())
        quality = map_quality(run_halves(run), volume)
        rows.append(
            [str(n_groups), number(cost.cpu_s, 1), number(cost.wall_s, 1),
             number(cost.peak_bytes / 1e9), str(summary["iterations"]),
             number(100 * float((angle_deg < _RIGHT_DEG).mean()), 1),
             number(summary["resolution_A"]), number(quality.truth_A)]
        )  # fmt: skip
    print(markdown(rows))
    if options.keep is None:
        shutil.rmtree(work)


if __name__ == "__main__":
    main()
