"""How fast images are read: at their places in the file, and from mapped files for comparison.

    python benchmarks/reading.py

Writes a stack of 4,000 images of 128 px in each precision to a temporary folder, where the
system's cache keeps it, and reads all its images in batches as a run does: those of one half, in
random half sets, then those of the other. In one thread and several, and in several processes.
Each number is the least of several turns, in which the ways take turns.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch

from cryorefine.io.mrc import read_stack_header, write_stack
from cryorefine.io.open_files import OpenFiles
from cryorefine.io.stack import StackHeader
from trial import markdown, number

_BATCH = 128  # images, as in a run
Read = Callable[[StackHeader, np.ndarray], float]

_files = OpenFiles()
_maps: dict[Path, np.ndarray] = {}


def at_their_places(stack: StackHeader, indices: np.ndarray) -> float:
    """Read images as the program does; return one number of them."""
    out = np.empty((len(indices), *stack.size_yx_px), np.float32)
    stack.read_images(_files, indices, out, np.arange(len(indices)))
    return float(out[-1, 0, 0])


def mapped(stack: StackHeader, indices: np.ndarray) -> float:
    """Take images from a mapped file."""
    out = np.empty((len(indices), *stack.size_yx_px), np.float32)
    if stack.path not in _maps:
        shape = (stack.n_images, *stack.size_yx_px)
        _maps[stack.path] = np.memmap(stack.path, stack.dtype, "r", stack.offset_bytes, shape)
    out[np.arange(len(indices))] = _maps[stack.path][indices]
    return float(out[-1, 0, 0])


def batches(n: int, order: str) -> list[np.ndarray]:
    """Return the indices of batches that together are all images."""
    if order == "halves":
        half = np.random.default_rng(0).permutation(n) % 2
        rows = np.argsort(half, kind="stable")
    else:
        rows = np.arange(n)
    return [rows[i : i + _BATCH] for i in range(0, n, _BATCH)]


def seconds(pool: Executor, read: Read, stack: StackHeader, parts: list[np.ndarray]) -> float:
    """Return the wall time of reading all batches."""
    begin = time.perf_counter()
    list(pool.map(partial(read, stack), parts))
    return time.perf_counter() - begin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=4000)
    parser.add_argument("--box-px", type=int, default=128)
    parser.add_argument("--turns", type=int, default=7)
    arguments = parser.parse_args()
    n, box_px = arguments.images, arguments.box_px
    pools: dict[str, Executor] = {
        "1 thread": ThreadPoolExecutor(1),
        "4 threads": ThreadPoolExecutor(4),
        "2 processes": ProcessPoolExecutor(2, mp_context=get_context("spawn")),
    }
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        images = torch.randn(n, box_px, box_px, generator=torch.Generator().manual_seed(0))
        for half in (False, True):
            path = Path(folder) / f"{half}.mrcs"
            write_stack(path, images, 1.0, half=half)
            stack = read_stack_header(path)
            for order in ("halves", "as they lie"):
                parts = batches(n, order)
                for name, pool in pools.items():
                    least = dict.fromkeys((mapped, at_their_places), float("inf"))
                    for _ in range(arguments.turns):
                        for read in least:
                            spent = seconds(pool, read, stack, parts)
                            least[read] = min(least[read], spent)
                    each = [number(1e6 * s / n, 1) for s in least.values()]
                    rows.append([stack.dtype.name, order, name, *each])
    for pool in pools.values():
        pool.shutdown()
    print(markdown([["", "order", "by", "mapped, µs an image", "at their places, µs"], *rows]))


if __name__ == "__main__":
    main()
