"""``cryorefine report``."""

from pathlib import Path

import click

from cryorefine.errors import InputError

__all__ = ["command"]


@click.command("report")
@click.argument("run", type=click.Path(path_type=Path))
def command(run: Path) -> None:
    """Write report.html of the run in folder RUN anew."""
    from cryorefine.report.build import write_report

    if not (run / "manifest.json").exists():
        raise InputError("no run in this folder", where=str(run), do="give the folder of a run")
    write_report(run)
    click.echo(f"report      {run / 'report.html'}")
