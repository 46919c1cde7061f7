"""``cryorefine resume``."""

from functools import partial
from pathlib import Path

import click

__all__ = ["command"]


@click.command("resume")
@click.argument("run", type=click.Path(path_type=Path))
def command(run: Path) -> None:
    """Continue the refinement in folder RUN from its last whole iteration.

    With the settings it was started with; the result is that of a run that was never stopped.
    """
    from cryorefine.cli.run_display import run_and_show
    from cryorefine.refine.run import resume

    run_and_show(partial(resume, run), run)
