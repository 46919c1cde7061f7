"""What constants that no measurement chose do to a result: runs with other values of each.

    python benchmarks/constants.py --keep WORK
    python benchmarks/constants.py --only _TOP settled --keep WORK

Small sets are refined once for each value, and with three seeds as they are: what seeds change is
what a constant may change unseen. A value that does better than the program's by more than that is
marked. Runs that were done before in the same folder are not done again.
"""

import argparse
import json
import sys
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from cryorefine.io.mrc import read_volume
from cryorefine.io.star import read_star
from cryorefine.particles.formats.relion import read_relion
from trial import (
    ICE,
    map_quality,
    markdown,
    number,
    pose_errors,
    refine,
    run_halves,
    simulate,
)

_RIGHT_DEG = 10.0
_SHELLS_A = (30.0, 8.0)

_SETS: dict[str, dict[str, object]] = {
    "d2": {"symmetry": "d2", "particles": 500, "snr": 0.05},
    "c1": {"symmetry": "c1", "particles": 600, "snr": 0.1},
    "rough": {
        "symmetry": "d2", "particles": 500, "snr": 0.05, "junk_fraction": 0.2, "poses": "axis",
        "axis_tilt_deg": 90, "axis_fraction": 0.6, "axis_spread_deg": 10, **ICE,
    },
}  # fmt: skip
"""Of 64 px: an easy one, one whose searches are the widest, and one with junk, errors of defocus
and grey scale and a preferred view."""


@dataclass(frozen=True)
class Constant:
    """A constant, the other values that are tried, and what it would be idle without.

    Attributes
    ----------
    options
        Options of the run.
    """

    module: str
    name: str
    values: tuple[float, ...]
    options: dict[str, object] = field(default_factory=dict)
    sets: tuple[str, ...] = ("d2", "c1", "rough")

    def prelude(self, value: float) -> str:
        """Return the statements that give the constant another value in a process."""
        imported = f"import importlib; module = importlib.import_module({self.module!r}); "
        return f"{imported}setattr(module, {self.name!r}, {value!r})"


CONSTANTS = (
    Constant(
        "cryorefine.weigh.stability", "_MIN_SIGMA_DEG", (0.5, 2.0), {"weight_stability": True}
    ),
    Constant("cryorefine.weigh.ssnr", "_EDGE_PX", (3.0, 10.0), {"weight_ssnr": True}),
    Constant("cryorefine.weigh.ssnr", "_TOP", (0.9, 0.99), {"weight_ssnr": True}),
    Constant("cryorefine.weigh.cost", "_TOP", (0.95, 0.995), {"weight_cost": True}),
    Constant("cryorefine.assign.align", "_RESTART_BAND", (2, 5)),
    Constant("cryorefine.assign.align", "_SAME_MAXIMUM_STEPS", (0.25, 1.0)),
    Constant("cryorefine.assign.align", "_SAME_CANDIDATE", (0.15, 0.45)),
    Constant("cryorefine.assign.search_depth", "_FIRST_REFINEMENT", (1.25, 2.0)),
    Constant("cryorefine.assign.search_depth", "_LATER_REFINEMENTS", (1.5, 3.0)),
    Constant("cryorefine.assign.search_depth", "_QUANTILES", (9, 33)),
    Constant("cryorefine.expectation.grey_scale", "_SPREAD_ROUNDS", (2, 8)),
    Constant("cryorefine.expectation.search_plan", "_PLAN_SAMPLE", (8, 32)),
    Constant("cryorefine.expectation.search_plan", "_FINER", (1.15, 1.5)),
    Constant("cryorefine.expectation.search_plan", "_ATTEMPTS", (1, 5)),
    Constant("cryorefine.expectation.search_plan", "_WORTH_OF_A_PART", (0.05, 0.3)),
    Constant("cryorefine.refine.reference", "_SHELLS_BEYOND", (1, 6)),
    Constant("cryorefine.refine.evaluation", "_MASK_RESOLUTION_A", (10.0, 25.0)),
    Constant("cryorefine.refine.backprojection", "_DATA_SAMPLE", (16, 256)),
    Constant("cryorefine.restore.shape", "_EDGE_PX", (3.0, 8.0)),
    Constant("cryorefine.run.inputs", "_RADIUS_MARGIN", (1.0, 1.15)),
    Constant("cryorefine.reconstruct.crowding", "_PROBES_RAD", (0.07, 0.16), sets=("rough",)),
)
"""Those whose docstrings say that no measurement of other values was on record. Those of the
schedule have a benchmark of their own, ``policy_constants.py``."""


@dataclass(frozen=True)
class Outcome:
    """What a run came to: % of poses within 10°, FSC 0.5 and mean FSC with the truth, CPU time."""

    right: float
    truth_A: float
    truth_mean: float
    cpu_s: float


def outcome(name: str, label: str, prelude: str, options: dict[str, object], work: Path) -> Outcome:
    """Refine a set in a process that begins with ``prelude``, or take what such a run came to."""
    kept = work / f"{name}_{label}.json"
    if kept.exists():
        return Outcome(**json.loads(kept.read_text()))
    data = simulate(
        "phantom", work / name, box_px=64, pixel_angstrom=3.5, diameter_angstrom=120, seed=7,
        **_SETS[name],
    )  # fmt: skip
    symmetry = str(_SETS[name]["symmetry"])
    run = work / f"{name}_run"
    cost = refine(
        data / "particles.star", data / "reference.mrc", run, prelude=prelude, symmetry=symmetry,
        threads=1, **options,
    )  # fmt: skip
    truth = read_relion(data / "truth_particles.star")
    blocks = read_star(data / "truth_particles.star")
    is_junk = blocks["particles"].integers("cryorefineIsJunk").astype(bool)
    found = read_relion(run / "particles.star")
    angle_deg, _ = pose_errors(found, truth, symmetry)
    is_right = angle_deg[~is_junk[np.argsort(truth.image_index)][found.image_index]] < _RIGHT_DEG
    quality = map_quality(run_halves(run), read_volume(data / "truth_map.mrc"), _SHELLS_A)
    result = Outcome(
        100 * float(is_right.mean()),
        quality.truth_A or np.nan,
        quality.truth_mean or np.nan,
        cost.cpu_s,
    )
    kept.write_text(json.dumps(vars(result)))
    return result


def row_of(label: str, name: str, of_value: Outcome, base: Outcome, spread: float) -> list[str]:
    """Return a row of the table: differences from the program as it is."""
    gain = of_value.truth_mean - base.truth_mean
    mark = "better" if gain > spread else "worse" if gain < -spread else ""
    return [
        label, name, f"{of_value.right - base.right:+.1f}",
        f"{of_value.truth_A - base.truth_A:+.2f}", f"{gain:+.3f}",
        number(of_value.cpu_s / base.cpu_s), mark,
    ]  # fmt: skip


def main() -> None:
    """Run all values and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--keep", type=Path, required=True, help="folder for sets and results")
    parser.add_argument("--only", nargs="+", help="parts of the names of the constants")
    chosen = parser.parse_args()
    head = ["constant", "set", "% within 10°", "FSC 0.5 Å", "mean FSC", "CPU ratio", ""]
    rows = [head]
    spreads: dict[str, float] = {}
    for name in _SETS:
        seeds = [outcome(name, f"seed{seed}", "", {"seed": seed}, chosen.keep) for seed in range(4)]
        means = [seed.truth_mean for seed in seeds]
        spreads[name] = max(means) - min(means)
        rows += [row_of(f"seed {k}", name, seeds[k], seeds[0], spreads[name]) for k in range(1, 4)]
    for constant in CONSTANTS:
        if chosen.only and not any(part in constant.name for part in chosen.only):
            continue
        room = constant.module.rpartition(".")[2]
        for name in constant.sets:
            what = f"{room}.{constant.name}"
            as_it_is = f"{what}_own" if constant.options else "seed0"
            options = {"seed": 0, **constant.options}
            base = outcome(name, as_it_is, "", options, chosen.keep)
            for value in constant.values:
                label = f"{what}_{value}"
                found = outcome(name, label, constant.prelude(value), options, chosen.keep)
                rows.append(row_of(f"{what} = {value}", name, found, base, spreads[name]))
                print(" ".join(rows[-1]), file=sys.stderr, flush=True)
    print(markdown(rows))


if __name__ == "__main__":
    main()
