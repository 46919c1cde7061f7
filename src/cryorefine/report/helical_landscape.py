"""What a search for a helix found: landscape.png, landscape.html and helix.json."""

import base64
from html import escape
from io import BytesIO
from pathlib import Path
from typing import Any

from cryorefine.geometry.helix import Helix
from cryorefine.helices.filament import FilamentAxis
from cryorefine.helices.helical_search import Candidate, HelicalSearch
from cryorefine.helices.two_fold import NEEDED, TwoFold
from cryorefine.io.atomic import atomic_path, write_text
from cryorefine.storage.json_record import write_record

__all__ = ["axes_in_words", "axis_in_words", "draw_landscape", "write_helical_report"]

_SHOWN = 8
"""Runners-up in the table and the figure: what follows is mostly every n-th subunit."""

_CONTRAST = 99.9
"""Percentile of the scores that is the brightest: single peaks would leave all else dark."""


def write_helical_report(search: HelicalSearch, folder: Path) -> None:
    """Write the landscape as a picture, a page with tables, and a record of all numbers.

    Parameters
    ----------
    folder
        Exists; files of these names are replaced.
    """
    picture = draw_landscape(search)
    with atomic_path(folder / "landscape.png") as temporary:
        temporary.write_bytes(picture)
    write_text(folder / "landscape.html", _page(search, picture))
    write_record(folder / "helix.json", _record(search))


def axes_in_words(across: TwoFold, helix: Helix) -> str:
    """Return a sentence on the two-fold axes across a helix."""
    how = f"agreement {across.agreement:.2f}, {NEEDED:g} is needed"
    where = f"the nearest {across.angle_deg:.2f}° from x, {across.height_A:+.2f} Å along z"
    if not across.is_supported:
        return f"no two-fold axes ({how}): the helix is polar as far as this detail tells"
    if not helix.is_dihedral:
        return f"two-fold axes, {where} ({how}): --symmetry d{helix.fold} imposes them"
    return f"two-fold axes, {where} ({how}): turned onto x and imposed"


def axis_in_words(axis: FilamentAxis) -> str:
    """Return a sentence on where the axis of a filament was found, empty where that is z."""
    if axis == FilamentAxis():
        return ""
    x, y = axis.offset_A
    return (
        f"the axis lies {axis.distance_A:.1f} Å off centre ({x:.1f}, {y:.1f} Å) and "
        f"{axis.tilt_deg:.1f}° off z: the map was moved so that it is z, as symmetrised.mrc lies"
    )


def draw_landscape(search: HelicalSearch) -> bytes:
    """Return the landscape as a PNG, with the best point and its runners-up.

    Below it is that of two-fold axes across, where they were looked for.
    """
    import numpy as np
    from matplotlib.figure import Figure

    land = search.landscape
    across = search.two_fold
    figure = Figure(figsize=(9.0, 5.0 if across is None else 7.0), dpi=120, layout="constrained")
    axes = figure.add_subplot() if across is None else figure.subplots(2, height_ratios=(5, 2))[0]
    top = float(np.percentile(land.score, _CONTRAST))
    shown = axes.pcolormesh(
        land.twist_deg, land.rise_A, land.score, vmin=0, vmax=max(top, 1e-6), cmap="magma",
        shading="nearest", rasterized=True,
    )  # fmt: skip
    figure.colorbar(shown, ax=axes, label="score (σ of copies at wrong places)")
    for candidate in search.runners_up[:_SHOWN]:
        axes.plot(candidate.helix.twist_deg, candidate.helix.rise_A, "o", mfc="none", mec="#7fd4ff")
    best = search.best.helix
    axes.plot(best.twist_deg, best.rise_A, "s", mfc="none", mec="#7fff9b", ms=10)
    axes.set_xlim(land.twist_deg[0], land.twist_deg[-1])
    axes.set_ylim(land.rise_A[0], land.rise_A[-1])
    axes.set_xlabel("twist (°)")
    axes.set_ylabel("rise (Å)")
    if across is not None:
        _draw_axes(figure, figure.axes[1], across)
    buffer = BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def _draw_axes(figure: Any, axes: Any, across: TwoFold) -> None:
    """Draw the score of each two-fold axis across."""
    shown = axes.pcolormesh(
        across.angles_deg, across.heights_A, across.scores, vmin=0, cmap="magma",
        shading="nearest", rasterized=True,
    )  # fmt: skip
    figure.colorbar(shown, ax=axes, label="score")
    axes.plot(across.angle_deg, across.height_A, "s", mfc="none", mec="#7fff9b", ms=10)
    axes.set_xlabel("angle of a two-fold axis across, from x (°)")
    axes.set_ylabel("height (Å)")


def _record(search: HelicalSearch) -> dict[str, Any]:
    ranges, across = search.ranges, search.two_fold
    found = {} if across is None else {"two_fold": _axes_record(across)}
    return {
        **found,
        "axis": {
            "offset_A": list(search.axis.offset_A),
            "slope": list(search.axis.slope),
            "tilt_deg": search.axis.tilt_deg,
        },
        "is_dihedral": search.best.helix.is_dihedral,
        "twist_deg": search.best.helix.twist_deg,
        "rise_A": search.best.helix.rise_A,
        "fold": search.best.helix.fold,
        "twist_uncertainty_deg": search.twist_uncertainty_deg,
        "rise_uncertainty_A": search.rise_uncertainty_A,
        "score": search.best.score,
        "correlation": search.best.correlation,
        "landscape_highest": float(search.landscape.score.max()),
        "landscape_without_helix": search.threshold,
        "halves": [_entry(c) for c in search.halves],
        "runners_up": [_entry(c) for c in search.runners_up],
        "alternatives": [_entry(c) for c in search.alternatives],
        "twist_range_deg": list(ranges.twist_deg),
        "rise_range_A": list(ranges.rise_A),
        "radius_A": ranges.radius_A,
        "resolution_A": ranges.resolution_A,
    }


def _axes_record(across: TwoFold) -> dict[str, Any]:
    return {
        "is_supported": across.is_supported,
        "agreement": across.agreement,
        "score": across.score,
        "angle_deg": across.angle_deg,
        "height_A": across.height_A,
    }


def _entry(candidate: Candidate) -> dict[str, Any]:
    helix = candidate.helix
    found = {
        "twist_deg": helix.twist_deg,
        "rise_A": helix.rise_A,
        "fold": helix.fold,
        "score": candidate.score,
        "correlation": candidate.correlation,
    }
    return {**found, "relation": candidate.relation} if candidate.relation else found


def _page(search: HelicalSearch, picture: bytes) -> str:
    best, ranges = search.best.helix, search.ranges
    moved = axis_in_words(search.axis)
    image = base64.b64encode(picture).decode("ascii")
    hand = "right-handed" if best.twist_deg > 0 else "left-handed"
    parts = [
        "<!doctype html><html lang='en'><meta charset='utf-8'><title>Helical search</title>",
        "<style>body{font:15px sans-serif;max-width:60em;margin:2em auto;padding:0 1em}"
        "td,th{padding:.2em .8em;text-align:right}th:last-child,td:last-child{text-align:left}"
        "img{max-width:100%}</style>",
        "<h1>Helical search</h1>",
        f"<p>Twist {best.twist_deg:.3f} ± {search.twist_uncertainty_deg:.3f}° ({hand}), rise "
        f"{best.rise_A:.3f} ± {search.rise_uncertainty_A:.3f} Å (95 %), C{best.fold}. Detail to "
        f"{ranges.resolution_A:.2f} Å within {ranges.radius_A:.0f} Å of the axis. The landscape's "
        f"highest score is {float(search.landscape.score.max()):.1f}; maps without a helix come up "
        f"to {search.threshold:.1f} in one case of a hundred.</p>",
        f"<img alt='score by twist and rise' src='data:image/png;base64,{image}'>",
        f"<p>{moved[0].upper()}{moved[1:]}.</p>" if moved else "",
        "<p>Green square: the best. Blue circles: runners-up. The landscape counts the copies of "
        "the first steps; scores in the tables count all of them.</p>",
        ""
        if search.two_fold is None
        else f"<p>Across: {axes_in_words(search.two_fold, best)}.</p>",
        _table("Each half alone", search.halves),
        _table("Runners-up", search.runners_up[:_SHOWN]),
        _table("Easily taken for it", search.alternatives),
        "</html>\n",
    ]
    return "\n".join(parts)


def _table(title: str, candidates: tuple[Candidate, ...]) -> str:
    if not candidates:
        return ""
    rows = "".join(
        f"<tr><td>{c.helix.twist_deg:.3f}</td><td>{c.helix.rise_A:.3f}</td>"
        f"<td>C{c.helix.fold}</td><td>{c.score:.1f}</td><td>{c.correlation:.3f}</td>"
        f"<td>{escape(c.relation)}</td></tr>"
        for c in candidates
    )
    return (
        f"<h2>{title}</h2><table><tr><th>twist (°)</th><th>rise (Å)</th><th>axis</th>"
        f"<th>score</th><th>correlation</th><th></th></tr>{rows}</table>"
    )
