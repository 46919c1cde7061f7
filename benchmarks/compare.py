"""Refine a set with cryorefine and with RELION, on the same files and threads, and compare.

    python benchmarks/compare.py phantom
    python benchmarks/compare.py DATA/models/3j9i.pdb.gz --symmetry d7 --particles 500 --snr 0.03 \
        --atom-bfactor 40
    python benchmarks/compare.py --particles-star DATA/apoferritin_10146/particles.star \
        --reference DATA/apoferritin_10146/reference_20A.mrc --symmetry o \
        --model-map DATA/models/6z6u.pdb.gz --shells 16 6

The first forms simulate a set, the last takes one. Prints CPU time (user and system, of all
processes), wall time, peak memory, median pose errors and FSCs as a markdown table; for simulated
sets also what the true poses give. RELION runs if ``relion_refine_mpi`` and ``mpirun`` are on the
PATH. It takes long: ``--relion-run`` shows an earlier run of it instead, of this benchmark or,
with ``--relion-cpu-s``, of any other auto-refinement.
"""

import argparse
import shutil
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from cryorefine.engine.threads import available_cpus
from cryorefine.io.mrc import Volume, read_volume
from cryorefine.particles.formats.relion import read_relion
from cryorefine.particles.table import ParticleTable
from measured import Cost
from relion_run import RelionRun, given_run, read_run, run_relion
from trial import (
    ICE,
    MapQuality,
    map_quality,
    markdown,
    model_map,
    number,
    pose_errors,
    refine,
    run_cryorefine,
    run_halves,
    simulate,
)


@dataclass(frozen=True)
class Result:
    """One column of the table."""

    name: str
    quality: MapQuality
    cost: Cost | None = None
    angle_deg: float | None = None
    shift_A: float | None = None
    remark: str = ""


def judged(
    result: Result, found: ParticleTable, truth: ParticleTable | None, symmetry: str
) -> Result:
    """Return a result with its median pose errors, if the true poses are known."""
    if truth is None:
        return result
    angle, shift = pose_errors(found, truth, symmetry)
    return replace(result, angle_deg=float(np.median(angle)), shift_A=float(np.median(shift)))


def table(results: list[Result]) -> str:
    """Return the comparison: one column a result, and ratios where there are two programs."""
    programs = [r for r in results if r.cost is not None]
    rows = [["", *(r.name for r in results)]]

    def add(name: str, values: list[float | None], digits: int, *, ratio: bool = True) -> None:
        row = [name, *(number(v, digits) for v in values)]
        if len(programs) == 2:
            ours, theirs = values[:2]
            is_known = ratio and ours is not None and theirs is not None and ours > 0
            row.append(number(theirs / ours, 2) if is_known else "–")  # type: ignore[operator]
        rows.append(row)

    if len(programs) == 2:
        rows[0].append(f"{results[1].name} / {results[0].name}")
    costs = [r.cost for r in results]
    add("CPU s", [None if c is None else c.cpu_s for c in costs], 0)
    add("wall s", [None if c is None else c.wall_s for c in costs], 0)
    add("peak memory GB", [None if c is None else c.peak_bytes / 1e9 for c in costs], 2)
    add("median angle error °", [r.angle_deg for r in results], 2)
    add("median shift error Å", [r.shift_A for r in results], 2)
    add("FSC 0.5 with the truth Å", [r.quality.truth_A for r in results], 2)
    add("mean FSC with the truth", [r.quality.truth_mean for r in results], 3)
    add("mean FSC of the halves", [r.quality.halves_mean for r in results], 3)
    remarks = [f"{r.name}: {r.remark}" for r in results if r.remark]
    return "\n\n".join([markdown(rows), *remarks])


def relion_result(
    options: argparse.Namespace, star: Path, reference: Path, work: Path
) -> RelionRun | None:
    """Run RELION, or read the run that was given; None says why there is none."""
    if options.relion_run and options.relion_cpu_s is not None:
        return given_run(options.relion_run, options.relion_cpu_s)
    if options.relion_run:
        return read_run(options.relion_run)
    if options.no_relion:
        return None
    if not (shutil.which("relion_refine_mpi") and shutil.which("mpirun")):
        print("RELION is not compared: relion_refine_mpi or mpirun is not on the PATH (its "
              "refinement of two half sets needs MPI).\n")  # fmt: skip
        return None
    return run_relion(
        star,
        reference,
        work / "relion",
        symmetry=options.symmetry,
        lowpass_A=options.start,
        threads=max(1, options.threads // 2),
    )


def main() -> None:
    """Simulate or take, refine, compare, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", nargs="?", help="atomic model, or the word phantom")
    parser.add_argument("--symmetry", default="c1")
    parser.add_argument("--particles", type=int, default=500)
    parser.add_argument("--box", type=int)
    parser.add_argument("--pixel", type=float)
    parser.add_argument("--snr", type=float, default=0.05)
    parser.add_argument("--start", type=float, default=30.0, help="low-pass of the start in Å")
    parser.add_argument("--atom-bfactor", type=float)
    parser.add_argument(
        "--ice", action="store_true", help="noise, defocus and grey values as in ice"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--particles-star", type=Path, help="a set to take instead")
    parser.add_argument("--reference", type=Path, help="its initial map")
    parser.add_argument("--truth-star", type=Path, help="its true poses, if known")
    parser.add_argument("--model-map", type=Path, help="map or atomic model it should show")
    parser.add_argument(
        "--shells", type=float, nargs=2, metavar=("LOW", "HIGH"),
        help="range of the mean FSCs in Å (default: all shells)",
    )  # fmt: skip
    parser.add_argument("--threads", type=int, default=available_cpus())
    parser.add_argument("--keep", type=Path, help="folder for particles and runs")
    parser.add_argument("--no-relion", action="store_true", help="cryorefine alone")
    parser.add_argument("--relion-run", type=Path, help="folder of an earlier run of RELION")
    parser.add_argument("--relion-cpu-s", type=float, help="its CPU seconds")
    options = parser.parse_args()
    if (options.model is None) == (options.particles_star is None):
        parser.error("give a model to simulate, or --particles-star")
    if options.particles_star and not options.reference:
        parser.error("--particles-star needs --reference")
    if options.relion_cpu_s is not None and not options.relion_run:
        parser.error("--relion-cpu-s needs --relion-run")
    work = options.keep or Path(tempfile.mkdtemp())
    star, reference, truth_star = options.particles_star, options.reference, options.truth_star
    if options.model:
        phantom = options.model == "phantom"
        data = simulate(
            options.model, work / "particles", particles=options.particles,
            box_px=options.box or (64 if phantom else 128),
            pixel_angstrom=options.pixel or (3.0 if phantom else 2.0),
            symmetry=options.symmetry, snr=options.snr, atom_bfactor=options.atom_bfactor,
            reference_angstrom=options.start, seed=options.seed, **(ICE if options.ice else {}),
        )  # fmt: skip
        star, reference = data / "particles.star", data / "reference.mrc"
        truth_star = data / "truth_particles.star"
    particles = read_relion(star)
    truth_poses = read_relion(truth_star) if truth_star else None

    ours = work / "cryorefine"
    cost = refine(
        star, reference, ours, symmetry=options.symmetry,
        initial_lowpass_angstrom=options.start, threads=options.threads,
    )  # fmt: skip
    first = read_volume(ours / "half1.mrc")
    truth: Volume | None = None
    if options.model_map:
        truth = model_map(options.model_map, first.size_px, first.voxel_A)
    elif options.model:
        truth = read_volume(work / "particles" / "truth_map.mrc")

    def quality(halves: tuple[Path, Path]) -> MapQuality:
        return map_quality(halves, truth, options.shells)

    results = [
        judged(
            Result("cryorefine", quality(run_halves(ours)), cost),
            read_relion(ours / "particles.star"), truth_poses, options.symmetry,
        )
    ]  # fmt: skip
    relion = relion_result(options, star, reference, work)
    if relion is not None:
        found = read_relion(relion.particles)
        # RELION's stack was written in the order of the particle file.
        found = replace(found, image_index=particles.image_index[found.image_index])
        remark = ""
        if relion.leader_cpu_s is not None:
            remark = (
                f"CPU time of the two workers; the rank that leads took {relion.leader_cpu_s:.0f} "
                "s more, mostly waiting."
            )
        result = Result("RELION", quality(relion.halves), relion.cost, remark=remark)
        results.append(judged(result, found, truth_poses, options.symmetry))
    if truth_poses is not None:
        best = work / "true_poses"
        run_cryorefine(
            "reconstruct", truth_star, "--symmetry", options.symmetry,
            "--output", best, "--overwrite", log=work / "true_poses.log",
        )  # fmt: skip
        results.append(Result("true poses", quality(run_halves(best))))
    print(f"{len(particles)} particles, {first.size_px} px, symmetry {options.symmetry}, "
          f"{options.threads} threads\n")  # fmt: skip
    print(table(results))
    if options.keep is None:
        shutil.rmtree(work)


if __name__ == "__main__":
    main()
