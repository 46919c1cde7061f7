"""``cryorefine restore``."""

from functools import partial
from pathlib import Path
from typing import Any

import click

from cryorefine.cli.file_path import FILE_PATH
from cryorefine.cli.options import GroupedCommand, given, settings_options
from cryorefine.errors import InputError
from cryorefine.io.output_path import is_there
from cryorefine.settings.restoration import RestorationSettings
from cryorefine.storage.result_folder import ResultFolder

__all__ = ["command"]

_FILES = (
    "map_processed.mrc",
    "half1_processed.mrc",
    "half2_processed.mrc",
    "disagreement.mrc",
    "mask.mrc",
    "fsc.star",
    "fsc_processed.star",
    "restored.png",
    "restorations.json",
)


@click.command("restore", cls=GroupedCommand)
@click.argument("half1", type=FILE_PATH)
@click.argument("half2", type=FILE_PATH)
@click.option("--output", type=FILE_PATH, required=True, help="Folder to fill.")
@click.option("--overwrite", is_flag=True, help="Replace what an earlier call has left in it.")
@click.option(
    "--mask",
    type=FILE_PATH,
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
    results = ResultFolder(output, "restore", _FILES)
    check = partial(_check_folder, results, overwrite=overwrite)
    check()
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
    with results.filled(check) as folder:
        made.write(folder)
        draw_restored(made, folder / "restored.png")
    text, notes = what_was_done(made.record)
    for line in (text, *notes):
        click.echo(f"done        {line}")
    for title, curves in (("raw", made.fsc), ("processed", made.fsc_processed)):
        beside = "" if title == "raw" else "   (no resolution)"
        click.echo(f"FSC 0.143   {curves.resolution_A():7.2f} Å {title} half maps{beside}")
    click.echo(f"map         {output / 'map_processed.mrc'}")


settings_options(*RestorationSettings.model_fields)(command)


def _check_folder(results: ResultFolder, *, overwrite: bool) -> None:
    """Refuse a folder that holds anything but what this command has written."""
    output = results.path
    if not is_there(output) or not results.others() or results.is_unfinished:
        return
    if not (output / _FILES[-1]).exists() or (output / "settings.toml").exists():
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
