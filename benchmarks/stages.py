"""Where each second of a run goes, and how far each stage is from what the machine could do.

    python benchmarks/stages.py PARTICLES.star --reference MAP --symmetry d7 --output RUN

Refines in this process, with timers round the functions of each stage; the product knows nothing of
it. Times are CPU seconds of the stage alone, without the stages called within it. A floor is the
operations or bytes that the stage was given over the rate of this machine, measured afterwards:

    reading, symmetry, files       bytes in and out over the bandwidth of a copy
    images                         one FFT an image
    coarse search                  its matrix product's operations over the rate of one
    pose refinement                one evaluation a start (so that the ratio is their mean number),
                                   its samples times the kernel's own time a sample
    slices, insertion              samples times the kernel's own time a sample
    references, solving            one FFT of the padded box a volume
    masks and FSC                  eight FFTs of the box an evaluation
    start-up                       importing torch and numba

With several threads the wait of the others for one counts; use one to see the work alone.
"""

from cryorefine.cli.environment import prepare_environment

prepare_environment()  # before torch is loaded

import functools
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from cryorefine.assign import exhaustive
from cryorefine.kernels import dispatch, grid
from cryorefine.kernels.grid import grid_layout, make_accumulator, make_slice_grid
from cryorefine.masks import soft
from cryorefine.model import observe
from cryorefine.particles.images import ImageSource
from cryorefine.reconstruct import solve, solvent, symmetrise
from cryorefine.expectation import assign_poses, grey_scale
from cryorefine.refine import backprojection, evaluation, image_statistics, noise
from cryorefine.engine.threads import use_threads
from cryorefine.report.build import write_report
from cryorefine.run import inputs, loop, running_segment
from kernels import SCORE_ONCE, best_cpu_s, gemm_rate, kernel_case
from measured import measure
from trial import markdown, number, parser_of_set, settings_of_set

_START_UP_S = time.process_time()  # everything is imported, nothing is done


class Stages:
    """Exclusive CPU seconds, calls and work of named stages.

    Images are read by a thread beside the main one; what it spends is taken off the stage during
    which it does.
    """

    def __init__(self) -> None:
        self.spent_s: dict[str, float] = defaultdict(float)
        self.calls: dict[str, int] = defaultdict(int)
        self.work: dict[str, float] = defaultdict(float)
        self._within_s: list[float] = []
        self._reader_s = 0.0
        self._main = threading.get_ident()

    def _now(self) -> float:
        return time.process_time() - self._reader_s

    def wrap(
        self, function: Callable[..., Any], stage: str, work: Callable[..., float]
    ) -> Callable[..., Any]:
        """Return the function with a timer; ``work(result, *arguments)`` is what it was given."""

        @functools.wraps(function)
        def timed(*arguments: Any, **named: Any) -> Any:
            if threading.get_ident() != self._main:
                begin = time.thread_time()
                result = function(*arguments, **named)
                spent = time.thread_time() - begin
                self._reader_s += spent
            else:
                self._within_s.append(0.0)
                begin = self._now()
                result = function(*arguments, **named)
                whole = self._now() - begin
                spent = whole - self._within_s.pop()
                if self._within_s:
                    self._within_s[-1] += whole
            self.spent_s[stage] += spent
            self.calls[stage] += 1
            self.work[stage] += work(result, *arguments, **named)
            return result

        return timed

    def replace(self, owner: Any, name: str, stage: str, work: Callable[..., float]) -> None:
        """Put a timer round a function, wherever the program has it under some name."""
        original = getattr(owner, name)
        timed = self.wrap(original, stage, work)
        setattr(owner, name, timed)
        for module in [m for n, m in sys.modules.items() if n.startswith("cryorefine")]:
            for key, value in vars(module).items():
                if value is original:
                    setattr(module, key, timed)


def nothing(*_: Any, **__: Any) -> float:
    """Count no work: the stage has no floor."""
    return 0.0


def bytes_of(*tensors: torch.Tensor) -> float:
    """Return the memory that tensors fill."""
    return float(sum(t.numel() * t.element_size() for t in tensors))


def folder_bytes(folder: Path) -> float:
    """Return the size of all files of the newest iteration."""
    newest = max(folder.glob("iteration_*"), default=None)
    return float(sum(f.stat().st_size for f in newest.iterdir())) if newest else 0.0


def instrument(stages: Stages) -> None:
    """Put timers round the functions of all stages."""
    add = stages.replace
    add(ImageSource, "read", "reading images", lambda out, *_: 1.5 * bytes_of(out))
    add(image_statistics, "screen_images", "screening", nothing)
    add(noise, "initial_noise", "screening", nothing)
    add(inputs, "open_inputs", "inputs", nothing)
    for name in ("start_volumes", "radius_px"):
        add(inputs.Opened, name, "inputs", nothing)
    add(observe, "image_coefficients", "images: FFT, CTF", lambda out, images, *_: len(images))
    add(observe, "as_seen_by", "images: FFT, CTF", nothing)
    add(exhaustive, "make_coarse_search", "coarse search: tables", nothing)
    add(
        exhaustive, "search_coarse", "coarse search",
        lambda out, search, x, *_, **__: 2.0 * len(x) * len(search.shifts_px)
        * search.slices.numel(),
    )  # fmt: skip
    add(dispatch, "refine_poses", "pose refinement",
        lambda out, _, problem, *__: len(problem.image_of) * len(problem.points))  # fmt: skip
    add(dispatch, "extract_slices", "slices",
        lambda out, _, rotations, points: len(rotations) * len(points))  # fmt: skip
    add(dispatch, "insert_slices", "insertion",
        lambda out, _, rotations, points, *__: len(rotations) * len(points))  # fmt: skip
    add(assign_poses, "assign_poses", "choosing and storing poses", nothing)
    add(backprojection, "reconstruct_halves", "residuals, weights", nothing)
    add(grey_scale, "find_grey_scales", "grey scale", nothing)
    add(solve, "fold", "folding", lambda out, acc, *_: 1.5 * bytes_of(acc.values, acc.weights))
    add(symmetrise, "symmetrise_grid", "symmetry",
        lambda out, values, weights, **_: 2 * bytes_of(values, weights))  # fmt: skip
    add(solve, "solve", "solving", lambda *_, **__: 1)
    add(grid, "make_slice_grid", "references", lambda *_, **__: 1)
    add(evaluation, "evaluate_halves", "masks and FSC", lambda *_, **__: 8)
    for owner, name in ((soft, "solvent_mask"), (soft, "sphere_mask"),
                        (solvent, "quieten_solvent")):  # fmt: skip
        add(owner, name, "masks and FSC", nothing)
    add(running_segment, "commit", "files", lambda out, run, *_, **__: folder_bytes(run.output))


def rates(n: int, threads: int) -> dict[str, float]:
    """Measure this machine: CPU seconds a unit of each stage's work."""
    case = kernel_case(n, 100)
    slices = make_slice_grid(case.volume, n / 2)
    values = dispatch.extract_slices(slices, case.rotations, case.points)
    acc = make_accumulator(n, n / 2)
    weights = values.real.abs()
    problem = case.problem(values)
    padded, _, _ = grid_layout(n, n / 2)
    box, large = torch.randn(n, n, n), torch.randn(padded, padded, padded)
    images, block = torch.randn(128, n, n), torch.randn(16 << 20)
    copy_s = best_cpu_s(block.clone, 5) / (2 * bytes_of(block))
    sample = {
        "pose refinement": lambda: dispatch.refine_poses(slices, problem, SCORE_ONCE),
        "slices": lambda: dispatch.extract_slices(slices, case.rotations, case.points),
        "insertion": lambda: dispatch.insert_slices(
            acc, case.rotations, case.points, values, weights
        ),
    }
    transform_s = best_cpu_s(lambda: torch.fft.rfftn(large), 3)
    return {
        **{name: best_cpu_s(work, 5) / case.samples for name, work in sample.items()},
        **dict.fromkeys(("reading images", "folding", "symmetry", "files"), copy_s),
        **dict.fromkeys(("references", "solving"), transform_s),
        "masks and FSC": best_cpu_s(lambda: torch.fft.rfftn(box), 3),
        "images: FFT, CTF": best_cpu_s(lambda: torch.fft.rfft2(images), 5) / len(images),
        "coarse search": 1 / gemm_rate(),
    }


def main() -> None:
    """Refine with timers, measure the machine, print a table."""
    parser = parser_of_set(__doc__)
    parser.add_argument("--start", type=float, default=30.0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path, required=True, help="folder of the run")
    options = parser.parse_args()
    use_threads(options.threads)
    settings = settings_of_set(
        options, threads=options.threads, initial_lowpass_angstrom=options.start
    )
    stages = Stages()
    instrument(stages)
    reporter = stages.wrap(write_report, "report", nothing)
    begin = time.process_time()
    summary = loop.refine(settings, options.output, overwrite=True, reporter=reporter)
    whole_s = _START_UP_S + time.process_time() - begin
    # The modules keep their timers; what follows is not part of the run.
    spent, calls, work = dict(stages.spent_s), dict(stages.calls), dict(stages.work)
    spent["start-up"], calls["start-up"], work["start-up"] = _START_UP_S, 1, 1.0
    unit_s = rates(summary["box_px"], options.threads)
    libraries = [sys.executable, "-c", "import torch, numba"]
    unit_s["start-up"] = measure(libraries)[1].cpu_s
    rows = [["stage", "CPU s", "%", "calls", "floor s", "ratio"]]
    for stage in sorted(spent, key=lambda name: -spent[name]):
        floor_s = work[stage] * unit_s[stage] if stage in unit_s else None
        rows.append(
            [stage, number(spent[stage]), number(100 * spent[stage] / whole_s, 1),
             str(calls[stage]), number(floor_s),
             number(spent[stage] / floor_s if floor_s else None, 1)]
        )  # fmt: skip
    other_s = whole_s - sum(spent.values())
    rows.append(["everything else", number(other_s), number(100 * other_s / whole_s, 1), "", "–",
                 "–"])  # fmt: skip
    print(f"{summary['n_used']} particles, {summary['box_px']} px, {summary['symmetry']}, "
          f"{summary['iterations']} iterations, {options.threads} thread(s): "
          f"{whole_s:.1f} s CPU\n")  # fmt: skip
    print(markdown(rows))
    kernels = ("pose refinement", "slices", "insertion")
    print("\n" + ", ".join(f"{name} {unit_s[name] * 1e9:.0f} ns a sample" for name in kernels)
          + f", matrix product {1e-9 / unit_s['coarse search']:.0f} GFLOP/s, copy "
          f"{1e-9 / unit_s['files']:.1f} GB/s, all of CPU time")  # fmt: skip


if __name__ == "__main__":
    main()
