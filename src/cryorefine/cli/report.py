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
    from cryorefine.storage.layout import MANIFEST, check_no_links
    from cryorefine.storage.manifest import is_being_filled
    from cryorefine.storage.publication import repair_if_free

    if not (run / MANIFEST).exists():
        raise InputError("no run in this folder", where=str(run), do="give the folder of a run")
    check_no_links(run)
    if not is_being_filled(run):
        repair_if_free(run)
    write_report(run)
    click.echo(f"report      {run / 'report.html'}")
