"""What several threads can gain on this machine at most: processes that share nothing, at once.

    python benchmarks/ceiling.py --processes 2

Each kind of work of a run is repeated for some seconds by one process with one thread, and then by
several such processes at once. How often all of them together do it, over how often one does alone,
is what no division of a run's work among as many threads can exceed. CPUs that are two threads of
one core share its arithmetic and its caches, so that two of them do less than twice what one does.
Memory is kept as the command ``cryorefine refine`` keeps it. The machine must be idle: one process
alone is timed before and after, and the faster time counts.
"""

import argparse
import multiprocessing
import sys
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Barrier

from cryorefine.cli.environment import prepare_environment

prepare_environment()  # before torch is loaded

import torch

from cryorefine.engine.threads import use_threads
from cryorefine.kernels import dispatch
from cryorefine.kernels.grid import make_accumulator, make_slice_grid
from kernels import SCORE_ONCE, kernel_case
from trial import markdown, number

_IMAGES = 100
_LONGEST_S = 300  # that processes wait for each other: each compiles what it needs


def works(box_px: int) -> dict[str, Callable[[], object]]:
    """Return the kinds of work of a run, each as a function that does some of it."""
    case = kernel_case(box_px, _IMAGES)
    grid = make_slice_grid(case.volume, box_px / 2)
    values = dispatch.extract_slices(grid, case.rotations, case.points)
    weights = values.real.abs()
    sums = make_accumulator(box_px, box_px / 2)
    problem = case.problem(values)
    a, b = torch.randn(2000, 400), torch.randn(400, 6000)
    images = torch.randn(_IMAGES, box_px, box_px)
    return {
        "pose refinement": lambda: dispatch.refine_poses(grid, problem, SCORE_ONCE),
        "coarse search: matrix product": lambda: a @ b,
        "slices": lambda: dispatch.extract_slices(grid, case.rotations, case.points),
        "insertion": lambda: dispatch.insert_slices(
            sums, case.rotations, case.points, values, weights
        ),
        "FFT of images": lambda: torch.fft.rfft2(images),
        "FFT of a volume": lambda: torch.fft.rfftn(case.volume),
        "sums over volumes": lambda: (case.volume * case.volume).sum(),
    }


def _work(box_px: int, seconds: float, begin: Barrier, found: Connection) -> None:
    """Send how many times a second each kind of work is done, all processes at the same kind."""
    use_threads(1)
    rates = {}
    try:
        for name, work in works(box_px).items():
            work()  # compiles
            begin.wait()
            count, start_s = 0, time.perf_counter()
            while time.perf_counter() - start_s < seconds:
                work()
                count += 1
            rates[name] = count / (time.perf_counter() - start_s)
    except BaseException:
        begin.abort()  # the others would wait for this one
        raise
    found.send(rates)


def together(n: int, box_px: int, seconds: float) -> dict[str, float]:
    """Return how many times a second n processes, all of them together, do each kind of work."""
    context = multiprocessing.get_context("spawn")
    begin, processes, ends = context.Barrier(n, timeout=_LONGEST_S), [], []
    for _ in range(n):
        receiver, sender = context.Pipe(duplex=False)
        process = context.Process(target=_work, args=(box_px, seconds, begin, sender), daemon=True)
        process.start()
        sender.close()  # the end of a process is the end of what it sends
        processes.append(process)
        ends.append(receiver)
    try:
        found = [end.recv() for end in ends]
    except EOFError:
        sys.exit("One of the processes failed; what it said stands above.")
    for process in processes:
        process.join()
    return {name: sum(rates[name] for rates in found) for name in found[0]}


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--box", type=int, default=128)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each kind of work")
    options = parser.parse_args()
    n, size = options.processes, (options.box, options.seconds)
    before, several, after = together(1, *size), together(n, *size), together(1, *size)
    rows = [["work", "one a second", f"{n} at once a second", "times as fast"]]
    for name, rate in several.items():
        one = max(before[name], after[name])
        rows.append([name, number(one), number(rate), number(rate / one)])
    print(markdown(rows))


if __name__ == "__main__":
    main()
