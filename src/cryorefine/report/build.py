"""The report of a run: one HTML file that opens offline."""

import os
import time
import warnings
from functools import partial
from pathlib import Path
from typing import Any

from cryorefine.errors import InputError
from cryorefine.io.atomic import write_text
from cryorefine.report.curves import draw_final_curves, draw_iteration_curves
from cryorefine.report.defocus_groups import draw_defocus_groups
from cryorefine.report.directions import draw_directions
from cryorefine.report.header import headline, messages, run_state
from cryorefine.report.histograms import (
    draw_accuracy,
    draw_angle_change,
    draw_correlation,
    draw_percentile,
    draw_score,
    draw_shift,
    draw_weight,
)
from cryorefine.report.illustration import attempt
from cryorefine.report.iterations import (
    columns,
    draw_counts,
    draw_jumps,
    draw_resolution,
    draw_turn,
    table_rows,
)
from cryorefine.report.number_formats import amount
from cryorefine.report.origin import input_files, provenance, setting_rows
from cryorefine.report.pictures import show_projections, show_slices
from cryorefine.report.processed import figures_of_processed
from cryorefine.report.run_folder import RunFolder

__all__ = ["render_report", "write_report"]

_FIGURES = {
    "map": (("Central slices", show_slices), ("Projections", show_projections)),
    "fsc": (
        ("Final curves", draw_final_curves),
        ("Corrected curve by iteration", draw_iteration_curves),
    ),
    "orientations": (("Viewing directions", draw_directions),),
    "progress": (
        ("Resolution", draw_resolution),
        ("Turn of the poses", draw_turn),
        ("Particles that jumped", draw_jumps),
        ("Particles by iteration", draw_counts),
    ),
    "particles": (
        ("Score", draw_score),
        ("Correlation", draw_correlation),
        ("Accuracy of orientations", draw_accuracy),
        ("Shifts", draw_shift),
        ("Change of orientations", draw_angle_change),
        ("Weights", draw_weight),
        ("Percentiles", draw_percentile),
    ),
    "groups": (("Correlation by defocus group", draw_defocus_groups),),
}

# These say nothing of one iteration alone.
_BY_ITERATION = {
    "Corrected curve by iteration",
    "Resolution",
    "Turn of the poses",
    "Particles that jumped",
    "Particles by iteration",
}


def render_report(run: Path) -> str:
    """Return the page of a run folder.

    Raises
    ------
    InputError
        If there is no such folder, or it holds no run.
    """
    if not any(os.path.exists(run / name) for name in ("events.jsonl", "settings.toml")):
        raise InputError("holds no run", where=str(run), do="give the folder of a refinement")
    return _render(_content(RunFolder(run)))


def write_report(run: str | os.PathLike[str]) -> None:
    """Write ``report.html`` of a run folder from what the folder holds.

    The page is one file without any reference to another. It can be rebuilt at any time, during
    the run and after it; before the first iteration it says that the run has begun. A figure whose
    data are missing or damaged is replaced by a note.

    Parameters
    ----------
    run
        The run folder.

    Raises
    ------
    InputError
        If there is no such folder, or it holds no run.

    Warns
    -----
    RuntimeWarning
        If the page cannot be written, which must not end a run.
    """
    run = Path(run)
    page = render_report(run)
    try:
        write_text(run / "report.html", page)
    except OSError as error:
        warnings.warn(f"report.html could not be written: {error}", RuntimeWarning, stacklevel=2)


def _content(run: RunFolder) -> dict[str, Any]:
    """Return everything that the template shows."""
    now = time.time()
    figures = {}
    if run.iterations:
        is_single = len(run.iterations) == 1
        figures = {
            section: [
                attempt(title, partial(make, run))
                for title, make in entries
                if not (is_single and title in _BY_ITERATION)
            ]
            for section, entries in _FIGURES.items()
        }
        figures["processed"] = [
            attempt(title, partial(make, run)) for title, make in figures_of_processed(run)
        ]
    facts = headline(run)
    content = {
        "name": run.path.resolve().name,
        "kind": "reconstruction" if run.settings.get("alignment") == "none" else "refinement",
        "state": run_state(run, now),
        "main_facts": facts[:2],
        "facts": facts[2:],
        "warnings": messages(run),
        "figures": figures,
        "bfactor": _known(run, "bfactor_A2", 3),
        "coverage": _known(run, "coverage", 2),
        "columns": columns(run),
        "rows": table_rows(run),
        "settings": setting_rows(run),
        "provenance": provenance(run),
        "inputs": input_files(run),
        "written": time.strftime("%Y-%m-%d %H:%M:%S %z", time.localtime(now)),
    }
    content["problems"] = run.problems  # after everything has been read
    return content


def _known(run: RunFolder, name: str, digits: int) -> str:
    """Return a number of the summary in words; empty if there is none."""
    value = run.summary.get(name)
    return "" if value is None else amount(value, digits)


def _render(content: dict[str, Any]) -> str:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("cryorefine.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html").render(content)
