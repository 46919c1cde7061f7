"""What the first refinement after an installation costs more than the next one.

    python benchmarks/first_run.py [--symmetry d2] [--threads 1]

A fresh copy of the package, as pip installs it and without compiled kernels, refines the same small
phantom twice, each time in a process of its own. Prints the CPU seconds of both, and for each
compiled function of the first run how many specialisations numba made and how long they took, with
and without the functions that they call.
"""

import argparse
import compileall
import json
import os
import runpy
import shutil
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path

from measured import Cost, measure


def refine_and_report(report: Path, arguments: list[str]) -> None:
    """Run the program in this process; write what numba compiled: name, own and whole seconds."""
    from numba.core import event

    compiled: list[tuple[str, float, float]] = []

    class Compilations(event.Listener):
        """Keeps the time of each compilation, and in it of those that it called for."""

        def __init__(self):
            self.under_way: list[list[float]] = []

        def on_start(self, event):
            self.under_way.append([time.thread_time(), 0.0])

        def on_end(self, event):
            begin, inner = self.under_way.pop()
            whole = time.thread_time() - begin
            if self.under_way:
                self.under_way[-1][1] += whole
            function = event.data["dispatcher"].py_func
            name = f"{function.__module__}.{function.__qualname__}"
            compiled.append((name, whole - inner, whole))

    # numba compiles one function at a time, whatever the threads: one list is enough.
    event.register("numba:compile", Compilations())
    sys.argv = ["cryorefine", *arguments]
    try:
        runpy.run_module("cryorefine", run_name="__main__")
    finally:
        report.write_text(json.dumps(compiled))


def run(command: list[object], log: Path) -> Cost:
    """Run this Python with a command; stop if it fails."""
    code, cost = measure([sys.executable, *command], log)
    if code:
        raise SystemExit(f"{command} failed:\n{log.read_text()[-2000:]}")
    return cost


def table(compiled: list[tuple[str, float, float]]) -> str:
    """Return a table of the program's functions; numba's own are one row."""
    rows: dict[str, list[float]] = {}
    for name, own_s, whole_s in compiled:
        is_ours = name.startswith("cryorefine.")
        row = rows.setdefault(
            name.removeprefix("cryorefine.") if is_ours else "numba's own", [0] * 3
        )
        row[0] += 1
        row[1] += own_s
        row[2] += whole_s if is_ours else own_s
    lines = ["| function | specialisations | own s | with those it calls s |", "|---|---|---|---|"]
    for name, (count, own_s, whole_s) in sorted(rows.items(), key=lambda row: -row[1][1]):
        lines.append(f"| {name} | {count:.0f} | {own_s:.2f} | {whole_s:.2f} |")
    lines.append(f"| all | {len(compiled)} | {sum(own_s for _, own_s, _ in compiled):.2f} | |")
    return "\n".join(lines)


def main() -> None:
    """Measure and print."""
    if sys.argv[1:2] == ["--report"]:
        refine_and_report(Path(sys.argv[2]), sys.argv[3:])
        return
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--particles", type=int, default=200)
    parser.add_argument("--box", type=int, default=64)
    parser.add_argument("--symmetry", default="d2")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        run(
            ["-m", "cryorefine", "simulate", "phantom", "--output", work / "set", "--particles",
             options.particles, "--box-px", options.box, "--pixel-angstrom", 3,
             "--symmetry", options.symmetry],
            work / "simulate.log",
        )  # fmt: skip
        spec = find_spec("cryorefine")
        assert spec is not None
        assert spec.origin is not None
        shutil.copytree(
            Path(spec.origin).parent, work / "package" / "cryorefine",
            ignore=shutil.ignore_patterns("__pycache__"),
        )  # fmt: skip
        compileall.compile_dir(work / "package", quiet=1)  # as pip does
        os.environ["PYTHONPATH"] = str(work / "package")
        os.environ.pop("NUMBA_CACHE_DIR", None)
        costs, reports = [], []
        for i in range(2):
            reports.append(work / f"compiled_{i}.json")
            costs.append(run(
                [Path(__file__).resolve(), "--report", reports[i], "refine",
                 work / "set" / "particles.star", "--reference", work / "set" / "reference.mrc",
                 "--symmetry", options.symmetry, "--output", work / f"run_{i}",
                 "--threads", options.threads],
                work / f"run_{i}.log",
            ))  # fmt: skip
        print(table(json.loads(reports[0].read_text())))
        again = len(json.loads(reports[1].read_text()))
        print(f"\nfirst  {costs[0].cpu_s:6.1f} s of CPU time, {costs[0].wall_s:6.1f} s")
        print(f"second {costs[1].cpu_s:6.1f} s of CPU time, {costs[1].wall_s:6.1f} s")
        print(f"first minus second {costs[0].cpu_s - costs[1].cpu_s:.1f} s of CPU time")
        print(f"compiled again in the second: {again}")


if __name__ == "__main__":
    main()
