"""``cryorefine resume``."""

from functools import partial
from pathlib import Path
from typing import Any

import click

from cryorefine.cli.file_path import FILE_PATH
from cryorefine.cli.options import ALLOW_COMMANDS, GroupedCommand, given, settings_options
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
    "--keep-above-percentile",
    type=click.FLOAT,
    help="Leave out so many percent (0 to 100) of the particles from now on: the worst of each "
    "defocus group; 0 brings all back.",
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
    keep_above_percentile: float | None,
    accept_changed_inputs: bool,
    allow_commands: bool,
    **options: Any,
) -> None:
    """Continue the refinement in folder RUN from its last whole iteration.

    Without options, with the settings it was started with: the result is that of a run that was
    never stopped, and a run that has ended is left as it is.

    With options, all other settings stay those of the run, whatever their defaults say below. A
    run that has ended makes as many iterations again as its settings say, one that was stopped
    makes the rest; --iterations N makes N more in either case. The initial map, its low-pass and
    voxel size, the sign of the images' contrast, and the seed cannot change.
    """
    from cryorefine.cli.run_display import run_and_show
    from cryorefine.run.loop import resume

    changes = given(options)
    if particles is not None:
        changes["particles"] = particles
    requested = partial(
        resume,
        run,
        changes=changes,
        keep_above_percentile=keep_above_percentile,
        accept_changed_inputs=accept_changed_inputs,
        allow_commands=allow_commands,
    )
    run_and_show(requested, run)


settings_options(*(name for name in RefineSettings.model_fields if name != "particles"))(command)
