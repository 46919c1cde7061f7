"""What other values of the schedule's numbers do to whole refinements.

    python benchmarks/policy_constants.py DATA/models --keep WORK
    python benchmarks/policy_constants.py DATA/models --keep WORK --only reach few_jump

Each set is refined as the program is, with another seed, and with other values of the numbers in
``refine/policy.py`` that act on it. Where the records of the run as it is lead to the same plans
with another value, that value gives the same run, and none is made. Runs that were done before in
the same folder are not done again.
"""

import argparse
import json
import shutil
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from cryorefine.io.mrc import read_volume
from cryorefine.particles.formats.relion import read_relion
from cryorefine.refine.policy import DEFAULT_POLICY, SchedulePolicy
from cryorefine.refine.schedule import next_plan
from cryorefine.run.checkpoint import load_measurements
from cryorefine.settings import load_settings, make_settings
from cryorefine.state.plan import Geometry
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

_RIGHT_DEG = 5.0
_NOISY = {"particles": 3000, "atom_bfactor": 60, "seed": 1, **ICE}

_SETS: dict[str, tuple[str, dict[str, object]]] = {
    "c1_64": (
        "1WCM.pdb.gz",
        {"symmetry": "c1", "box_px": 64, "pixel_angstrom": 4.0, "snr": 0.04, **_NOISY},
    ),
    "d7_3000": ("3j9i.pdb.gz", {"symmetry": "d7", "snr": 0.01, **_NOISY}),
    "d7": (
        "3j9i.pdb.gz",
        {"particles": 500, "box_px": 128, "symmetry": "d7", "snr": 0.03, "atom_bfactor": 40},
    ),
    "d2": (
        "phantom",
        {"particles": 500, "box_px": 64, "pixel_angstrom": 3.5, "symmetry": "d2", "snr": 0.05,
         "diameter_angstrom": 120, "seed": 7},
    ),
    "d2_128": (
        "phantom",
        {"particles": 500, "box_px": 128, "pixel_angstrom": 2.25, "symmetry": "d2", "snr": 0.0125,
         "diameter_angstrom": 140, "imaging_bfactor": 400, "seed": 1},
    ),
}  # fmt: skip
"""Model and how particles are simulated: two sets at the noise of real data, and three easy ones.
An SNR of 0.04 in pixels of 4 Å is one of 0.01 in pixels of 2 Å."""


@dataclass(frozen=True)
class Trial:
    """A number, the other values that are tried, and the set on which it acts.

    Attributes
    ----------
    options
        Options of the run.
    given
        Other numbers of the schedule that all runs which are compared have.
    poses_of
        Iteration of the run as it is whose poses are refined without a reference; None: the set
        from its reference.
    """

    name: str
    values: tuple[float, ...]
    data: str
    options: dict[str, object] = field(default_factory=dict)
    given: dict[str, float] = field(default_factory=dict)
    poses_of: int | None = None

    @property
    def kind(self) -> str:
        """Return a name for the runs that are compared."""
        changes = {**self.options, **self.given}
        if self.poses_of is not None:
            changes["poses_of"] = self.poses_of
        return "-".join([self.data, *(f"{name}_{value}" for name, value in changes.items())])

    @property
    def policy(self) -> SchedulePolicy:
        """Return the schedule of the run that others are compared with."""
        return replace(DEFAULT_POLICY, **self.given)


_LOCAL: dict[str, object] = {"alignment": "local", "target_resolution": 4}
_POOR_START: dict[str, object] = {"initial_lowpass_angstrom": 120}
_FEW_FIRST: dict[str, float] = {"first_particles": 100}
_SEED: dict[str, object] = {"seed": 1}

TRIALS = (
    Trial("beyond_resolution", (0.8, 1.0), "c1_64"),
    Trial("beyond_resolution", (0.8, 1.0), "d2"),
    Trial("coarsest_shells", (2, 6), "d2", options=_POOR_START),
    Trial("reach_shells", (5, 20), "c1_64"),
    Trial("reach_shells", (5, 20), "d7"),
    Trial("reach_shells", (5, 20), "d2"),
    Trial("more_effort", (1.5, 6), "d7_3000"),
    Trial("least_iterations", (2, 6), "d2"),
    Trial("few_jump", (0.1, 0.4), "c1_64"),
    Trial("few_jump", (0.1, 0.4), "d2"),
    Trial("share_growth", (1.4, 4), "c1_64"),
    Trial("share_growth", (1.4, 4), "d2", given=_FEW_FIRST),
    Trial("nearly_all", (0.35, 1), "c1_64"),
    Trial("nearly_all", (0.35, 1), "d2", given=_FEW_FIRST),
    Trial("first_particles", (500, 2000), "c1_64"),
    Trial("fastest_local_gain", (0.4, 0.95), "d7", options=_LOCAL, poses_of=1),
    Trial("fastest_local_gain", (0.4, 0.95), "d2_128", options=_LOCAL, poses_of=2),
)
"""Half and double values, or the nearest to them that a run can have or that mean something."""


@dataclass(frozen=True)
class Outcome:
    """What a run came to: % within 5°, FSC 0.5 and mean FSC with the truth, and what it took."""

    right: float
    truth_A: float
    truth_mean: float
    iterations: int
    cpu_s: float


def with_values(values: dict[str, float]) -> str:
    """Return the statements that give numbers of the schedule other values in a process."""
    changes = [f"object.__setattr__(DEFAULT_POLICY, {name!r}, {v!r})" for name, v in values.items()]
    return "; ".join(["from cryorefine.refine.policy import DEFAULT_POLICY", *changes])


def judged(run: Path, data: Path, symmetry: str, cpu_s: float) -> Outcome:
    """Compare a run with the truth."""
    truth = read_relion(data / "truth_particles.star")
    angle_deg, _ = pose_errors(read_relion(run / "particles.star"), truth, symmetry)
    quality = map_quality(run_halves(run), read_volume(data / "truth_map.mrc"))
    return Outcome(
        100 * float((angle_deg < _RIGHT_DEG).mean()),
        quality.truth_A or np.nan,
        quality.truth_mean or np.nan,
        json.loads((run / "summary.json").read_text())["iterations"],
        cpu_s,
    )


def outcome(trial: Trial, value: float | None, work: Path, models: Path) -> Outcome:
    """Refine a set with another value, or, for None, as it is; or take what such a run came to.

    The run as it is stays there; others go when they are judged.
    """
    label = "base" if value is None else f"{trial.name}_{value:g}"
    other = {} if value is None else {trial.name: value}
    model, options = _SETS[trial.data]
    model = model if model == "phantom" else str(models / model)
    data = simulate(model, work / trial.data, **options)
    kept = work / f"{trial.kind}_{label}.json"
    if kept.exists():
        return Outcome(**json.loads(kept.read_text()))
    symmetry = str(options["symmetry"])
    star, reference = data / "particles.star", data / "reference.mrc"
    if trial.poses_of is not None:
        first = replace(trial, options={}, poses_of=None)
        outcome(first, None, work, models)
        begin = work / f"{first.kind}_base" / f"iteration_{trial.poses_of:03d}"
        star, reference = begin / "particles.star", None
    run = work / f"{trial.kind}_{label}"
    cost = refine(
        star, reference, run, prelude=with_values({**trial.given, **other}), symmetry=symmetry,
        threads=1, **trial.options,
    )  # fmt: skip
    result = judged(run, data, symmetry, cost.cpu_s)
    kept.write_text(json.dumps(vars(result)))
    if value is not None:
        shutil.rmtree(run)
    return result


def is_planned_alike(trial: Trial, value: float, work: Path) -> bool:
    """Tell whether the records of the run as it is give the same plans with another value."""
    run = work / f"{trial.kind}_base"
    settings = make_settings(load_settings(run / "settings.toml"))
    if settings.alignment != "automatic":
        return False  # begins at the resolution of the given poses, which is in no record
    summary = json.loads((run / "summary.json").read_text())
    history, _ = load_measurements(run, summary["iterations"])
    geometry = Geometry(
        box_A=summary["box_px"] * summary["voxel_A"],
        nyquist_A=2 * summary["voxel_A"],
        radius_A=summary["particle_radius_px"] * summary["voxel_A"],
        max_shift_A=np.nan,  # no plan depends on it
        group_order=1,  # nor on that
        n_particles=summary["n_used"],
    )
    other = replace(trial.policy, **{trial.name: value})
    return all(
        next_plan(settings, geometry, history[:n], policy=trial.policy)
        == next_plan(settings, geometry, history[:n], policy=other)
        for n in range(len(history) + 1)
    )


def row_of(label: str, kind: str, found: Outcome) -> list[str]:
    """Return a row of the table."""
    return [
        label, kind, number(found.right, 1), number(found.truth_A), number(found.truth_mean, 3),
        str(found.iterations), number(found.cpu_s, 0),
    ]  # fmt: skip


def main() -> None:
    """Run all values and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", type=Path, help="folder of the atomic models")
    parser.add_argument("--keep", type=Path, required=True, help="folder for sets and results")
    parser.add_argument("--only", nargs="+", help="parts of the names of the numbers")
    parser.add_argument("--sets", nargs="+", choices=_SETS, default=list(_SETS))
    chosen = parser.parse_args()
    rows = [["number", "set", "within 5° %", "FSC 0.5 with the truth Å", "mean FSC", "iterations",
             "CPU s"]]  # fmt: skip

    def add(row: list[str]) -> None:
        print(" ".join(row), file=sys.stderr, flush=True)
        rows.append(row)

    shown = set()
    for trial in sorted(TRIALS, key=lambda trial: trial.kind):
        if trial.data not in chosen.sets:
            continue
        if chosen.only and not any(part in trial.name for part in chosen.only):
            continue
        base = outcome(trial, None, chosen.keep, chosen.models)
        if trial.kind not in shown:
            shown.add(trial.kind)
            add(row_of("as it is", trial.kind, base))
            if trial.kind == trial.data:
                seeded = outcome(replace(trial, options=_SEED), None, chosen.keep, chosen.models)
                add(row_of("seed 1", trial.kind, seeded))
        for value in trial.values:
            what = f"`{trial.name}` = {value:g}"
            if is_planned_alike(trial, value, chosen.keep):
                add([what, trial.kind, *["as it is"] * 5])
                continue
            add(row_of(what, trial.kind, outcome(trial, value, chosen.keep, chosen.models)))
    print(markdown(rows))


if __name__ == "__main__":
    main()
