"""What refining each particle's defocus gains when the file's is wrong, and costs when it is right.

    python benchmarks/particle_optics.py

Simulates a phantom, adds Gaussian errors to the defoci, and refines both files with and without
``--refine-defocus``.
"""

import argparse
import json
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
from refinement import pose_errors, run, truth_resolution_A

from cryorefine.particles.relion import read_relion, write_relion


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
    data = work / "particles"
    run(
        "simulate", "phantom", "--symmetry", "d2", "--output", data,
        "--particles", options.particles, "--box-px", options.box,
        "--pixel-angstrom", options.pixel, "--snr", options.snr,
    )  # fmt: skip
    table = read_relion(data / "particles.star")
    error = np.random.default_rng(0).normal(0, options.error, len(table))
    wrong = replace(
        table, defocus_u_A=table.defocus_u_A + error, defocus_v_A=table.defocus_v_A + error
    )
    write_relion(data / "wrong.star", wrong)
    truth = read_relion(data / "truth_particles.star")
    print("defocus  option  pose error       FSC 0.5 with the truth  defocus error  CPU s")
    for name, star in (("wrong", "wrong.star"), ("right", "particles.star")):
        for flags in ((), ("--refine-defocus",)):
            found = work / "run"
            run(
                "refine", data / star, "--reference", data / "reference.mrc", "--symmetry", "d2",
                "--output", found, "--overwrite", *flags,
            )  # fmt: skip
            angle, shift = pose_errors(
                found / "particles.star", data / "truth_particles.star", "d2"
            )
            result = read_relion(found / "particles.star")
            left = result.defocus_u_A + result.defocus_v_A - truth.defocus_u_A - truth.defocus_v_A
            cpu_s = json.loads((found / "summary.json").read_text())["cpu_s"]
            print(
                f"{name:8} {'on' if flags else 'off':7} {np.median(angle):.2f}° "
                f"{np.median(shift):.2f} Å     "
                f"{truth_resolution_A(found, data / 'truth_map.mrc'):<23.2f} "
                f"{np.sqrt(np.mean((left / 2) ** 2)):<14.0f} {cpu_s:.0f}"
            )
    shutil.rmtree(work)


if __name__ == "__main__":
    main()
