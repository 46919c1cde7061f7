"""One look for all figures, and figures that may fail without taking the page with them."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from html import escape
from io import StringIO
from typing import TYPE_CHECKING, Literal

from cryorefine.report.run_folder import READ_ERRORS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["COLOURS", "Illustration", "Key", "Panel", "attempt", "finish_axes", "render_svg"]

COLOURS = {
    "paper": "#ffffff",
    "ink": "#1c2530",
    "muted": "#66717d",
    "grid": "#dde2e7",
    "blue": "#1f5f92",
    "amber": "#b8701e",
    "green": "#3c7f63",
    "violet": "#77549b",
}
"""Colours by name. In the page each becomes a CSS variable, which a dark screen can change."""

_STYLE = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 8.5,
    "axes.labelsize": 8.5,
    "axes.linewidth": 0.8,
    "axes.edgecolor": COLOURS["muted"],
    "axes.labelcolor": COLOURS["ink"],
    "text.color": COLOURS["ink"],
    "xtick.color": COLOURS["muted"],
    "ytick.color": COLOURS["muted"],
    "xtick.labelcolor": COLOURS["ink"],
    "ytick.labelcolor": COLOURS["ink"],
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "lines.solid_capstyle": "round",
    "lines.solid_joinstyle": "round",
    "svg.fonttype": "none",  # text stays text: it can be searched, and takes the page's font
    "svg.hashsalt": "cryorefine",
}


_EDGE_IN, _RIGHT_IN, _BELOW_IN = 0.04, 0.15, 0.44
"""Margins of figures: about what is measured, right of the axes for half of the last number, and
below them for numbers and a label."""


@dataclass(frozen=True)
class Key:
    """A line of a legend, which the page sets as text so that it wraps.

    Attributes
    ----------
    colour
        Name in :data:`COLOURS`.
    width_pt, dashes
        Of the line; dashes are CSS border styles.
    opacity
        0 to 1.
    """

    label: str
    colour: str
    width_pt: float = 1.4
    dashes: Literal["solid", "dashed", "dotted"] = "solid"
    opacity: float = 1.0


@dataclass(frozen=True)
class Panel:
    """One grey picture with a scale bar.

    Attributes
    ----------
    title
        What is seen, and along which axes.
    data_uri
        The picture as a PNG in base64.
    bar_percent, bar_label
        Length of the scale bar in percent of the width, and what it stands for.
    """

    title: str
    data_uri: str
    bar_percent: float
    bar_label: str


@dataclass(frozen=True)
class Illustration:
    """A figure of the page.

    Attributes
    ----------
    title, caption
        Above and below it; the caption says how to read it.
    svg, panels
        The figure: a drawing as trusted markup, or pictures side by side.
    keys
        Legend of the drawing.
    notes
        What is missing from it, and why.
    """

    title: str
    caption: str = ""
    svg: str = ""
    panels: tuple[Panel, ...] = ()
    keys: tuple[Key, ...] = ()
    notes: tuple[str, ...] = ()


def attempt(title: str, make: Callable[[], Illustration]) -> Illustration:
    """Make a figure; if its data cannot be used, return a note in its place."""
    try:
        return make()
    except READ_ERRORS as error:
        reason = f"{type(error).__name__} {error}" if isinstance(error, KeyError) else str(error)
        return Illustration(title, notes=(f"This figure could not be drawn: {reason}",))


def render_svg(
    name: str,
    size_in: tuple[float, float],
    label: str,
    draw: Callable[["Figure"], None],
    *,
    above_in: float | None = 0.1,
) -> str:
    """Draw a figure as SVG for use within the page.

    Parameters
    ----------
    name
        Unique in the page: the drawing's identifiers start with it.
    size_in
        Width and height in inches, which set the size of text relative to the figure: an inch
        takes about 105 CSS pixels.
    label
        The figure in a few words, for readers who do not see it.
    draw
        Fills an empty figure.
    above_in
        Room above the only axes of a figure, in inches. None: a figure has several, and room for
        each is found by drawing all of it once more.
    """
    import matplotlib
    from matplotlib.figure import Figure

    buffer = StringIO()
    with matplotlib.rc_context(_STYLE):  # type: ignore[arg-type]
        figure = Figure(figsize=size_in, layout="constrained" if above_in is None else None)
        draw(figure)
        if above_in is None:
            _lay_out(figure)
        else:
            _fit(figure, above_in)
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    return _for_page(buffer.getvalue(), name, label)


def _fit(figure: "Figure", above_in: float) -> None:
    """Give a figure's only axes the room beside labels, of which only those of y differ."""
    width_in, height_in = figure.get_size_inches()
    figure.subplots_adjust(
        right=1 - _RIGHT_IN / width_in, bottom=_BELOW_IN / height_in, top=1 - above_in / height_in
    )
    axes = figure.axes[0]
    labels = axes.yaxis.get_tightbbox()
    if labels is not None:
        taken_in = (axes.bbox.x0 - labels.x0) / figure.dpi
        figure.subplots_adjust(left=(taken_in + _EDGE_IN) / width_in)
        # A power of ten that all numbers share stands above them.
        needed_in = (labels.y1 - axes.bbox.y1) / figure.dpi + _EDGE_IN
        figure.subplots_adjust(top=1 - max(above_in, needed_in) / height_in)


def _lay_out(figure: "Figure") -> None:
    """Fit a figure's axes to their labels, once.

    As long as a figure has a layout engine, saving it draws it twice and runs the engine each time,
    which takes as long as drawing.
    """
    engine = figure.get_layout_engine()
    if engine is not None:
        engine.execute(figure)
        figure.set_layout_engine("none")


def _for_page(svg: str, name: str, label: str) -> str:
    """Make a stand-alone SVG part of the page: no prologue, own identifiers, page's colours."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\s+xmlns(:\w+)?="[^"]*"', "", svg).replace("xlink:href", "href")
    view = re.search(r'viewBox="[^"]*"', svg)
    head = f'<svg role="img" aria-label="{escape(label)}" {view.group() if view else ""}>'
    svg = re.sub(r"<svg[^>]*>", lambda _: head, svg, count=1)
    svg = re.sub(r'(\bid="|\bhref="#|url\(#)', rf"\g<1>{name}-", svg)
    for colour, value in COLOURS.items():
        svg = svg.replace(value, f"var(--{colour}, {value})")
    return svg


def finish_axes(axes: "Axes", *, grid: bool = True) -> None:
    """Take away what carries no information."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(length=3, width=0.8)
    if grid:
        axes.grid(color=COLOURS["grid"], linewidth=0.6)
    axes.set_axisbelow(True)
