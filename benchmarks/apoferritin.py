"""Refine the real apoferritin particles and compare with the 6Z6U model.

    python benchmarks/apoferritin.py DATA/apoferritin_10146 DATA/models/6z6u.pdb.gz --output RUN

The number that counts is the mean FSC of the averaged raw half maps against the model over the
shells from 16 to 6 Å, within a soft mask made from the model (blurred by 4 px, 12 % of the
maximum, grown by 2 px, 6 px cosine edge). ``--price-of-loss`` and ``--settled-fraction``
change what ``assign/search_depth.py`` and ``refine/policy.py`` fix, to show why they fix it so.
"""

from cryorefine.cli.environment import prepare_environment

prepare_environment()  # before torch is loaded

import argparse
import json
from functools import partial
from pathlib import Path

import numpy as np
import torch
from scipy import ndimage

from cryorefine.assign import search_depth
from cryorefine.api.progress_display import ProgressDisplay
from cryorefine.evaluate.fsc import fsc, resolution
from cryorefine.io.mrc import read_volume
from cryorefine.masks.soft import soft_edge
from cryorefine.refine.policy import SchedulePolicy
from cryorefine.refine.schedule import next_plan
from cryorefine.run import segments
from cryorefine.run.loop import refine
from cryorefine.settings import make_settings
from cryorefine.report.build import write_report
from trial import model_map


def main() -> None:
    """Refine, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("model", type=Path)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--compare-only", action="store_true", help="of a run that is there")
    parser.add_argument("--price-of-loss", type=float)
    parser.add_argument("--settled-fraction", type=float)
    parser.add_argument("--start", type=float, default=30.0)
    options = parser.parse_args()
    if options.price_of_loss is not None:
        search_depth._PRICE_OF_LOSS = options.price_of_loss
    if options.settled_fraction is not None:
        policy = SchedulePolicy(settled_fraction=options.settled_fraction)
        segments.next_plan = partial(next_plan, policy=policy)
    if not options.compare_only:
        settings = make_settings(
            {
                "particles": options.data / "particles.star",
                "reference": (options.data / "reference_20A.mrc",),
                "symmetry": "o",
                "initial_lowpass_angstrom": options.start,
            }
        )
        with ProgressDisplay() as display:
            refine(
                settings,
                options.output,
                overwrite=True,
                listeners=(display,),
                reporter=write_report,
            )
    first, second = (read_volume(options.output / f"half{n}.mrc") for n in (1, 2))
    n, voxel_A = first.size_px, first.voxel_A
    truth = model_map(options.model, n, voxel_A).data
    blurred = torch.from_numpy(np.asarray(ndimage.gaussian_filter(truth.numpy(), 4)))
    mask = soft_edge((blurred > 0.12 * blurred.max()).float(), grow_px=2, edge_px=6)
    curve = fsc((first.data + second.data) / 2 * mask, truth * mask)
    halves = fsc(first.data * mask, second.data * mask)
    frequency = torch.arange(len(curve)).double() / (n * voxel_A)
    chosen = (frequency >= 1 / 16) & (frequency <= 1 / 6)
    summary = json.loads((options.output / "summary.json").read_text())
    print("Å        against model  half maps (model mask)")
    for s in range(8, len(curve), 4):
        print(f"{1 / frequency[s]:6.2f} {curve[s]:10.2f} {halves[s]:14.2f}")
    print(f"mean FSC against the model, 16 to 6 Å: {float(curve[chosen].mean()):.3f}")
    print(f"half maps within the model's mask: {resolution(halves, frequency):.2f} Å")
    print(f"reported: {summary['resolution_A']:.2f} Å, "
          f"unmasked {summary['resolution_unmasked_A']:.2f} Å")  # fmt: skip
    print(f"cost: {summary['cpu_s']:.0f} s CPU, {summary['peak_rss_bytes'] / 1e9:.2f} GB, "
          f"{summary['iterations']} iterations")  # fmt: skip


if __name__ == "__main__":
    main()
