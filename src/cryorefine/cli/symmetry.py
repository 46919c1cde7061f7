"""``cryorefine symmetry``: find the axes of a map, convert maps and poses to other axes."""

from pathlib import Path
from typing import Any

import click

from cryorefine.cli.file_path import FILE_PATH
from cryorefine.errors import InputError

__all__ = ["command"]

_SHOWN = 8  # candidates, the best first, where all groups are looked for


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


@command.command("find")
@click.argument("map1", type=FILE_PATH)
@click.argument("map2", type=FILE_PATH, required=False)
@click.option("--output", type=FILE_PATH, help="New folder for the map in its axes.")
@click.option("--groups", help='Names to look for, such as "c7 d7" (default: all).')
@click.option(
    "--max-fold",
    type=click.IntRange(2, 24),
    default=12,
    show_default=True,
    help="Highest n of Cn and Dn that are looked for.",
)
@click.option(
    "--resolution-angstrom",
    type=float,
    help="Finest detail to compare (default: what the maps have; of a single map to 8 Å).",
)
def find(
    map1: Path,
    map2: Path | None,
    output: Path | None,
    groups: str | None,
    max_fold: int,
    resolution_angstrom: float | None,
) -> None:
    """Find the symmetry axes of MAP1, or of half maps MAP1 and MAP2.

    No orientation is assumed. Says of every group how well its axes agree with the map (1 for a
    symmetric map, 0 for none) and whether the map supports it. With --output the map is turned to
    the axes of the largest group that it supports: map_oriented.mrc, and symmetry.json.
    """
    if output is not None:
        from cryorefine.io.output_path import is_there

        if is_there(output) and any(output.iterdir()):
            raise InputError("exists and is not empty", where=str(output), do="give a new --output")
    from cryorefine.api import symmetry
    from cryorefine.api.volume import Volume, read_volume

    maps = [read_volume(path) for path in (map1, map2) if path is not None]
    names = None if groups is None else groups.replace(",", " ").split()
    how: dict[str, Any] = {"groups": names, "max_fold": max_fold}
    found = symmetry.find(*maps, resolution_angstrom=resolution_angstrom, **how)
    for candidate in found.candidates[:_SHOWN] if names is None else found.candidates:
        verdict = "yes" if candidate.is_supported else "no "
        click.echo(
            f"{candidate.name:5} {verdict}  agreement {candidate.agreement:5.2f}   "
            f"{candidate.reason}"
        )
    click.echo(f"symmetry  {found.name}")
    click.echo("centre    " + " ".join(f"{v:.2f}" for v in found.centre_A) + " Å from the origin")
    click.echo(f"detail    {found.resolution_A:.1f} Å within {found.radius_A:.0f} Å")
    if output is None:
        return
    from cryorefine.storage.json_record import write_record
    from cryorefine.symmetry.find import record_of

    output.mkdir(parents=True, exist_ok=True)
    write_record(output / "symmetry.json", record_of(found))
    if found.name == "c1":
        click.echo("no map    is written: it shows none of these groups")
        return
    average = Volume(sum(m.data / len(maps) for m in maps), maps[0].voxel_A)
    symmetry.orient(average, found).write(output / "map_oriented.mrc")
    for number, half in enumerate(maps if map2 is not None else (), 1):
        symmetry.orient(half, found).write(output / f"half{number}_oriented.mrc")
    click.echo(f"map       {output / 'map_oriented.mrc'}")
