"""Time and memory of reading and writing particle files of a million rows, each in its own process.

    python benchmarks/star_rows.py [--rows N] [--folder DIR] [--others PYTHON]

``--others`` names an interpreter that has starfile, starfile-rs and gemmi: they read the same file,
to columns of numbers where those of cryorefine's particles are numbers.

CPU seconds are those of the process alone; memory is its highest resident size.
"""

import argparse
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

STEPS = {
    "STAR, columns as bytes": "from cryorefine.io.star import read_star; read_star(path)",
    "STAR, particles": "from cryorefine.formats.read import read_particles; read_particles(path)",
    "STAR to .cs": "import cryorefine as cr; cr.convert(path, path.with_suffix('.cs'))",
    "cs, particles": "from cryorefine.formats.read import read_particles; "
    "read_particles(path.with_suffix('.cs'))",
    "cs to STAR": "import cryorefine as cr; "
    "cr.convert(path.with_suffix('.cs'), path.with_name('again.star'))",
}
OTHERS = {
    "starfile": ("starfile", "starfile.read(path)"),
    "starfile-rs": ("starfile_rs", "starfile_rs.read_star(path)['particles'].to_pandas()"),
    "gemmi, words": ("gemmi", "gemmi.cif.read(str(path))"),
    "gemmi, columns": (
        "numpy, gemmi",
        "block = gemmi.cif.read(str(path)).find_block('particles'); "
        "[numpy.array(list(block.find_loop(tag)), 'S' if 'Name' in tag else float) "
        "for item in block if item.loop for tag in item.loop.tags]",
    ),
}
"""What is imported, and what is done."""

OURS = "torch, cryorefine; from cryorefine.formats import read"
PROGRAM = """
import sys, time, resource
from pathlib import Path
import {imports}
path = Path(sys.argv[1])
wall, cpu = time.perf_counter(), time.process_time()
{step}
used = resource.getrusage(resource.RUSAGE_SELF)
print(time.perf_counter() - wall, time.process_time() - cpu, used.ru_maxrss / 1e6)
"""


def write_star(path: Path, n: int) -> None:
    """Write particles with the columns of a refinement; a thousand stand on each micrograph."""
    random = np.random.default_rng(1)
    labels = ["CoordinateX", "CoordinateY", "ImageName", "MicrographName", "OpticsGroup",
              "DefocusU", "DefocusV", "DefocusAngle", "AngleRot", "AngleTilt", "AnglePsi",
              "OriginXAngst", "OriginYAngst", "RandomSubset"]  # fmt: skip
    with open(path, "w") as file:
        file.write("# version 30001\n\ndata_optics\n\nloop_\n_rlnOpticsGroup #1\n_rlnVoltage #2\n")
        file.write("_rlnSphericalAberration #3\n_rlnAmplitudeContrast #4\n_rlnImagePixelSize #5\n")
        file.write("_rlnImageSize #6\n1 300.0 2.7 0.1 1.06 256\n\n")
        file.write("# version 30001\n\ndata_particles\n\nloop_\n")
        file.writelines(f"_rln{label} #{i}\n" for i, label in enumerate(labels, 1))
        for start in range(0, n, 1000):
            values = random.uniform(0, 1, (min(1000, n - start), 10))
            name = f"Extract/job012/Movies/20170629_{start // 1000:05d}_frameImage"
            for i, v in enumerate(values, 1):
                file.write(
                    f"{v[0] * 4000:.6f} {v[1] * 4000:.6f} {i:06d}@{name}.mrcs {name}.mrc 1 "
                    f"{10000 + v[2] * 9999:.6f} {10000 + v[3] * 9999:.6f} {v[4] * 180:.6f} "
                    f"{v[5] * 360:.6f} {v[6] * 180:.6f} {v[7] * 360:.6f} {v[8] * 5:.6f} "
                    f"{v[9] * 5:.6f} {1 + i % 2}\n"
                )
        file.write("\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--others", type=Path)
    options = parser.parse_args()
    steps = [(title, sys.executable, OURS, step) for title, step in STEPS.items()]
    if options.others:
        steps += [(title, str(options.others), *how) for title, how in OTHERS.items()]
    with TemporaryDirectory(dir=options.folder) as folder:
        path = Path(folder) / "particles.star"
        write_star(path, options.rows)
        print(f"{options.rows} rows, {path.stat().st_size / 1e6:.0f} MB")
        print(f"{'':24} wall s   CPU s   GB")
        for title, python, imports, step in steps:
            program = PROGRAM.format(step=step, imports=imports)
            end = subprocess.run(
                [python, "-c", program, path], capture_output=True, text=True, check=True
            )
            wall_s, cpu_s, memory_GB = map(float, end.stdout.split())
            print(f"{title:24} {wall_s:6.1f}  {cpu_s:6.1f}  {memory_GB:.2f}", flush=True)


if __name__ == "__main__":
    main()
