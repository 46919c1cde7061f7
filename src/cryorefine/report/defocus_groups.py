"""How well the images of each defocus group agree with the map."""

from typing import TYPE_CHECKING

import numpy as np

from cryorefine.report.illustration import COLOURS, Illustration, Key, finish_axes, render_svg
from cryorefine.report.run_folder import RunFolder

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["draw_defocus_groups"]

_SIZE_IN = (7.2, 2.6)
"""Of the figure, in inches, as the page shows it: there may be fifty groups."""

_QUARTILES = (25, 50, 75)  # by definition
_UM_PER_A = 1e-4  # by definition
_COLOUR_OF_HALF = {1: "blue", 2: "amber"}


def draw_defocus_groups(run: RunFolder) -> Illustration:
    """Draw median and quartiles of the correlation of each defocus group, by half set."""
    table = run.particle_blocks["particles"]
    group, half = table.integers("cryorefineDefocusGroup"), table.integers("rlnRandomSubset")
    correlation = table.floats("cryorefineCorrelation")
    has_defocus = "rlnDefocusU" in table
    place = group.astype(float)
    if has_defocus:
        place = (table.floats("rlnDefocusU") + table.floats("rlnDefocusV")) / 2 * _UM_PER_A
    if len(group) == 0:
        raise ValueError("the particle table is empty")

    def draw(figure: "Figure") -> None:
        axes = figure.subplots()
        finish_axes(axes)
        for number, colour in _COLOUR_OF_HALF.items():
            groups = [(group == g) & (half == number) for g in np.unique(group)]
            groups = [chosen for chosen in groups if chosen.any()]
            if not groups:
                continue
            x = [place[chosen].mean() for chosen in groups]
            quartiles = [np.percentile(correlation[chosen], _QUARTILES) for chosen in groups]
            low, middle, high = np.stack(quartiles, 1)
            axes.vlines(x, low, high, color=COLOURS[colour], linewidth=1.2, alpha=0.5)
            axes.plot(x, middle, "o", color=COLOURS[colour], markersize=3.5)
        axes.set_xlabel("mean defocus of the group (µm)" if has_defocus else "group")
        axes.set_ylabel("correlation")

    caption = (
        "Median and quartiles of the correlation with the map in each group of like defocus, which "
        "percentiles are made within. Groups that lie far below their neighbours may have a wrong "
        "defocus or poor images."
    )
    keys = (Key("half 1", "blue"), Key("half 2", "amber"))
    svg = render_svg("particles-groups", _SIZE_IN, "Correlation by defocus group", draw)
    return Illustration("Correlation by defocus group", caption, svg, keys=keys)
