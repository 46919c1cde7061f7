"""Compile all kernels in several orders, and print what code and what results each order gives.

    python tests/kernels/compile_orders.py FOLDER

Caches are in ``FOLDER``. Each line is JSON: one kernel in one order; see :func:`take_turns`.
"""

import hashlib
import json
import os
import re
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numba
import numpy as np
import torch
from numba.core import config
from numba.core.dispatcher import Dispatcher

KERNELS = (
    "multiply", "extract_slices", "refine_poses", "insert_slices", "pick_separated", "add_halo",
    "mirror_halo", "rotate_grid", "permute_grid", "divide", "products", "totals", "random_phases",
    "find_rows", "copy_words", "read_decimals",
)  # fmt: skip

CENTRE = 12
SIDE = 2 * CENTRE + 1
STEP = 1.5
REACH = 6.0


def problems() -> dict[str, Callable[[Any], tuple[np.ndarray, ...]]]:
    """Return for each kernel a call of it, with fixed random arrays; calls return what it wrote."""
    from cryorefine.fourier.radial import centred_axis
    from cryorefine.kernels.grid import HALO, packed_table

    random = np.random.default_rng(0)

    def floats(*shape: int) -> np.ndarray:
        return random.standard_normal(shape).astype(np.float32)

    def complexes(*shape: int) -> np.ndarray:
        return (floats(*shape) + 1j * floats(*shape)).astype(np.complex64)

    def rotations(n: int) -> np.ndarray:
        q = np.linalg.qr(random.standard_normal((n, 3, 3)))[0]
        return q * np.linalg.det(q)[:, None, None]

    n, size_px = 7, 16
    k = np.arange(-6, 7, dtype=np.int32)
    k_px = np.stack(np.meshgrid(k, k), -1).reshape(-1, 2)
    k_px = k_px[(k_px**2).sum(1) <= 36]  # within the grid's sphere
    # More than one block of samples, the last one not full.
    k_px = np.concatenate([k_px] * 3)
    points, table = k_px.astype(np.float32), packed_table(STEP)
    turns, images, ctf = rotations(n), complexes(n, len(points)), floats(n, len(points))
    padded = (SIDE, SIDE, CENTRE + 1 + HALO)
    grid, weight_grid = complexes(*padded), np.abs(floats(*padded))
    half, weight_half = complexes(SIDE, SIDE, CENTRE + 1), np.abs(floats(SIDE, SIDE, CENTRE + 1))
    axis = centred_axis(CENTRE)
    curve = np.abs(floats(3 * CENTRE**2 + 1))
    shell_of = np.sqrt(np.arange(len(curve))).round().astype(np.int32)
    text = np.frombuffer(b" 1.5 ab\n\n# note\n 3 cdef\n\t-2e7 g\n'no' 1\n", np.uint8)
    d2 = np.array([np.diag(d) for d in ((1, 1, 1), (1, -1, -1), (-1, 1, -1), (-1, -1, 1))])
    sevenths = 2 * np.pi * np.arange(3) / 7
    about_z = np.zeros((3, 3, 3))
    about_z[:, 0, 0] = about_z[:, 1, 1] = np.cos(sevenths)
    about_z[:, 1, 0] = np.sin(sevenths)
    about_z[:, 0, 1], about_z[:, 2, 2] = -np.sin(sevenths), 1

    def extract_slices(kernel):
        out = np.zeros_like(images)
        kernel(0, n, grid, CENTRE, STEP, turns.astype(np.float32), points, REACH, table, out)
        return (out,)

    def insert_slices(kernel):
        out = np.zeros(padded, np.complex64), np.zeros(padded, np.float32)
        rows = turns.astype(np.float32)
        kernel(0, n, *out, CENTRE, STEP, rows, points, REACH, images, np.abs(ctf), table)
        return out

    def pick_separated(kernel):
        index = np.argsort(ctf, axis=1)[:, : len(turns)] % len(turns)
        score = -np.sort(np.abs(ctf[:, : len(turns)]), axis=1)
        out = np.full((n, 3), -1, np.int64), np.full((n, 3), -np.inf, np.float32)
        kernel(0, n, index, score, turns, d2.astype(float), 0.9, 10.0, *out)
        return out

    def refine_poses(kernel):
        ended, shifts = turns.copy(), np.zeros((n, 2))
        scores, powers, information = np.zeros(n), np.zeros(n), np.zeros((n, 5, 5))
        kernel(
            0, n, grid, CENTRE, STEP, points, REACH, k_px, 2 * np.pi / size_px, images, ctf,
            np.arange(n), ended, shifts, np.zeros((n, 2)), 0.1, np.empty((0, 22)),
            np.full(n, -np.inf), 6, 3.0, 0.2, 1.0, 1e-3, 0.01, True,
            table, scores, powers, information,
        )  # fmt: skip
        return ended, shifts, scores, powers, information

    def add_halo(kernel):
        out = np.zeros_like(grid), np.zeros_like(weight_grid)
        taps = np.array([0.2, 0.7, 0.1], np.float32)
        kernel(0, SIDE**2, half, weight_half, CENTRE, taps, *out)
        return out

    def mirror_halo(kernel):
        out = grid.copy(), weight_grid.copy()
        kernel(0, SIDE**2, CENTRE, *out)
        return out

    def rotate_grid(kernel):
        results = []
        for is_in_plane in (True, False):
            out = np.zeros(half.size, np.complex64), np.zeros(half.size, np.float32)
            kernel(
                0, SIDE**2, grid, weight_grid, CENTRE, about_z, d2, is_in_plane, table, *out
            )  # fmt: skip
            results += out
        return tuple(results)

    def permute_grid(kernel):
        out = np.zeros(half.size, np.complex64), np.zeros(half.size, np.float32)
        kernel(0, SIDE**2, half.reshape(-1), weight_half.reshape(-1), CENTRE, d2, *out)
        return out

    def multiply(kernel):
        out = np.zeros_like(half)
        kernel(0, SIDE, half, axis, curve, out)
        return (out,)

    def divide(kernel):
        out = np.zeros_like(half)
        kernel(0, SIDE, half, weight_half, axis, curve, curve[::-1].copy(), out)
        return (out,)

    def products(kernel):
        out = np.zeros((SIDE, 3, CENTRE + 1))
        kernel(0, SIDE, half, half[::-1].copy(), axis, shell_of, out)
        return (out,)

    def totals(kernel):
        out = np.zeros((SIDE, CENTRE + 1)), np.zeros((SIDE, CENTRE + 1))
        kernel(0, SIDE, weight_half, axis, shell_of, *out)
        return out

    def random_phases(kernel):
        out = np.zeros_like(half)
        kernel(0, SIDE, half, axis, 20.25, np.uint64(3), out)
        return (out,)

    def find_rows(kernel):
        out = np.zeros(4, np.int64), np.zeros(4, np.int64)
        out += np.zeros((2, 4), np.uint16), np.zeros(2, np.int64)
        ended = kernel(0, len(text), text, *out)
        return (*out, np.array(ended))

    def copy_words(kernel):
        out = np.zeros((3, 4), np.uint8)
        kernel(0, 3, text, np.array([0, 16, 24]), np.array([5, 3, 1], np.uint16), out)
        return (out,)

    def read_decimals(kernel):
        words = np.array([b"-12.5", b"3e-7", b"abc", b"0.1e400"]).view(np.uint8).reshape(4, -1)
        out = np.zeros(4), np.zeros(4, np.bool_)
        kernel(0, 4, words, *out)
        return out

    here = locals()
    return {name: here[name] for name in KERNELS}


def kernels() -> dict[str, Dispatcher]:
    """Return all compiled functions of the program that Python can call."""
    from cryorefine.fourier import radial_loops
    from cryorefine.io import star_loops
    from cryorefine.kernels import cpu, cpu_refinement, cpu_symmetry

    return {
        name: value
        for module in (cpu, cpu_refinement, cpu_symmetry, radial_loops, star_loops)
        for name, value in vars(module).items()
        if isinstance(value, Dispatcher) and value.py_func.__module__ == module.__name__
        if not value.targetoptions.get("no_cpython_wrapper")
    }


def digest(*parts: bytes) -> str:
    """Return a short hash."""
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]


def take_turns(order: str, names: Sequence[str]) -> None:
    """Call kernels one after the other; print what there is to compare.

    For each the kernel's ``name``, the ``order`` of this process, a hash of the ``results``, a hash
    of the machine ``code`` and the other compiled functions that it ``calls``; the last two are
    None where the kernel came from the cache.
    """
    compiled, calls = kernels(), problems()
    if sorted(compiled) != sorted(calls):
        raise ValueError(f"there must be a call for each of {sorted(compiled)}")
    for name in names:
        kernel = compiled[name]
        results = digest(*(array.tobytes() for array in calls[name](kernel)))
        entry = {"name": name, "order": order, "results": results, "code": None, "calls": None}
        if not sum(kernel.stats.cache_hits.values()):
            (text,) = kernel.inspect_asm().values()
            # numba numbers its functions as a process meets them, and has that in their symbols
            # and, as a text with its length, in a message.
            text = re.sub(r"B\d+v\d+", "", text)
            text = re.sub(r"\t\.size\t\"\.const\.missing Environment: .*\n", "", text)
            functions = set(re.findall(r"\.type\s+(_ZN\w+),@function", text))
            entry["code"] = digest(text.encode())
            entry["calls"] = sorted(other for other in functions if name not in other)
        print(json.dumps(entry), flush=True)


def elsewhere(cache: Path, order: str, names: Sequence[str], *, foreign: bool = False) -> None:
    """Call kernels in a process of their own, with a cache in that folder.

    ``foreign``: somebody else's function, with other options, is compiled before.
    """
    child = os.fork()
    if child == 0:
        status = 1
        try:
            # Read when the kernels' modules are imported: not before this.
            os.environ["NUMBA_CACHE_DIR"] = str(cache)
            config.reload_config()
            torch.set_num_threads(1)
            if foreign:
                one = np.ones(1, np.complex64)
                numba.njit(fastmath=True)(lambda a, b: a[0] * b[0])(one, one)
            take_turns(order, names)
            status = 0
        except Exception:
            traceback.print_exc()
        finally:
            os._exit(status)
    _, status = os.waitpid(child, 0)
    if status:
        raise SystemExit(f"{order}, {names}: failed")


def main(folder: Path) -> None:
    """Compile each kernel alone, after others, and after others that came from the cache."""
    # numba takes a second to get ready for its first function: here, once for all processes.
    numba.njit(lambda: 0)()
    for name in KERNELS:
        elsewhere(folder / "alone" / name, "alone", [name])
    elsewhere(folder / "together", "together", KERNELS, foreign=True)
    elsewhere(folder / "together", "loaded", KERNELS)
    backwards = KERNELS[::-1]
    for count in (3, 6, 9, len(KERNELS)):
        elsewhere(folder / "in parts", "in parts", backwards[:count])


if __name__ == "__main__":
    main(Path(sys.argv[1]))
