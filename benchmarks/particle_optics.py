"""What refining each particle's defocus gains when the file's is wrong, and costs when it is right.

    python benchmarks/particle_optics.py

Simulates a phantom, adds Gaussian errors to the defoci, and refines both files with and without
``--refine-defocus``.
"""

import argparse
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np

from cryorefine.io.mrc import read_volume
from cryorefine.particles.formats.relion import read_relion, write_relion
from trial import map_quality, markdown, number, pose_errors, refine, run_halves, simulate


def main() -> None:
    """Simulate, refine four times, print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--particles", type=int, default=500)
    parser.add_argument("--box", type=int, default=80)
    parser.add_argument("--pixel", type=float, default=2.0)
    parser.add_argument("--snr", type=float, default=0.05)
    parser.add_argument("--error", type=float, default=300.0, help="of the defocus, rms in Å")
    options = parser.parse_args()
    work = Path(tempfile.mkdtemp())
    data = simulate(
        "phantom", work / "particles", symmetry="d2", particles=options.particles,
        box_px=options.box, pixel_angstrom=options.pixel, snr=options.snr,
    )  # fmt: skip
    table = read_relion(data / "particles.star")
    error = np.random.default_rng(0).normal(0, options.error, len(table))
    wrong = replace(
        table, defocus_u_A=table.defocus_u_A + error, defocus_v_A=table.defocus_v_A + error
    )
    write_relion(data / "wrong.star", wrong)
    truth, true_map = (
        read_relion(data / "truth_particles.star"),
        read_volume(data / "truth_map.mrc"),
    )
    rows = [["defocus in the file", "`--refine-defocus`", "angle °", "shift Å", "FSC 0.5 Å",
             "mean FSC with the truth", "defocus error Å", "CPU s"]]  # fmt: skip
    for name, star in (("wrong", "wrong.star"), ("right", "particles.star")):
        for is_refined in (False, True):
            found = work / "run"
            cost = refine(
                data / star, data / "reference.mrc", found, symmetry="d2",
                refine_defocus=is_refined or None,
            )  # fmt: skip
            result = read_relion(found / "particles.star")
            angle, shift = pose_errors(result, truth, "d2")
            quality = map_quality(run_halves(found), true_map)
            left = result.defocus_u_A + result.defocus_v_A - truth.defocus_u_A - truth.defocus_v_A
            rows.append([
                name, "on" if is_refined else "off", number(float(np.median(angle))),
                number(float(np.median(shift))), number(quality.truth_A),
                number(quality.truth_mean, 3), number(float(np.sqrt(np.mean((left / 2) ** 2))), 0),
                number(cost.cpu_s, 0),
            ])  # fmt: skip
    print(markdown(rows))
    shutil.rmtree(work)


if __name__ == "__main__":
    main()
