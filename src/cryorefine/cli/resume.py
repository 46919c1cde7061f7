"""``cryorefine resume``."""

from functools import partial
from pathlib import Path
from typing import Any

import click

from cryorefine.cli.environment import modules_of_a_run
from cryorefine.cli.file_path import FILE_PATH
from cryorefine.cli.options import (
    ALLOW_COMMANDS,
    GroupedCommand,
    given,
    settings_options,
    taken_back,
)
from cryorefine.errors import InputError
from cryorefine.settings import RefineSettings

__all__ = ["command"]


@click.command("resume", cls=GroupedCommand)
@click.argument("run", type=FILE_PATH)
@click.option(
    "--particles",
    type=FILE_PATH,
    help="Another particle file: particles of the run keep their half, and their pose if the file "
    "has none; new ones join.",
)
@click.option(
    "--output",
    type=FILE_PATH,
    help="Go on in this new folder, with a copy of the run; RUN stays as it is.",
)
@click.option("--overwrite", is_flag=True, help="Replace a run that is in --output already.")
@click.option(
    "--keep-above-percentile",
    type=click.FLOAT,
    help="Leave out so many percent (0 to 100) of the particles from now on: the worst of each "
    "defocus group; 0 brings all back.",
)
@click.option(
    "--settings",
    "settings_file",
    type=FILE_PATH,
    help="TOML file with settings; what it does not name stays as it is in the run, and options "
    "given here win over it.",
)
@click.option(
    "--unset",
    multiple=True,
    metavar="NAME",
    help="Take a setting back, for example --unset mask: it is again what it is where nothing is "
    "given. May be given several times.",
)
@click.option(
    "--accept-changed-inputs",
    is_flag=True,
    help="Go on where images, maps or the particle file have changed since the run read them: they "
    "are read anew, and another segment of the run begins.",
)
@click.option("--allow-commands", is_flag=True, help=ALLOW_COMMANDS)
def command(
    run: Path,
    particles: Path | None,
    output: Path | None,
    overwrite: bool,
    settings_file: Path | None,
    unset: tuple[str, ...],
    **options: Any,
) -> None:
    """Continue the refinement in folder RUN from its last whole iteration.

    Without options, with the settings it was started with: the result is that of a run that was
    never stopped, and a run that has ended is left as it is.

    With options, all other settings stay those of the run, whatever their defaults say below;
    --unset takes one back that was given before. A
    run that has ended makes as many iterations again as its settings say, one that was stopped
    makes the rest; --iterations N makes N more in either case. The initial map, its low-pass and
    voxel size, the sign of the images' contrast, and the seed cannot change.
    """
    with modules_of_a_run():
        from cryorefine.cli.run_display import run_and_show
        from cryorefine.run.loop import resume
        from cryorefine.settings import Changes, load_settings

    keep_above_percentile = options.pop("keep_above_percentile")
    accepts_changed_inputs = options.pop("accept_changed_inputs")
    allows_commands = options.pop("allow_commands")
    settings = given(options)
    if particles is not None:
        settings["particles"] = particles
    changes = Changes(
        settings | taken_back(unset, settings),
        of_file={} if settings_file is None else load_settings(settings_file),
        keep_above_percentile=keep_above_percentile,
        accepts_changed_inputs=accepts_changed_inputs,
        allows_commands=allows_commands,
    )
    if overwrite and output is None:
        raise InputError(
            "there is nothing to overwrite", where="--overwrite", do="give --output as well"
        )
    requested = partial(resume, run, changes=changes, target=output, overwrite=overwrite)
    run_and_show(requested, output or run)


settings_options(*(name for name in RefineSettings.model_fields if name != "particles"))(command)
