"""One picture of half maps before and after restorations."""

from pathlib import Path

import numpy as np

from cryorefine.api.correlation import FscCurves
from cryorefine.api.restore import Restored
from cryorefine.api.volume import Volume
from cryorefine.report.illustration import COLOURS
from cryorefine.report.processed import FSC_KEYS

__all__ = ["draw_restored"]

_PERCENTILES = (0.5, 99.8)
"""Grey values that black and white stand for, as in reports."""

_DPI = 100
"""Of the picture: 1,050 pixels wide."""


def draw_restored(made: Restored, path: Path) -> None:
    """Draw slices across z of raw and processed map, their difference, and all FSC curves.

    Raw and processed have grey scales of their own, since a restoration may change it.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10.5, 6.6), layout="constrained")
    grid = figure.add_gridspec(2, 3 + len(made.maps))
    axes = [figure.add_subplot(grid[0, column]) for column in range(3 + len(made.maps))]
    scale = float(made.raw_map.data.std()) / max(float(made.map.data.std()), 1e-30)
    shown = [
        ("raw map", _middle(made.raw_map)),
        ("processed map", _middle(made.map)),
        ("processed, scaled, minus raw", _middle(made.map) * scale - _middle(made.raw_map)),
        *((name, _middle(volume)) for name, volume in made.maps.items()),
    ]
    for place, (title, plane) in zip(axes, shown, strict=True):
        low, high = np.percentile(plane, _PERCENTILES)
        place.imshow(plane, cmap="gray", origin="lower", vmin=low, vmax=max(high, low + 1e-30))
        place.set_title(title, fontsize=9)
        place.set_axis_off()
    plot = figure.add_subplot(grid[1, :])
    plot.axhline(0.143, color=COLOURS["ink"], linewidth=0.8)
    values = [c for one in (made.fsc, made.fsc_processed) for c in _pair(one)]
    for values_of, key in zip(values, FSC_KEYS, strict=True):
        plot.plot(
            made.fsc.frequency_per_A, values_of, color=COLOURS[key.colour],
            linewidth=key.width_pt, linestyle=key.dashes, label=key.label,
        )  # fmt: skip
    plot.set_ylim(-0.1, 1.04)
    plot.set_xlim(0, float(made.fsc.frequency_per_A[-1]))
    plot.set_xlabel("spatial frequency (1/Å)")
    plot.set_ylabel("Fourier shell correlation")
    plot.legend(fontsize=8, frameon=False)
    plot.grid(color=COLOURS["grid"])
    if made.mixes_halves:
        plot.set_title("the processed half maps are not independent", fontsize=9)
    figure.savefig(path, dpi=_DPI)


def _middle(volume: Volume) -> np.ndarray:
    return volume.data[volume.size_px // 2]


def _pair(curves: FscCurves) -> tuple[np.ndarray, np.ndarray]:
    return curves.corrected, curves.unmasked
