"""Measure what restorations hold at their peak, as they work on large maps; prints JSON.

A program of its own, run by ``test_memory.py``: arrays of its small maps have to be given back to
the system at once, as large ones are, which the C library is told in its environment.
"""

import gc
import json
from collections.abc import Callable
from pathlib import Path

import torch

from cryorefine.engine.freed_memory import release_memory
from cryorefine.engine.threads import use_threads
from cryorefine.evaluate import fsc
from cryorefine.evaluate.fsc import half_map_fsc
from cryorefine.fourier.filter import filter_volume
from cryorefine.geometry.symmetry import parse_symmetry
from cryorefine.masks.soft import sphere_mask
from cryorefine.restore import filter_bank, laplacian, rigid, symmetrise_within
from cryorefine.restore.deconvolve import Deconvolve
from cryorefine.restore.denoise_real import DenoiseReal
from cryorefine.restore.difference import EvaluateDifference
from cryorefine.restore.filter_bank import FilterBank
from cryorefine.restore.laplacian import Laplacian
from cryorefine.restore.protocol import Context, Restoration
from cryorefine.restore.symmetrise_within import SymmetriseWithin
from cryorefine.restore.undershoot import AttenuateUndershoot

SIZE_PX, LARGE_PX, VOXEL_A = 128, 512, 1.0
STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def resident_bytes(name: str) -> int:
    """Return a number of the process's status: VmRSS, or VmHWM, its highest."""
    line = next(one for one in STATUS.read_text().splitlines() if one.startswith(name))
    return 1024 * int(line.split()[1])


def peak_in_maps(work: Callable[[], object]) -> float:
    """Return how many maps of memory a call takes at its peak; called once before, to warm up.

    The least of three, which differ by what lies free when each begins.
    """
    work()
    peaks = []
    for _ in range(3):
        gc.collect()
        release_memory()
        before = resident_bytes("VmRSS")
        RESET.write_text("5")
        work()
        peaks.append(resident_bytes("VmHWM") - before)
    return min(peaks) / (4 * SIZE_PX**3)


def work_as_on_large_maps() -> None:
    """Let maps of a small box be worked on as those of a large one."""
    for module in (fsc, filter_bank, laplacian, symmetrise_within):
        vars(module)["MAX_AT_ONCE"] = 1
    places = rigid.POINTS_AT_ONCE * SIZE_PX**3 // LARGE_PX**3
    for module in (rigid, symmetrise_within):
        vars(module)["POINTS_AT_ONCE"] = places


def main() -> None:
    """Measure all."""
    use_threads(1)
    work_as_on_large_maps()

    def drawn(seed: int) -> torch.Tensor:
        return torch.randn((SIZE_PX,) * 3, generator=torch.Generator().manual_seed(seed))

    ball = sphere_mask(SIZE_PX, 0.3 * SIZE_PX, 5.0)
    signal = filter_volume(drawn(1), lambda k: (-((k / SIZE_PX / 0.2) ** 2)).exp()) * 20 * ball
    halves = signal + 0.5 * drawn(2), signal + 0.5 * drawn(3)
    curves = half_map_fsc(*halves, voxel_A=VOXEL_A, mask=ball)
    context = Context(VOXEL_A, ball, curves)
    all_of_them: tuple[Restoration, ...] = (
        SymmetriseWithin(parse_symmetry("d3"), ball),
        DenoiseReal(),
        FilterBank(),
        Laplacian(),
        Deconvolve(),
        AttenuateUndershoot(3.0),
        EvaluateDifference(),
    )
    peaks = {one.name: peak_in_maps(lambda one=one: one(halves, context)) for one in all_of_them}
    peaks["fsc"] = peak_in_maps(lambda: half_map_fsc(*halves, voxel_A=VOXEL_A, mask=ball))
    print(json.dumps(peaks))


if __name__ == "__main__":
    main()
