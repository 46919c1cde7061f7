"""``cryorefine restore``."""

from pathlib import Path
from typing import Any

import click

from cryorefine.cli.options import GroupedCommand, given, settings_options
from cryorefine.errors import InputError
from cryorefine.settings.restoration import RestorationSettings

__all__ = ["command"]

_OUR_FILE = "restorations.json"


@click.command("restore", cls=GroupedCommand)
@click.argument("half1", type=click.Path(path_type=Path))
@click.argument("half2", type=click.Path(path_type=Path))
@click.option("--output", type=click.Path(path_type=Path), required=True, help="Folder to fill.")
@click.option("--overwrite", is_flag=True, help="Replace what an earlier call has left in it.")
@click.option(
    "--mask",
    type=click.Path(path_type=Path),
    help="Soft mask, 0 to 1, of where the particle is (default: found in the average).",
)
@click.option(
    "--symmetry",
    default="c1",
    show_default=True,
    help="Of the whole map: --post-align-halves moves only as it allows.",
)
@click.option("--command-shell", is_flag=True, help="Run --post-command in a shell.")
def command(
    half1: Path,
    half2: Path,
    output: Path,
    overwrite: bool,
    mask: Path | None,
    symmetry: str,
    command_shell: bool,
    **options: Any,
) -> None:
    """Process raw half maps HALF1 and HALF2 for looking at; they stay as they are.

    Writes processed half maps and map, FSC of raw and of processed half maps, what was done
    (restorations.json) and pictures (restored.png).
    """
    _check_folder(output, overwrite=overwrite)
    from cryorefine.api import restore
    from cryorefine.engine.threads import use_threads
    from cryorefine.report.processed import what_was_done
    from cryorefine.report.restored import draw_restored

    use_threads(None)
    made = restore.apply(
        half1,
        half2,
        mask,
        symmetry=symmetry,
        progress=lambda title: click.echo(f"restore     {title}"),
        command_shell=command_shell,
        **given(options),
    )
    output.mkdir(parents=True, exist_ok=True)
    made.write(output)
    draw_restored(made, output / "restored.png")
    text, notes = what_was_done(made.record)
    for line in (text, *notes):
        click.echo(f"done        {line}")
    for title, curves in (("raw", made.fsc), ("processed", made.fsc_processed)):
        beside = "" if title == "raw" else "   (no resolution)"
        click.echo(f"FSC 0.143   {curves.resolution_A():7.2f} Å {title} half maps{beside}")
    click.echo(f"map         {output / 'map_processed.mrc'}")


settings_options(*RestorationSettings.model_fields)(command)


def _check_folder(output: Path, *, overwrite: bool) -> None:
    """Refuse a folder that holds anything but what this command has written."""
    if output.exists() and not output.is_dir():
        raise InputError("is a file", where=str(output), do="give a folder with --output")
    if not output.exists() or not any(output.iterdir()):
        return
    if not (output / _OUR_FILE).exists() or (output / "settings.toml").exists():
        raise InputError(
            "the folder holds something else",
            where=str(output),
            do="give a new folder with --output",
        )
    if not overwrite:
        raise InputError(
            "the folder holds processed maps already",
            where=str(output),
            do="say --overwrite to replace them, or give another --output",
        )
