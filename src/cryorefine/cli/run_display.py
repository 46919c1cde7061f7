"""Run something that fills a run folder, show how it goes, and say where the results are."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from cryorefine.api.progress_display import ProgressDisplay
from cryorefine.errors import shown
from cryorefine.report.build import write_report

__all__ = ["run_and_show"]


def run_and_show(run: Callable[..., dict[str, Any]], output: Path) -> None:
    """Call ``run(listeners=..., reporter=...)`` and print the outcome."""
    with ProgressDisplay() as display:
        summary = run(listeners=(display,), reporter=write_report)
    resolution = summary["resolution_A"]
    unmasked = summary["resolution_unmasked_A"]
    if resolution is None:
        click.echo("resolution  none: the half maps share no signal")
    else:
        beside = f"; unmasked {unmasked:.2f} Å" if unmasked is not None else ""
        used = f"{summary['n_used']} of {summary['n_particles']} particles"
        click.echo(f"resolution  {resolution:.2f} Å ({used}{beside})")
    for name, what in (("set_aside", "set aside"), ("left_out", "left out of the maps")):
        for why, n in summary[name].items():
            click.echo(f"particles   {n} {what}: {shown(why)}")
    if summary["n_not_drawn"]:
        click.echo(f"particles   {summary['n_not_drawn']} not drawn, and in no map")
    for name, what in (
        ("n_fit_nothing", "fit no pose as well as they should: cryorefineFitsNothing in the table"),
        ("n_undecided", "fit several poses alike: see undecided_poses.star"),
    ):
        if summary[name]:
            click.echo(f"particles   {summary[name]} {what}")
    click.echo(
        f"memory      peak {summary['peak_rss_bytes'] / 1e9:.2f} GB "
        f"(predicted {summary['predicted_peak_bytes'] / 1e9:.2f} GB)"
    )
    if summary["device_peak_bytes"] is not None:
        click.echo(
            f"GPU memory  peak {summary['device_peak_bytes'] / 1e9:.2f} GB "
            f"(predicted {summary['device_predicted_peak_bytes'] / 1e9:.2f} GB)"
        )
    click.echo(f"map         {output / 'map.mrc'}")
    click.echo(f"report      {output / 'report.html'}")
