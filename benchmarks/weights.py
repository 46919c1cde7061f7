"""Whether particle weights, and dropping the worst particles, make maps of sets with junk better.

    python benchmarks/robustness.py --cases noise others --keep WORK
    python benchmarks/weights.py WORK

The sets are those of the robustness benchmark, a fifth of them junk: images of noise alone, or of
another particle. Each is refined without weights and with each one; then the run without weights is
continued by two local iterations, with all particles, and without the fifth of the lowest
percentiles. Runs that are there are not repeated.
"""

import argparse
import shutil
from pathlib import Path

import numpy as np

from cryorefine.io.mrc import read_volume
from cryorefine.io.star import read_star
from trial import map_quality, markdown, number, refine, run_cryorefine, run_halves

_WEIGHTS = {
    "no weights": {},
    "--weight-cc": {"weight_cc": True},
    "--weight-cost": {"weight_cost": True},
    "--weight-stability": {"weight_stability": True},
    "--weight-ssnr": {"weight_ssnr": True},
}
_DROPPED_PERCENT = 20


def main() -> None:
    """Run what is missing, print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("work", type=Path)
    parser.add_argument("--symmetry", default="c1")
    parser.add_argument("--cases", nargs="+", default=["noise", "others"])
    options = parser.parse_args()
    truth = read_volume(options.work / "noise" / "truth_map.mrc")
    reference = options.work / "noise" / "reference.mrc"
    blocks = read_star(options.work / "noise" / "truth_particles.star")
    is_junk = blocks["particles"].integers("cryorefineIsJunk").astype(bool)
    rows = [["set", "run", "FSC 0.5 Å", "mean FSC with the truth", "to no weights %",
             "share of the weight on junk %", "particles"]]  # fmt: skip

    def add(case: str, name: str, run: Path, first: float | None) -> float:
        quality = map_quality(run_halves(run), truth)
        mean = quality.truth_mean or 0.0
        table = read_star(run / "particles.star")["particles"]
        image = np.char.partition(table.text("rlnImageName"), "@")[:, 0].astype(int) - 1
        weight = table.floats("cryorefineWeight")
        junk = 100 * float(weight[is_junk[image]].sum() / weight.sum())
        change = 0.0 if first is None else 100 * (mean / first - 1)
        rows.append(
            [case, name, number(quality.truth_A), number(mean, 3), number(change, 1),
             number(junk, 1), str(len(table))]
        )  # fmt: skip
        return mean

    for case in options.cases:
        first = None
        for name, how in _WEIGHTS.items():
            run = options.work / "weights" / f"{case}_{name.strip('-').replace(' ', '-')}"
            if not (run / "report.html").exists():
                refine(
                    options.work / f"{case}.star", reference, run,
                    symmetry=options.symmetry, **how,
                )  # fmt: skip
            mean = add(case, name, run, first)
            first = mean if first is None else first
        for name, percent in (
            ("continued", 0),
            ("continued, worst 20 % dropped", _DROPPED_PERCENT),
        ):
            run = options.work / "weights" / f"{case}_continued_{percent}"
            if not run.exists():
                source = options.work / "weights" / f"{case}_no-weights"
                shutil.copytree(source, run)
                run_cryorefine(
                    "resume", run, "--alignment", "local", "--iterations", 2,
                    "--keep-above-percentile", percent, log=run.with_name(f"{run.name}.log"),
                )  # fmt: skip
            add(case, name, run, first)
    print(markdown(rows))


if __name__ == "__main__":
    main()
