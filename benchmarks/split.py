"""What half sets that are drawn anew at every iteration cost: the FSC shows more than there is.

    python benchmarks/split.py WORK
    python benchmarks/split.py WORK --particles 500 --box-px 64 --symmetry d2 --snr 0.02

The same simulated set is refined with either split, from 30 Å. Printed: the resolution that the
half maps report (FSC 0.143), what the map has with the truth (FSC 0.5, which is where the map of
half maps of 0.143 should end), and the mean FSC of both, from which the report's excess shows.
"""

import argparse
import time
from pathlib import Path

import numpy as np
import torch

import cryorefine as cr
from cryorefine.evaluate.fsc import fsc_within, resolution

_PIXEL_A = 3.0


def main() -> None:
    """Simulate, refine twice, and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("work", type=Path)
    parser.add_argument("--particles", type=int, default=500)
    parser.add_argument("--box-px", type=int, default=64)
    parser.add_argument("--symmetry", default="d2")
    parser.add_argument("--snr", type=float, default=0.02)
    parser.add_argument("--iterations", type=int, default=4)
    options = parser.parse_args()
    data = options.work / "set"
    if not data.exists():
        cr.simulate(
            output=data, particles=options.particles, box_px=options.box_px, snr=options.snr,
            pixel_angstrom=_PIXEL_A, symmetry=options.symmetry, diameter_angstrom=130,
        )  # fmt: skip
    truth = torch.from_numpy(cr.read_volume(data / "truth_map.mrc").data)
    print("| split | reported (Å) | FSC 0.5 with the truth (Å) | mean of curve: reported, true |")
    print("|---|---|---|---|")
    for split in ("fixed", "stochastic"):
        begun = time.process_time()
        run = cr.refine(
            data / "particles.star", data / "reference.mrc", output=options.work / split,
            overwrite=True, symmetry=options.symmetry, split=split, alignment="global",
            iterations=options.iterations,
        )  # fmt: skip
        mask = torch.from_numpy(run.mask.data)
        true = fsc_within(torch.from_numpy(run.average_map.data), truth, mask)
        frequency = torch.from_numpy(np.asarray(run.fsc.frequency_per_A))
        half = torch.from_numpy(np.asarray(run.fsc.corrected)).clamp(0, 1)
        expected = (2 * half / (1 + half)).sqrt()  # of the average's FSC with the truth
        print(
            f"| {split} | {run.resolution_A:.2f} | {resolution(true, frequency, 0.5):.2f} "
            f"| {float(expected[1:].mean()):.3f}, {float(true[1:].mean()):.3f} |"
            f" {time.process_time() - begun:.0f} s",
            flush=True,
        )


if __name__ == "__main__":
    main()
