"""Every mode of alignment on one set, to the end and continued by one iteration each.

    python benchmarks/modes.py DATA/apoferritin_10146/particles.star \
        --reference DATA/apoferritin_10146/reference_20A.mrc --symmetry o --keep WORK

Local alignment, none, and the run without an initial map start from the poses of the automatic run.
The table has the resolution (FSC 0.143) after each iteration, that of the continuation after an
arrow. Runs that are there are not repeated.
"""

import argparse
import json
import shutil
import tempfile
from pathlib import Path

from cryorefine.events import IterationDone, read_events
from trial import arguments_of, markdown, run_cryorefine


def main() -> None:
    """Run what is missing, print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("particles", type=Path)
    parser.add_argument("--reference", type=Path, required=True)
    parser.add_argument("--symmetry", default="c1")
    parser.add_argument("--subset", type=int, default=200, help="particles a half, stochastic")
    parser.add_argument("--keep", type=Path, help="folder for the runs")
    options = parser.parse_args()
    work = options.keep or Path(tempfile.mkdtemp())
    work.mkdir(parents=True, exist_ok=True)
    rows = [["mode", "used", "resolution after each iteration, Å", "CPU s"]]

    def case(name: str, particles: Path, *references: Path, **how: object) -> None:
        """Run a mode, continue it by an iteration, add its row."""
        run = work / name.replace(" ", "_")
        if not (run / "report.html").exists():
            shutil.rmtree(run, ignore_errors=True)
            starts = [part for path in references for part in ("--reference", path)]
            run_cryorefine(
                "refine", particles, "--output", run, *starts, "--symmetry", options.symmetry,
                *arguments_of(how), log=run.with_name(f"{run.name}.log"),
            )  # fmt: skip
        if len(json.loads((run / "legs.json").read_text())) == 1:
            if name == "automatic":
                shutil.copy(run / "particles.star", work / "poses.star")
            run_cryorefine(
                "resume", run, "--iterations", 1, log=run.with_name(f"{run.name}_more.log")
            )
        segments = json.loads((run / "legs.json").read_text())
        first = segments[1]["first_iteration"]
        done = {
            event.iteration: event.resolution_A
            for event in read_events(run / "events.jsonl")
            if isinstance(event, IterationDone)
        }
        shown = [("| " if i == first else "") + f"{value:.2f}" for i, value in done.items()]
        summary = json.loads((run / "summary.json").read_text())
        used = json.loads((run / "statistics.json").read_text())["n_used"]
        rows.append([name, str(used), " ".join(shown).replace("|", "→"), f"{summary['cpu_s']:.0f}"])

    reference = options.reference
    case("automatic", options.particles, reference)
    case("automatic fixed", options.particles, reference, automatic_schedule="fixed")
    case("global", options.particles, reference, alignment="global", iterations=3)
    case(
        "stochastic", options.particles, reference,
        alignment="stochastic", iterations=8, stochastic_subset=options.subset,
    )  # fmt: skip
    posed = work / "poses.star"
    case("local", posed, reference, alignment="local", iterations=2)
    case("none", posed, alignment="none")
    two = {"alignment": "global", "iterations": 2}
    case("two initial maps", options.particles, reference, reference, **two)
    case("no initial map", posed, alignment="local", iterations=2)
    print(markdown(rows))


if __name__ == "__main__":
    main()
