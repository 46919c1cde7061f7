"""How the cost grows with the number of particles, the box, and the symmetry.

    python benchmarks/scaling.py --keep WORK
    python benchmarks/scaling.py --vary box --boxes 64 128 --keep WORK

Phantoms from a 30 Å start. ``particles``: one box, more and more images. ``box``: pixels get
smaller as the box grows, for the same particle, field and final resolution (an imaging B-factor of
the larger boxes' details keeps it there): what a box costs is its images' reading and transforms,
and the volumes. ``symmetry``: C1 to O. With --keep, what was measured is read from there, so that
the table can be made in pieces. Exponents are fitted to CPU time less that of start-up.
"""

import argparse
import json
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cryorefine.io.mrc import read_volume
from trial import map_quality, markdown, number, refine, run_halves, simulate

_FIELD_A = 288.0
_DIAMETER_A = 140.0
_RESOLUTION_A = 10.0
_KINDS = ("particles", "box", "symmetry")


def one(
    work: Path, n: int, box: int, symmetry: str, *, snr: float, threads: int
) -> dict[str, float]:
    """Simulate and refine one set; return CPU seconds, iterations and qualities."""
    name = f"{symmetry}_{box}_{n}"
    kept = work / f"{name}.json"
    if kept.exists():
        return json.loads(kept.read_text())
    pixel_A = _FIELD_A / box
    # The coarsest box's noise per area and resolution, whatever the pixel.
    data = simulate(
        "phantom", work / name, particles=n, box_px=box, pixel_angstrom=pixel_A,
        symmetry=symmetry, diameter_angstrom=_DIAMETER_A, snr=snr * (64 / box) ** 2,
        imaging_bfactor=4 * _RESOLUTION_A**2, seed=1,
    )  # fmt: skip
    run = work / f"{name}_run"
    cost = refine(
        data / "particles.star", data / "reference.mrc", run, symmetry=symmetry, threads=threads
    )
    quality = map_quality(run_halves(run), read_volume(data / "truth_map.mrc"))
    summary = json.loads((run / "summary.json").read_text())
    result = {
        "n": n,
        "box": box,
        "cpu_s": cost.cpu_s,
        "wall_s": cost.wall_s,
        "peak_GB": cost.peak_bytes / 1e9,
        "iterations": summary["iterations"],
        "truth_A": quality.truth_A or float("nan"),
    }
    kept.write_text(json.dumps(result))
    shutil.rmtree(data)
    shutil.rmtree(run)
    return result


def start_up_cpu_s(work: Path, threads: int) -> float:
    """Return the CPU time of a run that has next to nothing to do."""
    data = simulate("phantom", work / "least", particles=4, box_px=32, pixel_angstrom=9.0)
    run = work / "least_run"
    refine(
        data / "particles.star", data / "reference.mrc", run,
        iterations=1, alignment="global", threads=threads,
    )  # fmt: skip  # compiles, if nothing has
    return refine(
        data / "particles.star", data / "reference.mrc", run,
        iterations=1, alignment="global", threads=threads,
    ).cpu_s  # fmt: skip


def exponent(x: Sequence[float], y: Sequence[float]) -> float | None:
    """Return b of the least-squares fit ``y = a x^b``; None for fewer than two points."""
    if len(set(x)) < 2 or min(y) <= 0:
        return None
    return float(np.polyfit(np.log(x), np.log(y), 1)[0])


def main() -> None:
    """Measure what was asked for and print a table of each."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--vary", nargs="+", choices=_KINDS, default=_KINDS)
    parser.add_argument("--particles", type=int, nargs="+", default=[500, 1000, 2000, 4000, 8000])
    parser.add_argument("--boxes", type=int, nargs="+", default=[64, 96, 128, 192, 256])
    parser.add_argument("--symmetries", nargs="+", default=["c1", "c4", "d2", "d7", "t", "o"])
    parser.add_argument("--fixed-particles", type=int, default=500)
    parser.add_argument("--fixed-box", type=int, default=96)
    parser.add_argument("--fixed-symmetry", default="d2")
    parser.add_argument("--snr", type=float, default=0.1, help="at 64 px; noise per area is kept")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--keep", type=Path, help="folder for what was measured")
    options = parser.parse_args()
    work = options.keep or Path(tempfile.mkdtemp())
    work.mkdir(parents=True, exist_ok=True)
    n0, box0, group0 = options.fixed_particles, options.fixed_box, options.fixed_symmetry
    plans = {
        "particles": [(n, box0, group0) for n in options.particles],
        "box": [(n0, box, group0) for box in options.boxes],
        "symmetry": [(n0, box0, group) for group in options.symmetries],
    }
    start_s = start_up_cpu_s(work, options.threads)
    print(f"start-up, a run of 4 images of 32 px: {start_s:.1f} s CPU")
    for kind in options.vary:
        rows = [["symmetry", "particles", "box px", "CPU s", "ms a particle", "iterations",
                 "ms a particle and iteration", "peak GB", "FSC 0.5 Å"]]  # fmt: skip
        spent, per_iteration, sizes = [], [], []
        for n, box, group in plans[kind]:
            r = one(work, n, box, group, snr=options.snr, threads=options.threads)
            working_s = r["cpu_s"] - start_s
            rows.append(
                [group, str(n), str(box), number(r["cpu_s"], 1),
                 number(1000 * working_s / n, 1), str(r["iterations"]),
                 number(1000 * working_s / n / r["iterations"], 2),
                 number(r["peak_GB"]), number(r["truth_A"])]
            )  # fmt: skip
            spent.append(working_s)
            per_iteration.append(working_s / r["iterations"])
            sizes.append(n if kind == "particles" else box)
        print(f"\n{markdown(rows)}\n")
        if kind != "symmetry":
            whole, each = exponent(sizes, spent), exponent(sizes, per_iteration)
            print(f"CPU time less start-up grows as {kind}^{number(whole)}, "
                  f"each iteration's as {kind}^{number(each)}.")  # fmt: skip
        if kind == "box":
            growth = [box**2 * np.log(box) for box in sizes]
            print(f"As (box² log box)^{number(exponent(growth, spent))}: 1 or less is asked.")
    if options.keep is None:
        shutil.rmtree(work)


if __name__ == "__main__":
    main()
