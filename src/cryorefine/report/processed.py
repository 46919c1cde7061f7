"""Figures of processed maps, told apart from those of the raw ones."""

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from cryorefine.errors import InputError
from cryorefine.io.star import StarBlock, read_star
from cryorefine.report.curves import ABOVE_IN, draw_curves
from cryorefine.report.illustration import Illustration, Key, render_svg
from cryorefine.report.number_formats import amount
from cryorefine.report.pictures import slices_of
from cryorefine.report.run_folder import RunFolder

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["FSC_KEYS", "figures_of_processed", "what_was_done"]

_SIZE_IN = (5.3, 3.8)
"""Of the figure, in inches, as the page shows it."""

_CORRECTED = "rlnFourierShellCorrelationCorrected"
_UNMASKED = "rlnFourierShellCorrelationUnmaskedMaps"
FSC_KEYS = (
    Key("raw half maps, corrected", "blue", 2.2),
    Key("raw half maps, unmasked", "amber"),
    Key("processed half maps, corrected; no resolution", "violet", 1.5, "dashed"),
    Key("processed half maps, unmasked; no resolution", "muted", 1.1, "dashed"),
)
"""Of the four curves, in this order."""


def figures_of_processed(run: RunFolder) -> list[tuple[str, Callable[[RunFolder], Illustration]]]:
    """Return titles and makers of the figures that the run has something for."""
    out: list[tuple[str, Callable[[RunFolder], Illustration]]] = []
    if (run.path / "map_processed.mrc").exists():
        out.append(("Central slices of the processed map", _show_slices))
    if (run.path / "restorations.json").exists():
        out.append(("FSC before and after processing", _draw_fsc))
    return out


def _show_slices(run: RunFolder) -> Illustration:
    caption = "Planes through the middle of map_processed.mrc, as those of the map above."
    title = "Central slices of the processed map"
    return Illustration(title, caption, panels=slices_of(run, "map_processed.mrc"))


def _draw_fsc(run: RunFolder) -> Illustration:
    """Draw the FSC of raw and of processed half maps, and say what was done."""
    record = json.loads((run.path / "restorations.json").read_text(encoding="utf-8"))
    raw, processed = run.fsc(), _table(run)
    frequency = raw.floats("rlnResolution")
    columns = (raw, _CORRECTED), (raw, _UNMASKED), (processed, _CORRECTED), (processed, _UNMASKED)
    curves = [(table.floats(c), key) for (table, c), key in zip(columns, FSC_KEYS, strict=True)]

    def draw(figure: "Figure") -> None:
        draw_curves(figure.subplots(), frequency, curves, run.criterion)

    svg = render_svg(
        "fsc-processed", _SIZE_IN, "FSC of raw and processed half maps", draw, above_in=ABOVE_IN
    )
    caption, notes = what_was_done(record)
    caption += (
        " The dashed curves are those of processed half maps. Masks and thresholds raise them: "
        "they are no resolution."
    )
    title = "FSC before and after processing"
    return Illustration(title, caption, svg, keys=FSC_KEYS, notes=tuple(notes))


def _table(run: RunFolder) -> StarBlock:
    path = run.path / "fsc_processed.star"
    blocks = read_star(path)
    if "fsc" not in blocks:
        raise InputError("no block data_fsc", where=str(path))
    return blocks["fsc"]


def what_was_done(record: dict[str, Any]) -> tuple[str, list[str]]:
    """Return the steps of a record of restorations in a sentence, and what to beware of."""
    done = []
    for step in record["steps"]:
        facts = [f"{_words(n)} {_shown(v)}" for n, v in step["facts"].items() if v is not None]
        done.append(step["title"] + (f" ({', '.join(facts)})" if facts else ""))
    caption = f"Done to each half map, in this order: {'; '.join(done)}."
    mixing = [step["title"] for step in record["steps"] if step["mixes_halves"]]
    notes = []
    if mixing:
        notes.append(
            f"{', '.join(mixing)}: this puts values of one half map into the other. The processed "
            "halves are no longer independent, and their FSC says nothing."
        )
    return caption, notes


def _words(name: str) -> str:
    return name.replace("_", " ")


def _shown(value: float | str) -> str:
    return value if isinstance(value, str) else amount(value, 3)
