"""Columns of other formats as RELION's blocks: one set of checks for all, in each one's words."""

from dataclasses import dataclass, field

import numpy as np

from cryorefine.io.star import StarBlock

__all__ = ["ForeignBlock", "as_optics_groups"]

_DIGITS = 7  # of single precision, which most formats keep numbers in


@dataclass(frozen=True, eq=False)
class ForeignBlock(StarBlock):
    """Columns by RELION's labels that another format has by names of its own.

    Attributes
    ----------
    columns
        Numbers in RELION's units, or byte strings.
    own
        The format's own names, by RELION's labels.
    """

    own: dict[str, str] = field(default_factory=dict)

    def text(self, label: str) -> np.ndarray:
        """Return a column as strings."""
        column = self._column(label)
        return super().text(label) if column.dtype.kind == "S" else column.astype(np.str_)

    def shown(self, row: int, label: str) -> str:
        """Return a value as a message shows it, in RELION's unit."""
        value = self._column(label)[row]
        return super().shown(row, label) if isinstance(value, bytes) else f"{value:.9g}"

    def named(self, label: str) -> str:
        """Return a column's name in the format, and RELION's where it is another."""
        own = self.own.get(label)
        return f"{own} (as _{label})" if own else f"_{label}"

    def where(self, row: int, label: str) -> str:
        """Return "file, particle N, name of the column" for a message about one value."""
        line = f"line {int(self.lines[row])}" if row < len(self.lines) else f"particle {row + 1}"
        return f"{self.path}, {line}, {self.named(label)}"

    def where_is(self, label: str) -> str:
        """Return "file, name of the column" for a message about a column."""
        return f"{self.path}, {self.named(label)}"


def as_optics_groups(
    particles: ForeignBlock, labels: tuple[str, ...], names: np.ndarray | None = None
) -> ForeignBlock:
    """Return optics groups, one for each set of values that particles share.

    Parameters
    ----------
    particles
        Its column of groups, ``rlnOpticsGroup``, is filled in; those of ``labels`` are taken out.
    labels
        RELION's labels of what is the same within a group; those that are missing are left out.
    names
        (n,) names that a group's particles share, too; None: groups are numbered.
    """
    found = [label for label in labels if label in particles]
    values = {label: particles.columns.pop(label) for label in found}
    keys = [
        np.unique(v if v.dtype.kind != "f" else _rounded(v), return_inverse=True)[1].reshape(-1)
        for v in (*values.values(), *([] if names is None else [names]))
    ]
    n = len(particles)
    key = np.stack(keys, -1) if keys else np.zeros((n, 1), np.int64)
    _, first, index = np.unique(key, axis=0, return_index=True, return_inverse=True)
    order = np.argsort(np.argsort(first))  # groups in the order in which the file comes to them
    first, index = np.sort(first), order[index.reshape(-1)]
    particles.columns["rlnOpticsGroup"] = index + 1
    columns: dict[str, np.ndarray] = {"rlnOpticsGroup": np.arange(1, len(first) + 1)}
    if names is not None:
        columns["rlnOpticsGroupName"] = names[first]
    for label, column in values.items():
        columns[label] = _rounded(column[first]) if column.dtype.kind == "f" else column[first]
    return ForeignBlock("optics", columns, path=particles.path, own=particles.own)


def _rounded(values: np.ndarray) -> np.ndarray:
    """Return numbers as they were before they were kept in single precision: 2.7, not 2.7000000."""
    with np.errstate(divide="ignore", invalid="ignore"):
        magnitude = np.floor(np.log10(np.abs(values)))
        unit = 10.0 ** (_DIGITS - 1 - np.where(np.isfinite(magnitude), magnitude, 0.0))
        return np.where(np.isfinite(values), np.round(values * unit) / unit, values)
