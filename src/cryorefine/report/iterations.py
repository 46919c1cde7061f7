"""Figures and table of how the run went on."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from cryorefine.report.illustration import COLOURS, Illustration, Key, finish_axes, render_svg
from cryorefine.report.number_formats import amount, angstrom, count, duration
from cryorefine.report.run_folder import Iteration, RunFolder

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["columns", "draw_counts", "draw_jumps", "draw_resolution", "draw_turn", "table_rows"]

_SIZE_IN = (3.45, 2.6)
"""Of a figure, in inches, as the page shows it."""

_MIN_TURN = 1e-3
"""Smallest rotation shown, over the largest: smaller ones are rounding."""

_MODES = "Filled points are global searches, open ones local."
_COLUMNS = (
    "Iteration",
    "Search",
    "Resolution",
    "Unmasked",
    "Poses compared at",
    "Median turn",
    "Pose accuracy",
    "Aligned",
    "In the maps",
    "Left out",
    "CPU time",
)
"""Heads of the table of iterations."""

_OF_HELICES = ("Twist", "Rise")
"""Those of runs that imposed a helix, after the others."""


def columns(run: RunFolder) -> tuple[str, ...]:
    """Return the heads of the table of iterations."""
    return (*_COLUMNS, *_OF_HELICES) if _has_helix(run) else _COLUMNS


def table_rows(run: RunFolder) -> list[tuple[str, ...]]:
    """Return one row of texts per iteration, as :func:`columns` says."""
    has_helix = _has_helix(run)
    return [
        (
            str(it.number),
            it.mode or "–",
            angstrom(it.resolution_A),
            angstrom(it.resolution_unmasked_A),
            "–" if it.align_resolution_A is None else angstrom(it.align_resolution_A),
            _degrees(it.median_turn_deg),
            _degrees(it.median_sigma_rotation_deg),
            count(it.n_aligned),
            count(it.n_used),
            count(it.n_not_used),
            duration(it.spent_cpu_s),
            *(_helix(it) if has_helix else ()),
        )
        for it in run.iterations
    ]


def _has_helix(run: RunFolder) -> bool:
    return any(it.twist_deg is not None for it in run.iterations)


def _helix(it: Iteration) -> tuple[str, str]:
    """Return twist and rise, with their uncertainties where they were found."""

    def shown(value: float | None, uncertainty: float | None, unit: str) -> str:
        if value is None:
            return "–"
        return f"{value:.3f}{'' if uncertainty is None else f' ± {uncertainty:.3f}'}{unit}"

    return (
        shown(it.twist_deg, it.twist_uncertainty_deg, "°"),
        shown(it.rise_A, it.rise_uncertainty_A, " Å"),
    )


def draw_resolution(run: RunFolder) -> Illustration:
    """Draw the resolution of every iteration."""

    def fill(axes: "Axes") -> None:
        _plot(axes, run.iterations, "resolution_unmasked_A", "amber")
        _plot(axes, run.iterations, "resolution_A", "blue")
        axes.set_ylabel("resolution (Å)")

    caption = f"Lower is better; a run has settled when the line is flat. {_MODES}"
    keys = (Key("corrected", "blue"), Key("unmasked", "amber"))
    return _draw("Resolution", "progress-resolution", caption, fill, run, keys)


def draw_turn(run: RunFolder) -> Illustration:
    """Draw how far poses turn, beside how well they are known."""

    def fill(axes: "Axes") -> None:
        from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

        names = ("median_sigma_rotation_deg", "median_turn_deg")
        values = [getattr(it, name) for it in run.iterations for name in names]
        known = [value for value in values if value is not None]
        # Poses that stay where they are turn by rounding: no reason for ten decades.
        least = _MIN_TURN * max(known, default=0.0)
        for name, colour in zip(names, ("amber", "blue"), strict=True):
            _plot(axes, run.iterations, name, colour, least=least)
        axes.set_ylabel("angle (°)")
        if axes.lines:
            axes.set_yscale("log")
            subs = (1.0, 2.0, 5.0) if min(known) > 10 * least else (1.0,)
            axes.yaxis.set_major_locator(LogLocator(subs=subs))
            axes.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))
            axes.yaxis.set_minor_formatter(NullFormatter())

    caption = (
        "Median change of orientation since the iteration before: well below the accuracy, "
        "turning has become noise."
    )
    keys = (Key("median turn", "blue"), Key("estimated accuracy", "amber"))
    return _draw("Turn of the poses", "progress-turn", caption, fill, run, keys)


def draw_jumps(run: RunFolder) -> Illustration:
    """Draw the share of particles that took quite another orientation."""

    def fill(axes: "Axes") -> None:
        _plot(axes, run.iterations, "jumped_fraction", "blue", scale=100)
        axes.set_ylabel("particles (%)")
        axes.set_ylim(bottom=0)

    caption = (
        "Share of particles that turned by more than a step of the coarse search; an automatic "
        "run goes over to local searches when it is small."
    )
    return _draw("Particles that jumped", "progress-jumps", caption, fill, run)


def draw_counts(run: RunFolder) -> Illustration:
    """Draw how many particles were used, and how many were not."""

    def fill(axes: "Axes") -> None:
        _plot(axes, run.iterations, "n_not_used", "amber")
        _plot(axes, run.iterations, "n_used", "blue")
        axes.set_ylabel("particles")
        axes.set_ylim(bottom=0)

    caption = (
        "Particles in the half maps, and particles that are in none: rejected, left out for their "
        "tilt or weight, or not drawn."
    )
    keys = (Key("in the maps", "blue"), Key("left out", "amber"))
    return _draw("Particles by iteration", "progress-counts", caption, fill, run, keys)


def _draw(
    title: str,
    name: str,
    caption: str,
    fill: Callable[["Axes"], None],
    run: RunFolder,
    keys: tuple[Key, ...] = (),
) -> Illustration:
    def draw(figure: "Figure") -> None:
        from matplotlib.ticker import MaxNLocator

        axes = figure.subplots()
        finish_axes(axes)
        fill(axes)
        axes.set_xlabel("iteration")
        last = max((it.number for it in run.iterations), default=1)
        axes.set_xlim(0.5, last + 0.5)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True, min_n_ticks=1))

    svg = render_svg(name, _SIZE_IN, f"{title} by iteration", draw)
    return Illustration(title, caption, svg, keys=keys)


def _plot(
    axes: "Axes",
    iterations: list[Iteration],
    name: str,
    colour: str,
    *,
    scale: float = 1.0,
    least: float = 0.0,
) -> None:
    """Plot one number against the iteration, the kind of search as the kind of marker.

    Values below ``least`` are drawn there.
    """
    known: list[tuple[Iteration, Any]] = [
        (it, getattr(it, name)) for it in iterations if getattr(it, name) is not None
    ]
    if not known:
        return
    x, y = [it.number for it, _ in known], [max(scale * value, least) for _, value in known]
    colour = COLOURS[colour]
    axes.plot(x, y, color=colour, linewidth=1.4)
    for is_local in (False, True):
        points = [i for i, (it, _) in enumerate(known) if (it.mode == "local") == is_local]
        axes.plot(
            [x[i] for i in points], [y[i] for i in points], "o", markersize=4.5, color=colour,
            fillstyle="none" if is_local else "full", markeredgewidth=1.3, clip_on=False,
        )  # fmt: skip


def _degrees(value: float | None) -> str:
    return "–" if value is None else f"{amount(value)}°"
