"""``cryorefine helical-search``."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cryorefine.cli.file_path import FILE_PATH
from cryorefine.storage.result_folder import ResultFolder

if TYPE_CHECKING:
    from cryorefine.helices.helical_search import HelicalSearch

__all__ = ["command"]

_FILES = ("landscape.png", "landscape.html", "symmetrised.mrc", "helix.json")


@click.command("helical-search")
@click.argument("map1", type=FILE_PATH)
@click.argument("map2", type=FILE_PATH, required=False)
@click.option("--output", type=FILE_PATH, required=True, help="New folder.")
@click.option(
    "--twist-range-deg",
    type=(float, float),
    default=(-180.0, 180.0),
    show_default=True,
    help="Lowest and highest twist; positive is right-handed.",
)
@click.option(
    "--rise-range-angstrom",
    type=(float, float),
    default=(1.0, 40.0),
    show_default=True,
    help="Lowest and highest rise.",
)
@click.option(
    "--symmetry",
    default="c1",
    show_default=True,
    help="Of the filament: cN, a rotation axis along z; or dN, two-fold axes across, too, which "
    "are imposed; a map that does not show them is refused.",
)
@click.option(
    "--radius-angstrom", type=float, help="Radius of the filament (default: found in the map)."
)
@click.option(
    "--resolution-angstrom",
    type=float,
    help="Detail to use (default: the FSC of two half maps; 6 Å of one map).",
)
def command(map1: Path, map2: Path | None, output: Path, **options: Any) -> None:
    """Find twist and rise of MAP1, a filament about along z, or of half maps MAP1 and MAP2.

    An axis off centre, or tilted by up to 25°, is found, and the map moved so that it is z.
    Says whether there are two-fold axes across. Writes landscape.png and landscape.html,
    helix.json, and symmetrised.mrc, the map (or the average of both) with its helix imposed. A map
    that is no helix, and a best value at the border of its range, are refused.
    """
    results = ResultFolder(output, "helical-search", _FILES)
    results.check_new()
    from cryorefine.api.helices import searched, symmetrised
    from cryorefine.api.progress_display import ProgressDisplay
    from cryorefine.api.volume import as_volume, require_same_grid
    from cryorefine.engine.threads import use_threads
    from cryorefine.report.helical_landscape import write_helical_report

    use_threads(None)
    maps = [as_volume(map1, str(map1))]
    if map2 is not None:
        maps.append(as_volume(map2, str(map2)))
        require_same_grid(maps[1], str(map2), maps[0], str(map1))
    with ProgressDisplay() as display:
        found = searched(
            maps,
            twist_deg=options["twist_range_deg"],
            rise_A=options["rise_range_angstrom"],
            symmetry=options["symmetry"],
            radius_A=options["radius_angstrom"],
            resolution_A=options["resolution_angstrom"],
            listener=display,
        )
    imposed = symmetrised(maps, found)
    with results.filled(results.check_new) as folder:
        imposed.write(folder / "symmetrised.mrc")
        write_helical_report(found, folder)
    _tell(found)
    click.echo(f"landscape {output / 'landscape.html'}")


def _tell(found: "HelicalSearch") -> None:
    """Print what was found."""
    from cryorefine.report.helical_landscape import axes_in_words, axis_in_words

    helix = found.best.helix
    hand = "right" if helix.twist_deg > 0 else "left"
    click.echo(
        f"twist {helix.twist_deg:9.3f} ± {found.twist_uncertainty_deg:.3f}° ({hand}-handed)\n"
        f"rise  {helix.rise_A:9.3f} ± {found.rise_uncertainty_A:.3f} Å\n"
        f"detail to {found.ranges.resolution_A:.2f} Å within {found.ranges.radius_A:.0f} Å"
    )
    for other in found.alternatives:
        if other.relation.startswith("every second"):
            click.echo(
                f"{other.relation}: {other.helix.twist_deg:.3f}°, {other.helix.rise_A:.3f} Å"
            )
    moved = axis_in_words(found.axis)
    if moved:
        click.echo(f"moved     {moved}")
    if found.two_fold is not None:
        click.echo(f"across    {axes_in_words(found.two_fold, helix)}")
    for number, half in enumerate(found.halves, 1):
        click.echo(f"half {number} {half.helix.twist_deg:9.3f}°, {half.helix.rise_A:.3f} Å")
    for other in (*found.alternatives, *found.runners_up):
        if other.score > found.best.score:
            click.echo(
                f"warning: {other.helix.twist_deg:.3f}°, {other.helix.rise_A:.3f} Å, "
                f"C{other.helix.fold} scores higher",
                err=True,
            )
