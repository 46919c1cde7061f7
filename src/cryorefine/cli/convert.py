"""``cryorefine convert``."""

from pathlib import Path
from typing import Any

import click

from cryorefine.cli.file_path import FILE_PATH
from cryorefine.errors import InputError

__all__ = ["command"]


@click.command("convert")
@click.argument("source", metavar="IN", type=FILE_PATH)
@click.argument("target", metavar="OUT", type=FILE_PATH)
@click.option(
    "--to",
    type=click.Choice(["relion", "cryosparc", "xmipp", "cistem", "cryodrgn"]),
    help="Format of OUT (default: by its suffix).",
)
@click.option(
    "--symmetry",
    metavar="NAME",
    help="Point group of the particle, as IN's program calls it: poses are turned to the axes that "
    "OUT's program has for it (default: poses are left as they are).",
)
@click.option("--image-root", type=FILE_PATH, help="Folder that the image stacks were moved to.")
@click.option("--ctf/--no-ctf", default=True, help="Whether the images have contrast transfer.")
@click.option(
    "--verify",
    is_flag=True,
    help="Reconstruct up to 500 particles from both files, and compare the maps: exit code 2 where "
    "their FSC is not 1.",
)
@click.option("--overwrite", is_flag=True, help="Replace files that are there.")
def command(source: Path, target: Path, **options: Any) -> None:
    """Write the particles of IN in the format of OUT.

    Formats are RELION STAR, cryoSPARC .cs and .csg, Xmipp .xmd, cisTEM .star (with --to cistem) and
    cryoDRGN poses.pkl. What OUT cannot hold is listed, and so is what of IN is not understood.
    Images stay where they are.
    """
    from cryorefine.conversion import ConversionOptions, convert_files

    done = convert_files(source, target, ConversionOptions(**options))
    click.echo(f"read        {done.n_particles} particles of {source} ({done.source_format})")
    for text in done.remarks:
        click.echo(f"note        {text}")
    for text in done.not_understood:
        click.echo(f"not read    {text}")
    for text in done.not_held:
        click.echo(f"not held    {text}")
    if done.axes:
        click.echo(f"axes        {done.axes}")
    for path in done.files:
        if path.exists():
            click.echo(f"written     {path} ({done.target_format})")
    agreement = done.agreement
    if agreement is None:
        return
    text = f"FSC of both maps {agreement.min_fsc:.4f} or more ({agreement.n_particles} images)"
    click.echo(f"verified    {text}")
    if not agreement.is_same:
        raise InputError(
            f"its map and that of {source} agree to an FSC of {agreement.min_fsc:.3f} only at "
            f"{agreement.at_A:.3g} Å",
            where=str(target),
            do="look at what it does not hold",
        )
