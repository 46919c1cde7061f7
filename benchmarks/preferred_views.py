"""Refine sets most of whose particles are seen from nearly one direction, and judge by the truth.

    python benchmarks/preferred_views.py
    python benchmarks/preferred_views.py MODELS --keep WORK

The proteasome (D7, 1,000 particles, SNR 0.03, nine tenths within 12° of the axis) and RNA
polymerase II (C1, 2,000, SNR 0.05, eight tenths within 15°), both of 128 px, with ice noise,
defocus errors and uneven scale. Such views hardly tell how long the particle is along them: too
large a tilt and too flat a map fit the images nearly as well. So the signed error of the tilt is
told, too. MODELS is the folder of 3j9i.pdb.gz and 1WCM.pdb.gz. With --keep, sets and runs that
are there are not made again.
"""

import argparse
import json
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from cryorefine.geometry.rotation import matrix_from_euler, rotvec_from_matrix
from cryorefine.geometry.symmetry import parse_symmetry
from cryorefine.io.mrc import read_volume
from cryorefine.particles.formats.relion import read_relion
from cryorefine.particles.table import ParticleTable
from trial import (
    map_quality,
    markdown,
    number,
    pose_errors,
    refine,
    run_cryorefine,
    run_halves,
    simulate,
)

_WRONG_DEG = 5.0
_NEAR_DEG = 60.0


@dataclass(frozen=True)
class Case:
    """A set to simulate."""

    model: str
    symmetry: str
    particles: int
    pixel_A: float
    snr: float
    spread_deg: float
    fraction: float


_CASES = {
    "D7": Case("3j9i.pdb.gz", "d7", 1000, 2.0, 0.03, 12.0, 0.9),
    "C1": Case("1WCM.pdb.gz", "c1", 2000, 2.2, 0.05, 15.0, 0.8),
}


def outward_deg(found: ParticleTable, truth: ParticleTable, symmetry: str) -> float:
    """Return by how much views are found farther from the axis than they are: the median.

    Of the particles within 60° of the axis and 5° of their true pose. Particles are known by their
    place in the stack.
    """
    order = np.argsort(truth.image_index)
    rows = order[np.searchsorted(truth.image_index[order], found.image_index)]
    true = matrix_from_euler(torch.from_numpy(truth.euler_rad[rows]))
    copies = parse_symmetry(symmetry).equivalents(
        matrix_from_euler(torch.from_numpy(found.euler_rad))
    )
    turns = copies @ true[:, None].transpose(-1, -2)
    nearest = turns.diagonal(dim1=-2, dim2=-1).sum(-1).argmax(1)
    turn = rotvec_from_matrix(turns[torch.arange(len(true)), nearest])
    axis = true[:, :, 2]  # of the particle, in the frame of the image
    axis = axis * torch.where(axis[:, 2:] < 0, -1.0, 1.0)
    lean = torch.nn.functional.normalize(axis[:, :2], dim=1)
    outward = (torch.linalg.cross(turn, axis)[:, :2] * lean).sum(1).rad2deg()
    counted = (axis[:, 2] > np.cos(np.deg2rad(_NEAR_DEG))) & (turn.norm(dim=1).rad2deg() < 5)
    return float(outward[counted].median())


def main() -> None:
    """Make the sets, refine them, print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="?", type=Path, default=Path("shared/data/models"))
    parser.add_argument("--keep", type=Path, help="folder for particles and runs")
    options = parser.parse_args()
    work = options.keep or Path(tempfile.mkdtemp())
    rows = [["set", "angle °", f"beyond {_WRONG_DEG:g}° %", "too far from the axis °",
             "FSC 0.5 with the truth Å", "of the true poses Å", "reported Å",
             "worst direction Å", "reported from true poses Å", "CPU s"]]  # fmt: skip
    for name, case in _CASES.items():
        data = simulate(
            str(options.models / case.model),
            work / name,
            particles=case.particles,
            symmetry=case.symmetry,
            pixel_angstrom=case.pixel_A,
            snr=case.snr,
            noise="ice",
            defocus_error_angstrom=150,
            scale_spread=0.1,
            atom_bfactor=60,
            poses="axis",
            axis_tilt_deg=0,
            axis_spread_deg=case.spread_deg,
            axis_fraction=case.fraction,
            seed=1,
        )
        run, given, cpu_s = work / f"{name}-run", work / f"{name}-true", None
        if not (run / "report.html").exists():
            reference = data / "reference.mrc"
            cpu_s = refine(data / "particles.star", reference, run, symmetry=case.symmetry).cpu_s
        if not (given / "report.html").exists():
            run_cryorefine(
                "reconstruct", data / "truth_particles.star", "--symmetry", case.symmetry,
                "--output", given, "--overwrite", log=work / f"{name}-true.log",
            )  # fmt: skip
        truth = read_volume(data / "truth_map.mrc")
        poses = read_relion(data / "truth_particles.star")
        found = read_relion(run / "particles.star")
        angle, _ = pose_errors(found, poses, case.symmetry)
        reported, reported_true = (
            json.loads((folder / "summary.json").read_text()) for folder in (run, given)
        )
        rows.append(
            [name, number(float(np.median(angle))),
             number(100 * float(np.mean(angle > _WRONG_DEG)), 1),
             number(outward_deg(found, poses, case.symmetry)),
             number(map_quality(run_halves(run), truth).truth_A),
             number(map_quality(run_halves(given), truth).truth_A),
             number(reported["resolution_A"]), number(reported.get("resolution_worst_A")),
             number(reported_true["resolution_A"]), number(cpu_s, 0)]
        )  # fmt: skip
    print(markdown(rows))
    if options.keep is None:
        shutil.rmtree(work)


if __name__ == "__main__":
    main()
