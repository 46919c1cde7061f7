"""Histograms of what is known about the single particles."""

from typing import TYPE_CHECKING

import numpy as np

from cryorefine.report.illustration import COLOURS, Illustration, finish_axes, render_svg
from cryorefine.report.number_formats import amount, count
from cryorefine.report.run_folder import RunFolder

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = [
    "draw_accuracy",
    "draw_angle_change",
    "draw_correlation",
    "draw_percentile",
    "draw_score",
    "draw_shift",
    "draw_weight",
]

_SIZE_IN = (2.65, 2.3)
"""Of a figure, in inches, as the page shows it."""

_ABOVE_IN = 0.22
"""Room above a histogram, in inches, for its median."""

_END_PERCENTILES = (0.1, 99.9)
"""Ends of a histogram: what lies beyond them is counted in its last bins, so that single values do
not press the others together."""

_MAX_BINS = 30
"""Bins at most: more are narrower than the eye tells apart in so small a figure."""


def draw_score(run: RunFolder) -> Illustration:
    """Draw the distribution of the log-likelihood gain."""
    caption = (
        "How much better each image is explained with the particle than without; a second peak "
        "near zero is often junk."
    )
    return _column(run, "Score", "cryorefineScore", "log-likelihood gain", caption)


def draw_correlation(run: RunFolder) -> Illustration:
    """Draw the distribution of the correlation of images with the map."""
    caption = (
        "Agreement of each image with the map's projection; low single-image values are normal "
        "in cryo-EM, a tail to the left holds the poorest particles."
    )
    return _column(run, "Correlation", "cryorefineCorrelation", "correlation", caption)


def draw_accuracy(run: RunFolder) -> Illustration:
    """Draw the distribution of the estimated accuracy of orientations."""
    caption = (
        "How well each orientation is known, from the curvature of its score; smaller is better."
    )
    return _column(
        run, "Accuracy of orientations", "cryorefineSigmaRotationDeg",
        "standard deviation (°)", caption,
    )  # fmt: skip


def draw_angle_change(run: RunFolder) -> Illustration:
    """Draw how far poses turned since the iteration before."""
    caption = (
        "How far each pose turned since the iteration before, modulo symmetry; 0 where there was "
        "none before. A run goes over to local searches when most no longer turn."
    )
    return _column(run, "Change of orientations", "cryorefineAngleDiffDeg", "rotation (°)", caption)


def draw_weight(run: RunFolder) -> Illustration:
    """Draw the distribution of the particles' weights in the reconstruction."""
    caption = "What each particle counts in the half maps; 1 is the mean of its half."
    return _column(run, "Weights", "cryorefineWeight", "weight", caption)


def draw_percentile(run: RunFolder) -> Illustration:
    """Draw the distribution of the particles' percentiles within their defocus groups."""
    caption = (
        "Rank of each particle's correlation among those of like defocus, best 1: even by its "
        "making, and coarse where groups are small."
    )
    return _column(run, "Percentiles", "cryorefinePercentile", "percentile", caption)


def draw_shift(run: RunFolder) -> Illustration:
    """Draw how far particles lie from their images' centres; the limit if any have come to it."""
    table = run.particle_blocks["particles"]
    x_A, y_A = table.floats("rlnOriginXAngst"), table.floats("rlnOriginYAngst")
    caption = "How far each particle lies from the middle of its image."
    limit_A = None
    label = "cryorefineShiftAtLimit"
    at_limit = int(table.integers(label).sum()) if label in table else 0
    if at_limit:
        limit_A = _limit(run)
        verb = "lies" if at_limit == 1 else "lie"
        caption += (
            f" {count(at_limit)} of {count(len(table))} {verb} at the limit: allow larger shifts, "
            "or centre the images again, if these are many."
        )
    else:
        caption += " None lies at the limit."
    return _draw("Shifts", "shift", np.hypot(x_A, y_A), "shift (Å)", caption, limit_A)


def _limit(run: RunFolder) -> float:
    """Return the largest shift allowed, in ångströms; of the largest images if sizes differ."""
    optics = run.particle_blocks["optics"]
    sides_A = optics.floats("rlnImagePixelSize") * optics.floats("rlnImageSize")
    return float(run.settings["max_shift_percent"]) / 100 * float(sides_A.max())


def _column(run: RunFolder, title: str, column: str, label: str, caption: str) -> Illustration:
    values = run.particle_blocks["particles"].floats(column)
    return _draw(title, column, values, label, caption)


def _draw(
    title: str,
    name: str,
    values: np.ndarray,
    label: str,
    caption: str,
    limit: float | None = None,
) -> Illustration:
    """Draw one histogram with its median; the end bars hold what lies beyond them."""
    if len(values) == 0:
        raise ValueError("the particle table is empty")
    low, high = (float(v) for v in np.percentile(values, _END_PERCENTILES))
    high = max(high, low + 1e-6 * max(abs(low), 1.0))
    n_bins = int(np.clip(np.sqrt(len(values)), 5, _MAX_BINS))
    counts, edges = np.histogram(np.clip(values, low, high), bins=n_bins, range=(low, high))
    median = float(np.median(values))

    def draw(figure: "Figure") -> None:
        from matplotlib.ticker import MaxNLocator

        axes = figure.subplots()
        finish_axes(axes, grid=False)
        axes.stairs(counts, edges, fill=True, color=COLOURS["blue"], alpha=0.75)
        axes.axvline(median, color=COLOURS["ink"], linewidth=0.9)
        axes.annotate(
            f"median {amount(median)}", (median, 1), xycoords=("data", "axes fraction"),
            xytext=(0, 2), textcoords="offset points", ha="center", va="bottom", fontsize=8,
        )  # fmt: skip
        if limit is not None:
            axes.axvline(limit, color=COLOURS["amber"], linewidth=1.2, linestyle="--")
            axes.annotate(
                f"limit {amount(limit)}", (limit, 0.97), xycoords=("data", "axes fraction"),
                xytext=(-3, 0), textcoords="offset points", ha="right", va="top", fontsize=8,
                color=COLOURS["amber"],
            )  # fmt: skip
        axes.set_xlabel(label)
        axes.set_ylabel("particles")
        axes.xaxis.set_major_locator(MaxNLocator(nbins=5))
        axes.yaxis.set_major_locator(MaxNLocator(nbins=4, integer=True))

    svg = render_svg(f"particles-{name}", _SIZE_IN, f"Histogram: {label}", draw, above_in=_ABOVE_IN)
    return Illustration(title, caption, svg)
