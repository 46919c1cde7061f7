"""``cryorefine symmetry``: find the axes of a map, convert maps and poses to other axes."""

from pathlib import Path

import click

from cryorefine.cli.file_path import FILE_PATH

__all__ = ["command"]


@click.group("symmetry")
def command() -> None:
    """Find the symmetry axes of a map; convert maps and poses to other axes.

    Names of point groups, in upper or lower case: cN; dN with a 2-fold on x, or dNy with one on y
    (cryoSPARC's); t with a 3-fold on z, or t222 with 2-folds on x, y and z (cryoSPARC's); o; i1,
    i2 (= i), i3 and i4.
    """


@command.command("convert")
@click.argument("file", type=FILE_PATH)
@click.option("--from", "from_", required=True, help="Setting that the axes have, such as i2.")
@click.option("--to", required=True, help="Setting that they are to have, such as i1.")
@click.option("--output", type=FILE_PATH, required=True, help="Map or particle file to write.")
@click.option("--overwrite", is_flag=True, help="Replace the file if it exists.")
def convert(file: Path, from_: str, to: str, output: Path, overwrite: bool) -> None:
    """Turn the map FILE, or the poses of a STAR FILE, to another setting of its group.

    Where the rotation takes axes to axes, voxels are moved; else the map's Fourier series is
    evaluated.
    """
    from cryorefine.io.output_path import check_output_file

    check_output_file(output, overwrite=overwrite)
    from cryorefine.api import symmetry
    from cryorefine.api.particles import read_particles
    from cryorefine.api.volume import read_volume

    is_table = file.suffix.lower() == ".star"
    given = read_particles(file) if is_table else read_volume(file)
    symmetry.convert(given, from_, to).write(output)
    turn = symmetry.rotation(from_, to)
    click.echo("\n".join("rotation  " + " ".join(f"{v:9.6f}" for v in row) for row in turn + 0.0))
    click.echo(f"written   {output}")
