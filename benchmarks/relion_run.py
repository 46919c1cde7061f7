"""Run RELION 3.1's auto-refinement on a particle set of ours and find its results.

RELION needs 32-bit stacks with a normalised background and the symmetry in capitals. Its gold
standard needs MPI: one leader that hands out work and one worker for each half set. Open MPI's
ranks spin while they wait, so the leader's CPU time is no work; costs are of the two workers, with
the leader's beside them.
"""

import json
import shutil
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from cryorefine.io.mrc import read_volume, write_stack
from cryorefine.particles.formats.relion import read_relion, write_relion
from cryorefine.particles.images import open_images
from cryorefine.run.inputs import measure_radius
from measured import Cost, measure

_MEASURED = Path(__file__).with_name("measured.py")


@dataclass(frozen=True)
class RelionRun:
    """Files of a finished run, and what it cost; ``leader_cpu_s`` is None where not known."""

    particles: Path
    halves: tuple[Path, Path]
    cost: Cost
    leader_cpu_s: float | None


def diameter_A(reference: Path, lowpass_A: float) -> float:
    """Return the particle's diameter as cryorefine measures it on the start map."""
    volume = read_volume(reference)
    radius_px = measure_radius(volume.data, voxel_A=volume.voxel_A, resolution_A=lowpass_A)
    return 2 * min(radius_px, volume.size_px / 2 - 1) * volume.voxel_A


def convert_particles(star: Path, folder: Path, diameter_A: float) -> Path:
    """Write a set as RELION takes it: 32-bit images, background of mean 0 and deviation 1."""
    table, images = open_images(read_relion(star))
    rows = np.arange(len(table))
    group = table.optics[0]
    n = group.box_px or 0
    axis = torch.arange(n) - n // 2
    outside = (axis[:, None] ** 2 + axis**2).sqrt() > diameter_A / 2 / group.pixel_A
    stack = torch.empty(len(table), n, n)
    for batch, data in images.batches(rows, 256):
        background = data[:, outside]
        mean, deviation = background.mean(1), background.std(1)
        stack[torch.from_numpy(batch)] = (data - mean[:, None, None]) / deviation[:, None, None]
    folder.mkdir(parents=True, exist_ok=True)
    path = (folder / "particles.mrcs").resolve()
    write_stack(path, stack, group.pixel_A, half=False)
    converted = replace(
        table,
        stacks=(path,),
        stack_index=np.zeros(len(table), np.int64),
        image_index=rows,
        # RELION looks for stacks from its working folder only.
        names=np.array([f"{row + 1:06d}@{path}" for row in rows]),
    )
    write_relion(folder / "particles.star", converted)
    return folder / "particles.star"


def run_relion(
    star: Path,
    reference: Path,
    output: Path,
    *,
    symmetry: str,
    lowpass_A: float,
    threads: int = 1,
) -> RelionRun:
    """Refine with the defaults of RELION's own interface; one worker a half set."""
    diameter = diameter_A(reference, lowpass_A)
    output.mkdir(parents=True)
    particles = convert_particles(star, output / "input", diameter)
    start = shutil.copy(reference, output / "input" / "reference.mrc")
    costs = output / "cost"
    code, whole = measure(
        [
            "mpirun", "--allow-run-as-root", "--oversubscribe", "-n", 3,
            "bash", "-c", 'exec "$0" "$1" "$2.$OMPI_COMM_WORLD_RANK" "${@:3}"',
            sys.executable, _MEASURED, costs,
            "relion_refine_mpi", "--auto_refine", "--split_random_halves",
            "--i", particles, "--ref", start, "--o", output / "run",
            "--sym", symmetry.upper(), "--particle_diameter", f"{diameter:.0f}",
            "--ini_high", lowpass_A, "--firstiter_cc", "--ctf", "--norm", "--scale",
            "--zero_mask", "--flatten_solvent", "--low_resol_join_halves", 40,
            "--healpix_order", 2, "--auto_local_healpix_order", 4, "--oversampling", 1,
            "--offset_range", 5, "--offset_step", 2, "--pad", 2, "--pool", 3, "--j", threads,
            "--dont_combine_weights_via_disc", "--random_seed", 1,
        ],
        output / "log.txt",
    )  # fmt: skip
    if code:
        raise SystemExit(f"relion_refine_mpi failed: see {output / 'log.txt'}")
    (output / "wall.json").write_text(json.dumps(whole.wall_s))
    return read_run(output)


def read_run(output: Path) -> RelionRun:
    """Return the results of a run of :func:`run_relion`."""
    ranks = [json.loads(Path(f"{output / 'cost'}.{rank}").read_text()) for rank in range(3)]
    cost = Cost(
        cpu_s=sum(rank["cpu_s"] for rank in ranks[1:]),
        wall_s=json.loads((output / "wall.json").read_text()),
        peak_bytes=sum(rank["peak_bytes"] for rank in ranks),
    )
    return RelionRun(*_files(output), cost, ranks[0]["cpu_s"])


def given_run(output: Path, cpu_s: float) -> RelionRun:
    """Return the results of anybody's auto-refinement in a folder, with the CPU time they say."""
    return RelionRun(*_files(output), Cost(cpu_s, float("nan"), 0), None)


def _files(output: Path) -> tuple[Path, tuple[Path, Path]]:
    first, second = (output / f"run_half{half}_class001_unfil.mrc" for half in (1, 2))
    missing = [path for path in (output / "run_data.star", first, second) if not path.exists()]
    if missing:
        raise SystemExit(f"no finished auto-refinement: {missing[0]} is not there")
    return output / "run_data.star", (first, second)
