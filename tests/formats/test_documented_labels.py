"""The table of labels in the documents is the declared map."""

from itertools import zip_longest
from pathlib import Path

from cryorefine.formats.columns import Column
from cryorefine.formats.registry import FORMATS

DOCS = Path(__file__).parents[2] / "docs" / "formats.md"
ORDER = ("relion", "cryosparc", "xmipp", "cistem", "cryodrgn")


def cell(column: Column) -> str:
    """Return a label with its unit, or what is done to its number."""
    notes = [column.unit] if column.unit else []
    notes += [column.convention] if column.convention else []
    return f"`{column.label}`" + (f" ({'; '.join(notes)})" if notes else "")


def table_of_labels() -> str:
    """Return the table: RELION's labels, with as many rows as a format needs; then others."""
    formats = [next(f for f in FORMATS if f.name == name) for name in ORDER]
    of_relion = list(dict.fromkeys(k for f in formats for c in f.columns for k in c.relion))
    lines = ["| " + " | ".join(ORDER) + " |", "|" + "---|" * len(ORDER)]
    for label in of_relion:
        cells = [[cell(c) for c in f.columns if label in c.relion] for f in formats]
        for row in zip_longest(*cells, fillvalue=""):
            lines.append("| " + " | ".join((row[0] or f"`{label}`", *row[1:])) + " |")
    alone = [(i, c) for i, f in enumerate(formats) for c in f.columns if not c.relion]
    for i, column in alone:
        cells = [""] * len(formats)
        cells[i] = cell(column)
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def test_the_documents_have_the_declared_labels():
    assert table_of_labels() in DOCS.read_text()


def test_every_label_has_a_factor_or_says_what_it_is():
    for one in FORMATS:
        for column in one.columns:
            says = column.scale or column.convention or column.unit
            assert says or column.relion, f"{one.name}: {column.label}"
