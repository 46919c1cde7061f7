"""``cryorefine export``."""

from pathlib import Path
from typing import Any

import click

from cryorefine.cli.file_path import FILE_PATH

__all__ = ["command"]


@click.command("export")
@click.argument("run", type=FILE_PATH)
@click.option(
    "--for",
    "program",
    type=click.Choice(["cryodrgn", "recovar"]),
    required=True,
    help="Program that goes on.",
)
@click.option("--output", type=FILE_PATH, required=True, help="Folder to fill.")
@click.option("--overwrite", is_flag=True, help="Replace what an earlier call has left in it.")
def command(run: Path, program: Any, output: Path, overwrite: bool) -> None:
    """Write the particles of folder RUN for cryoDRGN or recovar.

    Those that are in its maps are written: poses.pkl, ctf.pkl and particles.star, which lists the
    images where they are. The last line is the command that begins with them.
    """
    from cryorefine.interop.export import export

    done = export(run, program, output, overwrite=overwrite)
    left_out = f" ({done.n_left_out} without pose or in no map)" if done.n_left_out else ""
    click.echo(f"particles   {done.n_particles}{left_out}")
    for text in done.not_held:
        click.echo(f"not held    {text}")
    for path in done.files:
        click.echo(f"written     {path}")
    click.echo(f"mask        {done.mask}")
    click.echo(f"half maps   {done.half_maps[0]} {done.half_maps[1]}")
    click.echo(f"next        {done.command}")
