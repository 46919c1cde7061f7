"""Figure of the viewing directions: both hemispheres as discs of equal area."""

import math
from typing import TYPE_CHECKING

import numpy as np
import torch

from cryorefine.evaluate.coverage import direction_histogram
from cryorefine.geometry.rotation import matrix_from_euler
from cryorefine.geometry.symmetry import parse_symmetry
from cryorefine.report.illustration import COLOURS, Illustration, render_svg
from cryorefine.report.number_formats import count
from cryorefine.report.run_folder import RunFolder

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["draw_directions"]

_MAX_VIEWS = 60_000
"""Views of a picture, symmetric copies included: it is renewed in every iteration."""

_VIEWS_PER_CELL = 25
"""Views of a cell in the mean: chance then changes its shade by a fifth."""

_STEP_DEG = (5.0, 15.0)
"""Least and largest distance of cells: finer ones cannot be told apart on the disc, and coarser
ones hide a preferred view."""

_DISC_PX = 220
"""Side of a disc's picture: several pixels for the smallest cells."""

_MIN_RANGE = 4.0
"""Density, in units of the mean, that the darkest shade stands for at least: the chances of even
views are pale."""

# From rare (blue) over even (pale) to frequent (brown).
_SCALE = ("#143f63", "#5a90b8", "#b9d0df", "#f2f0eb", "#e6c18d", "#c07f2f", "#7a430d")
_RING = "#4a535c"


def draw_directions(run: RunFolder) -> Illustration:
    """Draw how often the particle is seen from each direction, even being 1."""
    table = run.particle_blocks["particles"]
    group = parse_symmetry(str(run.summary["symmetry"]))
    angles = [table.floats(f"rlnAngle{name}") for name in ("Rot", "Tilt", "Psi")]
    n = len(table)
    if n == 0:
        raise ValueError("the particle table is empty")
    # Enough for the picture; the cost of more would be felt at every iteration.
    most = max(1, _MAX_VIEWS // group.order)
    rows = np.unique(np.linspace(0, n - 1, min(n, most)).astype(np.int64))
    euler_rad = torch.deg2rad(torch.from_numpy(np.stack(angles, 1)[rows]))
    # Cells as small as the number of views allows.
    ideal = math.sqrt(4 * math.pi * _VIEWS_PER_CELL / (len(rows) * group.order))
    step_rad = min(max(ideal, math.radians(_STEP_DEG[0])), math.radians(_STEP_DEG[1]))
    cells, density = direction_histogram(matrix_from_euler(euler_rad), group, step_rad=step_rad)
    discs = [_disc(cells.numpy(), density.numpy(), step_rad, side) for side in (1, -1)]
    top = max(_MIN_RANGE, float(np.nanpercentile(np.stack(discs), 99.8)))

    def draw(figure: "Figure") -> None:
        from matplotlib.colors import LinearSegmentedColormap, LogNorm

        scale = LinearSegmentedColormap.from_list("views", _SCALE)
        left, right = figure.subplots(1, 2)
        image = None
        for axes, disc, title in (
            (left, discs[0], "tilt 0° to 90°"),
            (right, discs[1], "tilt 90° to 180°"),
        ):
            image = axes.imshow(
                np.clip(disc, 1 / top, top), extent=(-1, 1, -1, 1), origin="lower", cmap=scale,
                norm=LogNorm(1 / top, top), interpolation="bilinear",
            )  # fmt: skip
            _finish_disc(axes, title, is_upper=axes is left)
        bar = figure.colorbar(image, ax=(left, right), shrink=0.8, pad=0.03, aspect=24)
        bar.set_label("views, relative to an even distribution")
        bar.outline.set_visible(False)  # type: ignore[operator]
        powers = [2.0**k for k in range(-12, 13, 1 if top < 20 else 2)]
        shown = [p for p in powers if 1 / top <= p <= top]
        bar.set_ticks(shown, labels=[f"1/{1 / p:g}" if p < 1 else f"{p:g}" for p in shown])
        bar.minorticks_off()

    taken = "" if len(rows) == n else f" ({count(len(rows))} of {count(n)} particles taken)"
    copies = "" if group.order == 1 else f", all {group.order} symmetric copies counted"
    caption = (
        f"From where the particles are seen{copies}{taken}. Each disc is one half of the sphere, "
        "from its pole (middle) to the equator (rim), with equal areas for equal solid angles; "
        "rings stand at every 30° of tilt. Brown patches are preferred views, blue ones are "
        "directions from which the particle is seldom seen."
    )
    svg = render_svg("directions", (7.4, 3.5), "Density of viewing directions", draw, above_in=None)
    return Illustration("Viewing directions", caption, svg)


def _disc(cells: np.ndarray, density: np.ndarray, step_rad: float, side: int) -> np.ndarray:
    """Return the density over one hemisphere, NaN outside the disc.

    Lambert's equal-area projection: a direction at tilt t from the pole lies at radius
    ``sqrt(1 - cos t)``, which puts the equator at 1.

    Parameters
    ----------
    cells, density
        Unit vectors (m, 3) and values (m).
    side
        1 for the hemisphere about +z, -1 for that about -z. Both keep x to the right and y up.
    """
    from scipy.spatial import KDTree

    line = (np.arange(_DISC_PX) + 0.5) / _DISC_PX * 2 - 1
    y, x = np.meshgrid(line, line, indexing="ij")
    r2 = x * x + y * y
    inside = r2 <= 1.02  # a little more than the disc, so that the clipped rim has no gaps
    cosine = 1 - np.minimum(r2, 1)
    stretch = np.sqrt((1 - cosine**2) / np.maximum(r2, 1e-12))
    views = np.stack([x * stretch, y * stretch, side * cosine], -1)[inside]
    # A Gaussian mean of the nearest cells hides the cells' borders, which mean nothing.
    distance, nearest = KDTree(cells).query(views, k=min(12, len(cells)))
    weight = np.exp(-0.5 * (distance / (0.6 * step_rad)) ** 2)
    disc = np.full(x.shape, np.nan)
    disc[inside] = (weight * density[nearest]).sum(1) / weight.sum(1)
    return disc


def _finish_disc(axes: "Axes", title: str, *, is_upper: bool) -> None:
    """Clip the picture to the disc and draw rings of equal tilt."""
    from matplotlib.patches import Circle

    rim = Circle((0, 0), 1, fill=False, edgecolor=COLOURS["muted"], linewidth=0.9)
    axes.add_patch(rim)
    axes.images[0].set_clip_path(rim)
    for tilt_deg in (30, 60):
        radius = math.sqrt(1 - math.cos(math.radians(tilt_deg)))
        axes.add_patch(
            Circle((0, 0), radius, fill=False, edgecolor=_RING, linewidth=0.5, alpha=0.5)
        )
        axes.annotate(
            f"{tilt_deg if is_upper else 180 - tilt_deg}°", (0, radius), ha="center", va="bottom",
            xytext=(0, 1), textcoords="offset points", color=_RING, fontsize=7,
        )  # fmt: skip
    axes.annotate("x", (1, 0), xytext=(3, 0), textcoords="offset points", va="center")
    axes.annotate("y", (0, 1), xytext=(0, 2), textcoords="offset points", ha="center", va="bottom")
    axes.set_title(title, fontsize=9, pad=14)
    axes.set_xlim(-1.02, 1.02)
    axes.set_ylim(-1.02, 1.02)
    axes.set_axis_off()
