"""``cryorefine refine``."""

from functools import partial
from pathlib import Path
from typing import Any

import click

from cryorefine.cli.environment import modules_of_a_run
from cryorefine.cli.file_path import FILE_PATH
from cryorefine.cli.options import ALLOW_COMMANDS, GroupedCommand, given, settings_options
from cryorefine.settings import RefineSettings

__all__ = ["command"]


@click.command("refine", cls=GroupedCommand)
@click.argument("particles", type=FILE_PATH, required=False)
@click.option("--output", type=FILE_PATH, required=True, help="Folder for the run.")
@click.option(
    "--settings",
    "settings_file",
    type=FILE_PATH,
    help="TOML file with settings, as found in a run folder; options given here win over it.",
)
@click.option("--overwrite", is_flag=True, help="Replace a run that is in the folder already.")
@click.option("--allow-commands", is_flag=True, help=ALLOW_COMMANDS)
def command(
    particles: Path | None,
    output: Path,
    settings_file: Path | None,
    overwrite: bool,
    allow_commands: bool,
    **options: Any,
) -> None:
    """Refine PARTICLES (RELION, cryoSPARC, Xmipp, cisTEM or cryoDRGN) against an initial map.

    Two half sets are refined apart from each other. The run folder gets the map, raw half maps,
    FSC and poses with quality columns after every iteration; report.html is
    renewed while it runs.
    """
    with modules_of_a_run():
        from cryorefine.cli.run_display import run_and_show
        from cryorefine.run.commands import check_commands
        from cryorefine.run.loop import refine
        from cryorefine.settings import load_settings, make_settings

    values: dict[str, Any] = {}
    where = ""
    if settings_file is not None:
        values, where = load_settings(settings_file), str(settings_file)
    options = given(options)
    values.update(options)
    if particles is not None:
        values["particles"] = particles
    settings = make_settings(values, where=where)
    for shown in check_commands(settings, options, is_allowed=allow_commands, where=where):
        click.echo(f"command     {shown}")
    run_and_show(partial(refine, settings, output, overwrite=overwrite), output)


settings_options(*(name for name in RefineSettings.model_fields if name != "particles"))(command)
