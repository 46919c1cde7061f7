"""How much faster a run is with more threads, stage by stage, and what it will be with many.

    python benchmarks/threads.py particles.star --reference reference.mrc --symmetry d7 --keep WORK

Runs have the memory, and the imported modules, of the command ``cryorefine refine``. Each is made
with one thread and with several, in turns, and timed by its stages: what passes between two
progress events of one kind, what a step of an iteration takes beside those, and all else. The
serial share of a stage follows from its times with one and with n threads, t1 and tn, by Amdahl's
law: ``(n tn / t1 - 1) / (n - 1)``; from all together follow the predictions for more threads. What
is done beside an iteration in a thread of its own counts for that thread alone.

The processors that were busy, by CPU seconds a second, tell stages that one thread does from those
that share out their work on processors which are threads of one core. Work beside is counted,
too; they are those of the last turn.

At the end as many runs of one thread each are made at once, by processes that share nothing and
wait for nothing. What they do together in a second, over what one does alone, is what no division
of a run among as many threads can exceed by much.
"""

import argparse
import json
import math
import multiprocessing
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from threading import get_ident
from typing import Any
from unittest.mock import patch

from cryorefine.cli.environment import modules_of_a_run, prepare_environment

prepare_environment()  # before torch is loaded

import numpy as np

with modules_of_a_run():
    from cryorefine.events import Event, WorkAdvanced
    from cryorefine.refine import finalise, iteration
    from cryorefine.report.build import write_report
    from cryorefine.run import first_segment, loop
    from cryorefine.run.loop import refine
from trial import markdown, number, parser_of_set, settings_of_set

_REST = "the rest"
_PREDICTED = (2, 16, 64)

_STEPS = {
    "preparing references": (iteration, "prepare_references"),
    "adding up sums": (iteration, "reconstruct_halves"),
    "solving half maps": (iteration, "solve_halves"),
    "evaluating half maps": (iteration, "evaluate_halves"),
    "making references": (iteration, "next_references"),
    "calibrating poses": (finalise, "calibrate_covariance"),
    "writing an iteration": (loop.Beside, "begin"),
    "writing the last iteration": (loop.Beside, "wait"),
    "writing the report": (loop.TimedReport, "write"),
    "beginning": (first_segment, "_prepare"),
}
"""Steps of a run, timed less the progress that they tell of: where they are looked up."""


class StageClock:
    """Adds up wall seconds by the stage that progress events name.

    A stage lasts from the event before its first progress to the end of its work.
    """

    def __init__(self) -> None:
        self.spent_s: dict[str, float] = defaultdict(float)
        self.cpu_s: dict[str, float] = defaultdict(float)
        self._last_s, self._last_cpu_s = time.perf_counter(), time.process_time()
        self._step = _REST
        self._thread = get_ident()

    def __call__(self, event: Event) -> None:
        """Take an event of a run."""
        if get_ident() != self._thread:
            return
        stage = event.stage if isinstance(event, WorkAdvanced) else self._step
        self._count("preparing searches" if event.kind == "search" else stage)

    def _count(self, stage: str) -> None:
        now_s, now_cpu_s = time.perf_counter(), time.process_time()
        self.spent_s[stage] += now_s - self._last_s
        self.cpu_s[stage] += now_cpu_s - self._last_cpu_s
        self._last_s, self._last_cpu_s = now_s, now_cpu_s

    @contextmanager
    def times_steps(self) -> Iterator[None]:
        """Time the steps of runs within the context, and count what is left at its end."""
        with ExitStack() as patches:
            for step, (owner, name) in _STEPS.items():
                patches.enter_context(patch.object(owner, name, self._timed(step, owner, name)))
            yield
            self._count(_REST)

    def _timed(self, step: str, owner: Any, name: str) -> Callable[..., Any]:
        function = getattr(owner, name)

        def timed_function(*arguments: Any, **options: Any) -> Any:
            if get_ident() != self._thread:
                return function(*arguments, **options)
            self._count(self._step)
            outer, self._step = self._step, step
            try:
                return function(*arguments, **options)
            finally:
                self._count(step)
                self._step = outer

        return timed_function


def timed(options: argparse.Namespace, threads: int, folder: Path) -> StageClock:
    """Refine with so many threads; return the seconds of each stage."""
    settings = settings_of_set(options, threads=threads)
    clock = StageClock()
    with clock.times_steps():
        refine(settings, folder, overwrite=True, listeners=(clock,), reporter=write_report)
    return clock


def one_thread_s(options: argparse.Namespace, folder: Path) -> float:
    """Refine with one thread; return the seconds of it."""
    return sum(timed(options, 1, folder).spent_s.values())


def apart_s(options: argparse.Namespace, n: int, work: Path) -> float:
    """Return the seconds of n runs of one thread each, in processes of their own, at once."""
    run, folders = partial(one_thread_s, options), [work / f"apart_{i}" for i in range(n)]
    with ProcessPoolExecutor(n, mp_context=multiprocessing.get_context("spawn")) as processes:
        turns = [list(processes.map(run, folders)) for _ in range(options.turns + 1)]
    return min(float(np.mean(turn)) for turn in turns[1:])  # the first one loads what it needs


def serial_share(one_s: float, several_s: float, n: int) -> float:
    """Return the share of a stage that more threads do not shorten."""
    return float(np.clip((n * several_s / one_s - 1) / (n - 1), 0, 1))


def main() -> None:
    """Time runs in turns and print a table."""
    parser = parser_of_set(__doc__)
    parser.add_argument("--threads", type=int, default=2, help="beside one")
    parser.add_argument("--turns", type=int, default=1, help="the least of so many is taken")
    parser.add_argument("--keep", type=Path, help="folder for the runs")
    options = parser.parse_args()
    work = options.keep or Path(tempfile.mkdtemp())
    work.mkdir(parents=True, exist_ok=True)
    n = options.threads
    timed(options, n, work / "warm")  # compiles what must be
    least: dict[int, dict[str, float]] = {}
    cpu_s: dict[int, float] = {}
    clocks: dict[int, StageClock] = {}
    alone_s = math.inf
    for _ in range(options.turns):
        for threads in (1, n):
            clock = timed(options, threads, work / f"run_{threads}")
            stages, spent_s = clock.spent_s, sum(clock.cpu_s.values())
            known = least.setdefault(threads, stages)
            least[threads] = {k: min(v, known.get(k, v)) for k, v in stages.items()}
            cpu_s[threads] = min(spent_s, cpu_s.get(threads, spent_s))
            clocks[threads] = clock
            if threads == 1:
                alone_s = min(alone_s, sum(stages.values()))
    rows = [["stage", "1 thread s", f"{n} threads s", "times as fast", "serial share %", "busy"]]
    last = clocks[n]
    busy = {stage: last.cpu_s[stage] / max(s, 1e-9) for stage, s in last.spent_s.items()}
    busy_in_all = sum(last.cpu_s.values()) / sum(last.spent_s.values())
    serial_s = 0.0
    for stage in sorted(least[1], key=lambda name: -least[1][name]):
        one_s, several_s = least[1][stage], least[n].get(stage, 0.0)
        share = serial_share(one_s, several_s, n)
        serial_s += share * one_s
        rows.append(
            [stage, number(one_s), number(several_s), number(one_s / max(several_s, 1e-9)),
             number(100 * share, 0), number(busy.get(stage, 0.0))]
        )  # fmt: skip
    whole_s = sum(least[1].values())
    several_s = sum(least[n].values())
    rows.append(
        ["all", number(whole_s), number(several_s), number(whole_s / several_s),
         number(100 * serial_s / whole_s, 0), number(busy_in_all)]
    )  # fmt: skip
    print(markdown(rows))
    print(f"\nCPU seconds: {cpu_s[1]:.1f} and {cpu_s[n]:.1f}.")
    share = serial_s / whole_s
    print("Predicted: " + ", ".join(
        f"{1 / (share + (1 - share) / m):.1f} times as fast with {m} threads" for m in _PREDICTED
    ) + ".")  # fmt: skip
    summary = json.loads((work / f"run_{n}" / "summary.json").read_text())
    used, size_px, made = (summary[name] for name in ("n_used", "box_px", "iterations"))
    print(f"{used} particles, {size_px} px, {made} iterations.")
    together_s = apart_s(options, n, work)
    print(
        f"{n} processes with one thread each, at once: {together_s:.2f} s, alone {alone_s:.2f} s: "
        f"{n * alone_s / together_s:.2f} times the work of one."
    )


if __name__ == "__main__":
    main()
