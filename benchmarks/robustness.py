"""Refine one set from bad starts and with bad images, and compare with the plain run.

    python benchmarks/robustness.py
    python benchmarks/robustness.py DATA/models/1WCM.pdb.gz --particles 1000 --pixel 2.2 --keep WORK
    python benchmarks/robustness.py --cases start-40 grey --keep WORK

Cases: ``start-40`` a start low-passed at 40 Å; ``grey`` one of a thousand times the grey scale and
an offset; ``noise`` and ``others`` a quarter more images, of noise alone or of another particle, so
that a fifth of the set is junk; ``shifts`` shifts up to a tenth of the box (the 4 % that the draw
puts beyond are left out). Every case has the plain run's particles with the plain run's poses and
noise; junk comes on top of them. With --keep, runs that are there are not repeated.
"""

import argparse
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np

from cryorefine.io.mrc import read_volume, write_volume
from cryorefine.io.star import read_star
from cryorefine.particles.formats.relion import read_relion, write_relion
from cryorefine.particles.table import ParticleTable
from trial import map_quality, markdown, number, pose_errors, refine, run_halves, simulate

_CASES = ("start-40", "grey", "noise", "others", "shifts")
_JUNK = 0.2
_SHIFT_LIMIT = 0.1
_OTHER = {"symmetry": "d5", "diameter_angstrom": 130.0}


def with_others(table: ParticleTable, is_junk: np.ndarray, stack: Path) -> ParticleTable:
    """Return a table whose junk comes from another set's stack; CTFs are the same in both."""
    names = [f"{i + 1:06d}@{stack.absolute()}" for i in table.image_index]
    return replace(
        table,
        stacks=(*table.stacks, stack),
        stack_index=np.where(is_junk, len(table.stacks), table.stack_index),
        names=np.where(is_junk, names, table.names),
    )


def main() -> None:
    """Make the sets, refine them, print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", nargs="?", default="phantom")
    parser.add_argument("--symmetry", default="c1")
    parser.add_argument("--particles", type=int, default=500, help="without the junk")
    parser.add_argument("--box", type=int)
    parser.add_argument("--pixel", type=float)
    parser.add_argument("--snr", type=float, default=0.05)
    parser.add_argument("--atom-bfactor", type=float)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cases", nargs="+", choices=_CASES, default=_CASES)
    parser.add_argument("--keep", type=Path, help="folder for particles and runs")
    options = parser.parse_args()
    work = options.keep or Path(tempfile.mkdtemp())
    phantom = options.model == "phantom"
    box = options.box or (64 if phantom else 128)
    pixel_A = options.pixel or (3.0 if phantom else 2.0)
    limit_A = _SHIFT_LIMIT * box * pixel_A

    def make(name: str, model: str, **changes: object) -> Path:
        """Simulate; one seed and number give the same poses, CTFs and noise whatever else."""
        values: dict[str, object] = {
            "particles": round(options.particles / (1 - _JUNK)), "box_px": box,
            "pixel_angstrom": pixel_A, "symmetry": options.symmetry, "snr": options.snr,
            "atom_bfactor": options.atom_bfactor, "seed": options.seed,
        }  # fmt: skip
        return simulate(model, work / name, **{**values, **changes})

    data = make("noise", options.model, junk_fraction=_JUNK)
    everything = read_relion(data / "particles.star")
    blocks = read_star(data / "truth_particles.star")
    is_junk = blocks["particles"].integers("cryorefineIsJunk").astype(bool)
    truth_poses = read_relion(data / "truth_particles.star")
    truth, reference = read_volume(data / "truth_map.mrc"), data / "reference.mrc"
    good = np.flatnonzero(~is_junk)
    plain = everything.select(good)
    rows = [["", "particles", "angle °", "shift Å", "beyond 10° or 1 px %", "FSC 0.5 Å",
             "mean FSC with the truth", "to the plain run %", "junk named", "good named",
             "CPU s"]]  # fmt: skip
    means: list[float] = []

    def case(
        name: str,
        *,
        table: ParticleTable = plain,
        start: Path = reference,
        poses: ParticleTable = truth_poses,
        **how: object,
    ) -> None:
        """Refine a case and add its row."""
        run, cpu_s = work / "runs" / name, None
        if not (run / "report.html").exists():
            write_relion(work / f"{name}.star", table)
            how = {"symmetry": options.symmetry, **how}
            cpu_s = refine(work / f"{name}.star", start, run, **how).cpu_s
        found = read_relion(run / "particles.star")
        named = read_star(run / "particles.star")["particles"].integers("cryorefineFitsNothing")
        of_junk = ~np.isin(found.image_index, good)
        # Junk has no true pose; its places in the stacks are those of no good image.
        found = found.select(np.isin(found.image_index, good))
        angle, shift = pose_errors(found, poses, options.symmetry)
        quality = map_quality(run_halves(run), truth)
        means.append(quality.truth_mean or 0.0)
        wrong = 100 * float(np.mean((angle > 10) | (shift > pixel_A)))
        rows.append(
            [name, str(len(table)), number(float(np.median(angle))),
             number(float(np.median(shift))), number(wrong, 1), number(quality.truth_A),
             number(means[-1], 3), number(100 * (means[-1] / means[0] - 1), 1),
             f"{named[of_junk].sum()} of {of_junk.sum()}", str(named[~of_junk].sum()),
             number(cpu_s, 0)]
        )  # fmt: skip

    case("plain")
    if "start-40" in options.cases:
        case("start-40", initial_lowpass_angstrom=40.0)
    if "grey" in options.cases:
        volume = read_volume(reference).data
        write_volume(work / "grey.mrc", 1000 * volume + 500 * float(volume.std()), pixel_A)
        case("grey", start=work / "grey.mrc")
    if "noise" in options.cases:
        case("noise", table=everything)
    if "others" in options.cases:
        other = make("others", "phantom", **_OTHER)
        case("others", table=with_others(everything, is_junk, other / "particles.mrcs"))
    if "shifts" in options.cases:
        far = make("shifts", options.model, junk_fraction=_JUNK, shift_angstrom=limit_A / 2.5)
        poses = read_relion(far / "truth_particles.star")
        is_near = np.linalg.norm(poses.shift_A, axis=1) < limit_A
        table = read_relion(far / "particles.star").select(np.flatnonzero(~is_junk & is_near))
        case("shifts", table=table, poses=poses)
    print(markdown(rows))
    if options.keep is None:
        shutil.rmtree(work)


if __name__ == "__main__":
    main()
