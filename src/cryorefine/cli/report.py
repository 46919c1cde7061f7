"""``cryorefine report``."""

import os
from pathlib import Path

import click

from cryorefine.cli.file_path import FILE_PATH
from cryorefine.errors import InputError

__all__ = ["command"]


@click.command("report")
@click.argument("run", type=FILE_PATH)
def command(run: Path) -> None:
    """Write report.html of the run in folder RUN anew."""
    from cryorefine.io.atomic import write_text
    from cryorefine.report.build import render_report
    from cryorefine.storage.layout import MANIFEST, check_no_links
    from cryorefine.storage.manifest import is_being_filled
    from cryorefine.storage.publication import repair_if_free

    if not os.path.exists(run / MANIFEST):
        raise InputError("no run in this folder", where=str(run), do="give the folder of a run")
    check_no_links(run)
    if not is_being_filled(run):
        repair_if_free(run)
    write_text(run / "report.html", render_report(run))
    click.echo(f"report      {run / 'report.html'}")
