"""How many true poses lie within the 95 % regions that a refinement reports.

    python benchmarks/calibration.py                                     a small phantom
    python benchmarks/calibration.py MODEL.cif --symmetry d7 --particles 300 --snr 0.03

Simulates a set, refines it, and compares with the truth: chi squared of the errors with the
reported covariances of rotation and shift (5 degrees of freedom), one rigid movement of each half
map taken out as far as the symmetry allows it.
"""

import argparse
import shutil
import tempfile
from pathlib import Path

import torch

from cryorefine.evaluate.calibration import chi_squared, pose_errors
from cryorefine.events import CovarianceCalibrated, read_events
from cryorefine.geometry.rotation import matrix_from_euler
from cryorefine.geometry.symmetry import parse_symmetry
from cryorefine.particles.formats.relion import read_relion
from cryorefine.run.checkpoint import load_state
from cryorefine.storage.layout import committed_iterations
from trial import refine, simulate

_CHI2_95, _CHI2_MEDIAN = 11.07, 4.351


def main() -> None:
    """Simulate, refine, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", nargs="?", default="phantom")
    parser.add_argument("--symmetry", default="d2")
    parser.add_argument("--particles", type=int, default=300)
    parser.add_argument("--box", type=int, default=None)
    parser.add_argument("--pixel", type=float, default=None)
    parser.add_argument("--snr", type=float, default=0.05)
    parser.add_argument("--atom-bfactor", type=float, default=None)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    phantom = options.model == "phantom"
    work = Path(tempfile.mkdtemp())
    found = work / "run"
    data = simulate(
        options.model, work / "particles", particles=options.particles,
        box_px=options.box or (64 if phantom else 128),
        pixel_angstrom=options.pixel or (3.0 if phantom else 2.0),
        symmetry=options.symmetry, snr=options.snr, seed=options.seed,
        atom_bfactor=options.atom_bfactor,
    )  # fmt: skip
    refine(data / "particles.star", data / "reference.mrc", found, symmetry=options.symmetry)
    checkpoint = load_state(found, committed_iterations(found)[-1])
    poses, group = checkpoint.state.poses, parse_symmetry(options.symmetry)
    truth = read_relion(data / "truth_particles.star")
    errors = pose_errors(
        poses.rotations,
        poses.shift_A,
        matrix_from_euler(torch.from_numpy(truth.euler_rad)),
        torch.from_numpy(truth.shift_A),
        group,
    )
    chi2 = torch.zeros(len(errors), dtype=torch.float64)
    for half in (1, 2):
        mine = torch.from_numpy(checkpoint.constants.half == half)
        chi2[mine] = chi_squared(errors[mine], poses.covariance[mine], poses.rotations[mine], group)
    is_right = torch.rad2deg(errors[:, :3].norm(dim=1)) < 10
    factor = next(
        e.variance_factor for e in reversed(read_events(found / "events.jsonl"))
        if isinstance(e, CovarianceCalibrated)
    )  # fmt: skip
    print(f"within 10° of the truth  {100 * is_right.double().mean():.1f} %")
    print(f"within the 95 % region   {100 * (chi2 < _CHI2_95).double().mean():.1f} % of all, "
          f"{100 * (chi2[is_right] < _CHI2_95).double().mean():.1f} % of those")  # fmt: skip
    uncorrected = chi2[is_right] * factor
    print(f"variance factor          {factor:.2f}; without it "
          f"{100 * (uncorrected < _CHI2_95).double().mean():.1f} % of those")  # fmt: skip
    print(f"median chi squared       {chi2[is_right].median():.2f} (expected {_CHI2_MEDIAN:.2f})")
    shutil.rmtree(work)


if __name__ == "__main__":
    main()
