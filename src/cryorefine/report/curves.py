"""Figures of the Fourier shell correlation."""

import math
from typing import TYPE_CHECKING, TypeGuard

import numpy as np
import torch

from cryorefine.errors import InputError
from cryorefine.evaluate.fsc import resolution
from cryorefine.io.star import StarBlock
from cryorefine.report.illustration import COLOURS, Illustration, Key, finish_axes, render_svg
from cryorefine.report.number_formats import angstrom
from cryorefine.report.run_folder import READ_ERRORS, RunFolder

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["ABOVE_IN", "draw_curves", "draw_final_curves", "draw_iteration_curves"]

_SIZE_IN = (5.3, 3.8)
"""Of a figure, in inches, as the page shows it."""

ABOVE_IN = 0.48
"""Room above such curves, in inches, for the second axis with its numbers and label."""

_LOWEST = -0.2  # the curves of a first iteration may dive below, which tells nothing
_COMPARISON = "cryorefineComparisonFSC"
_CORRECTED = "rlnFourierShellCorrelationCorrected"
_RANDOMISED = "rlnCorrectedFourierShellCorrelationPhaseRandomizedMaskedMaps"
_OUTSIDE = "cryorefineFourierShellCorrelationOutsideMask"
_LINES = {
    _CORRECTED: Key("corrected", "blue", 2.2),
    "rlnFourierShellCorrelationMaskedMaps": Key("masked", "green"),
    "rlnFourierShellCorrelationUnmaskedMaps": Key("unmasked", "amber"),
    _RANDOMISED: Key("phases randomised", "muted", 1.1, "dotted"),
    _OUTSIDE: Key("outside the mask", "muted", 1.1, "dashed"),
}
_AGAINST_KNOWN = Key("against the given map; not used in refinement", "violet", 1.5, "dashed")
# Resolutions to label, the rounder ones first: they win where there is not room for all.
_TICKS_A = (10, 5, 20, 4, 3, 2, 6, 50, 8, 100, 2.5, 1.5, 1, 15, 3.5, 7, 30, 12, 1.2, 1.8, 9)


def draw_final_curves(run: RunFolder) -> Illustration:
    """Draw all curves of the last iteration, the criterion and where it is crossed."""
    table = run.fsc()
    frequency = table.floats("rlnResolution")
    criterion, resolution_A = run.criterion, run.summary.get("resolution_A")
    compared = _comparison(table, frequency) if _COMPARISON in table else None

    lines = {column: key for column, key in _LINES.items() if column in table}

    def draw(figure: "Figure") -> None:
        axes = figure.subplots()
        _prepare(axes, frequency, [table.floats(column) for column in lines])
        axes.axhline(criterion, color=COLOURS["ink"], linewidth=0.8)
        _name_line(axes, criterion)
        if compared is not None:
            axes.axhline(0.5, color=COLOURS["violet"], linewidth=0.8, linestyle=(0, (1, 2)))
            _name_line(axes, 0.5)
            _plot(axes, frequency, compared[0], _AGAINST_KNOWN)
        for column, key in reversed(lines.items()):  # the curve that counts on top
            _plot(axes, frequency, table.floats(column), key)
        if _is_crossing(resolution_A, frequency):
            _mark(axes, 1 / resolution_A, criterion, angstrom(resolution_A))

    caption = (
        "Agreement of the two half maps, which share no particles. The resolution is that of the "
        f"corrected curve, which {_crossing(resolution_A, criterion, frequency)}; the curve of "
        "randomised phases should drop to zero, or the mask itself makes the halves agree; that "
        "outside the mask shows signal which the mask leaves out."
    )
    if compared is not None:
        caption += f" The curve against the given map {_crossing(compared[1], 0.5, frequency)}."
    svg = render_svg(
        "fsc-final", _SIZE_IN, "Fourier shell correlation curves", draw, above_in=ABOVE_IN
    )
    keys = (*lines.values(), *([_AGAINST_KNOWN] if compared is not None else []))
    return Illustration("Final curves", caption, svg, keys=keys)


def draw_iteration_curves(run: RunFolder) -> Illustration:
    """Draw the corrected curve of every iteration that is at hand."""
    curves: list[tuple[int, np.ndarray, np.ndarray]] = []
    notes = []
    for number in run.numbers:
        try:
            table = run.fsc(number)
            curves.append((number, table.floats("rlnResolution"), table.floats(_CORRECTED)))
        except READ_ERRORS as error:
            notes.append(f"Iteration {number} is left out: {error}")
    if not curves:
        raise InputError("no iteration has a curve that can be read")
    last, frequency, _ = curves[-1]
    # Opacity instead of tint, so that early is pale on white and on black.
    keys = [
        Key(f"iteration {number}", "blue", 1.2, opacity=round(0.2 + 0.5 * i / len(curves), 3))
        for i, (number, *_) in enumerate(curves[:-1])
    ]
    keys.append(Key(f"iteration {last}", "blue", 2.2))

    def draw(figure: "Figure") -> None:
        axes = figure.subplots()
        _prepare(axes, frequency, [y for *_, y in curves])
        axes.axhline(run.criterion, color=COLOURS["ink"], linewidth=0.8)
        _name_line(axes, run.criterion)
        for (_, x, y), key in zip(curves, keys, strict=True):
            _plot(axes, x, y, key)

    caption = (
        f"Corrected curve of each iteration, from pale (first) to strong (iteration {last}): "
        "it moves to the right while the run improves, and lies still at its end."
    )
    svg = render_svg(
        "fsc-iterations", _SIZE_IN, "Corrected FSC of every iteration", draw, above_in=ABOVE_IN
    )
    named = [keys[i] for i in sorted({0, len(keys) // 2, len(keys) - 1})]
    return Illustration(
        "Corrected curve by iteration", caption, svg, keys=tuple(named), notes=tuple(notes)
    )


def _comparison(table: StarBlock, frequency: np.ndarray) -> tuple[np.ndarray, float]:
    """Return the curve against the known map and where it falls below 0.5, in ångströms."""
    curve = table.floats(_COMPARISON)
    return curve, resolution(torch.from_numpy(curve), torch.from_numpy(frequency), 0.5)


def _is_crossing(resolution_A: float | None, frequency: np.ndarray) -> TypeGuard[float]:
    """Tell whether a resolution is a crossing: neither undetermined nor the curve's end."""
    if resolution_A is None or not math.isfinite(resolution_A):
        return False
    return 1 / resolution_A < 0.9999 * float(frequency[-1])


def _crossing(resolution_A: float | None, threshold: float, frequency: np.ndarray) -> str:
    """Say how a curve comes down to a threshold."""
    if _is_crossing(resolution_A, frequency):
        return f"falls below {threshold:g} for good at {angstrom(resolution_A)}"
    if resolution_A is None or not math.isfinite(resolution_A):
        return f"is below {threshold:g} from the beginning"
    return f"stays above {threshold:g} as far as the voxels reach ({angstrom(resolution_A)})"


def draw_curves(
    axes: "Axes", frequency: np.ndarray, curves: list[tuple[np.ndarray, Key]], criterion: float
) -> None:
    """Draw several curves of one frequency axis, the first on top, and the criterion."""
    _prepare(axes, frequency, [values for values, _ in curves])
    axes.axhline(criterion, color=COLOURS["ink"], linewidth=0.8)
    _name_line(axes, criterion)
    for values, key in reversed(curves):
        _plot(axes, frequency, values, key)


def _plot(axes: "Axes", x: np.ndarray, y: np.ndarray, key: Key) -> None:
    """Draw a curve up to its last shell that holds something: half maps are empty beyond it."""
    held = np.flatnonzero(y)
    end = int(held[-1]) + 1 if len(held) else len(y)
    axes.plot(
        x[:end], y[:end], color=COLOURS[key.colour], linewidth=key.width_pt, linestyle=key.dashes,
        alpha=key.opacity,
    )  # fmt: skip


def _prepare(axes: "Axes", frequency: np.ndarray, curves: list[np.ndarray]) -> None:
    """Set limits, labels and the second axis in ångströms."""
    lowest = min(float(y.min()) for y in curves)
    axes.set_ylim(max(min(lowest - 0.03, -0.08), _LOWEST), 1.04)
    axes.set_xlim(0, float(frequency[-1]))
    axes.set_xlabel("spatial frequency (1/Å)")
    axes.set_ylabel("Fourier shell correlation")
    finish_axes(axes)
    above = axes.secondary_xaxis("top")
    shown = _angstrom_ticks(float(frequency[-1]))
    nyquist = float(frequency[-1])
    above.set_xticks([min(1 / a, nyquist) for a in shown], [f"{a:g}" for a in shown])
    above.set_xlabel("resolution (Å)")
    above.tick_params(length=3, width=0.8)


def _angstrom_ticks(nyquist_per_A: float) -> list[float]:
    """Return resolutions to label on an axis that is linear in frequency, none too close."""
    kept: list[float] = []
    for candidate in (*_TICKS_A, round(1 / nyquist_per_A, 2)):
        place = 1 / candidate / nyquist_per_A
        if place <= 1.0001 and all(abs(place - 1 / k / nyquist_per_A) > 0.055 for k in kept):
            kept.append(candidate)
    return sorted(kept, reverse=True)


def _name_line(axes: "Axes", value: float) -> None:
    """Write a threshold's value at the left, where all curves are high."""
    axes.annotate(
        f"{value:g}", (0, value), xytext=(4, 2), textcoords="offset points", va="bottom",
        fontsize=8, color=COLOURS["muted"],
    )  # fmt: skip


def _mark(axes: "Axes", x: float, y: float, text: str) -> None:
    """Mark where the resolution is read."""
    axes.plot([x, x], [axes.get_ylim()[0], y], color=COLOURS["blue"], linewidth=0.8)
    axes.plot([x], [y], "o", color=COLOURS["blue"], markersize=5)
    # Beside the falling curve; below it where there is no room at the right.
    has_room = x < 0.8 * axes.get_xlim()[1]
    axes.annotate(
        text, (x, y), xytext=(8, 7) if has_room else (-8, -8), textcoords="offset points",
        ha="left" if has_room else "right", va="bottom" if has_room else "top",
        fontsize=10, fontweight="bold", color=COLOURS["blue"],
        bbox={"facecolor": COLOURS["paper"], "edgecolor": "none", "alpha": 0.8, "pad": 1.5},
    )  # fmt: skip
