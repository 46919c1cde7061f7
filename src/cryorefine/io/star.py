"""STAR files: blocks of columns, as RELION writes them.

Values stay as the bytes that the file holds until somebody asks for numbers, so that columns
nobody knows travel through unchanged, and an error can name file, line and column.
"""

import codecs
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from cryorefine.errors import InputError
from cryorefine.io.atomic import atomic_path
from cryorefine.io.unreadable import require_no_pipe, unreadable

__all__ = ["StarBlock", "StarForm", "read_star", "write_star"]

_CHUNK_ROWS = 50_000
"""Rows that are held as text before they become columns of bytes, or are written, so that text
never takes more memory than the table. Not measured."""

_SMALL, _LARGE = 1e-3, 1e7
"""Numbers from the one to below the other have four to fourteen digits with six decimals."""

_LARGEST_INTEGER = 2**53  # beyond it float64 skips some

_SHOWN = 60
"""Characters of a value that a message shows: names of images and most lists are shorter."""

_LONGEST_VALUE = 10_000
"""Bytes of the longest value: paths have 4,096 at most, lists of coefficients a few hundred. Each
row of a column takes as much memory as its longest value."""

_LARGEST_COLUMN, _USUAL_WIDTH = 2**30, 256
"""Bytes of the largest column of values longer than usual: a million names of a kilobyte."""

_LARGE_FILE = 2**19
"""Bytes of a file from which on its plain rows are found by compiled loops: some two thousand rows
of RELION's, which take a tenth of the second that loading numba does."""

_MANY_ROWS = 2000
"""Rows of a column from which on its numbers are read by compiled loops; as above."""

_WRITER = re.compile(rb"(?:[^\n]*\n){0,9}(?:# version|# Written by cryorefine)")
"""What programs write among the first ten lines that leave an empty one at a file's end: RELION's
version, and ours."""

_LAST_ASCII = 127  # code of a character
_NONE = np.zeros(0, "S1")  # of a column
_BLANK, _NOT_BLANK = re.compile(r"\s"), re.compile(r"\S")
_END_OF_QUOTE = {quote: re.compile(quote + r"(?=\s|\Z)") for quote in "\"'"}


@dataclass(frozen=True, eq=False)
class StarBlock:
    """One ``data_`` block.

    Attributes
    ----------
    name
        Without the ``data_`` prefix; may be empty.
    columns
        Labels without the leading underscore, in file order, to byte strings, one per row.
    lines
        Line number of each row, for messages; outside a loop of each label.
    path
        Where it was read from.
    is_loop
        False for a block of single ``_label value`` lines.
    label_lines
        Line number of each label, for messages.
    ending
        How the file ends after the rows of its last block: "whole", or "in a row" without a line
        break, or "after a row" where its writer would have left an empty line.
    """

    name: str
    columns: dict[str, np.ndarray]
    lines: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    path: Path = Path()
    is_loop: bool = True
    label_lines: dict[str, int] = field(default_factory=dict)
    ending: Literal["whole", "in a row", "after a row"] = "whole"
    _numbers: dict[str, np.ndarray] = field(default_factory=dict, init=False, repr=False)

    def __len__(self) -> int:
        return len(next(iter(self.columns.values()))) if self.columns else 0

    def __contains__(self, label: str) -> bool:
        return label in self.columns

    def text(self, label: str) -> np.ndarray:
        """Return a column as strings; bytes that are not UTF-8 show as U+FFFD.

        Raises
        ------
        InputError
            If the block lacks the column.
        """
        column = self._column(label)
        is_ascii = not (_bytes_of(column) > _LAST_ASCII).any()
        if is_ascii:  # a code a character, and much quicker so
            codes = _bytes_of(column).astype(np.uint32)
            return codes.view(f"U{column.dtype.itemsize}")[:, 0]
        return np.char.decode(column, "utf-8", "replace")

    def floats(self, label: str) -> np.ndarray:
        """Return a column as finite float64 numbers.

        Raises
        ------
        InputError
            If the column is missing, or a value is not a finite number: names line and column.
        """
        known = self._numbers.get(label)
        if known is not None:
            return known.copy()
        raw = self._column(label)
        try:
            values = _numbers_of(raw)
            bad = ~np.isfinite(values)
        except ValueError:
            bad = np.array([not _is_finite_number(v) for v in raw])
            values = raw
        if bad.any():
            row = int(np.argmax(bad))
            raise InputError(
                f"'{self.shown(row, label)}' is not a finite number",
                where=self.where(row, label),
                do="correct the value or remove the row",
            )
        self._numbers[label] = values
        return values.copy()

    def integers(self, label: str) -> np.ndarray:
        """Return a column as int64; numbers written as ``3.000`` are accepted."""
        values = self.floats(label)
        bad = (values != np.round(values)) | (np.abs(values) > _LARGEST_INTEGER)
        if bad.any():
            row = int(np.argmax(bad))
            raise InputError(
                f"'{self.shown(row, label)}' is not a whole number",
                where=self.where(row, label),
                do="correct the value",
            )
        return values.astype(np.int64)

    def shown(self, row: int, label: str) -> str:
        """Return a value as a message shows it: not all of a very long one."""
        text = self._column(label)[row].decode("utf-8", "replace")
        return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."

    def named(self, label: str) -> str:
        """Return a column's name as a message shows it."""
        return f"_{label}"

    def where(self, row: int, label: str) -> str:
        """Return "file, line N, column label" for a message about one value."""
        entry = row if self.is_loop else list(self.columns).index(label)
        line = f", line {int(self.lines[entry])}" if entry < len(self.lines) else ""
        return f"{self.path}{line}, column _{label}"

    def where_is(self, label: str) -> str:
        """Return "file, line N, column label" for a message about a column."""
        line = f", line {self.label_lines[label]}" if label in self.label_lines else ""
        return f"{self.path}{line}, column _{label[:_SHOWN]}"

    def _column(self, label: str) -> np.ndarray:
        if label not in self.columns:
            raise InputError(
                f"column _{label} is missing in block data_{self.name}",
                where=str(self.path),
                do="add the column",
            )
        return self.columns[label]


def _bytes_of(column: np.ndarray) -> np.ndarray:
    """Return byte strings as (rows, bytes) uint8, with zeros behind."""
    column = np.ascontiguousarray(column)
    return column.view(np.uint8).reshape(len(column), column.dtype.itemsize)


def _numbers_of(column: np.ndarray) -> np.ndarray:
    """Return a column as float64: bit for bit the same in both ways."""
    if column.dtype.kind != "S" or len(column) < _MANY_ROWS:
        return column.astype(np.float64)
    from cryorefine.io.star_rows import decimal_numbers  # numba takes a second to load

    return decimal_numbers(column)


def _is_finite_number(value: bytes) -> bool:
    try:
        return bool(np.isfinite(float(value)))
    except ValueError:
        return False


def _split_quoted(line: str) -> list[str]:
    """Split at blanks outside single or double quotes; a quote ends only before a blank."""
    out, i, unended = [], 0, set[str]()
    while (found := _NOT_BLANK.search(line, i)) and line[found.start()] != "#":
        i = found.start()
        quote = line[i]
        if quote in _END_OF_QUOTE and quote not in unended:
            end = _END_OF_QUOTE[quote].search(line, i + 1)
            if end is not None:
                out.append(line[i + 1 : end.start()])
                i = end.end()
                continue
            unended.add(quote)  # nor does any later one: the line is not searched again
        end = _BLANK.search(line, i)
        j = len(line) if end is None else end.start()
        out.append(line[i:j])
        i = j
    return out


def _only_word(line: str) -> str:
    """Return a line's word if it could be data_ or loop_ and stands alone or before a comment."""
    if line[0] not in "dl":
        return ""
    words = line.split(maxsplit=1)
    return words[0] if len(words) == 1 or words[1][0] == "#" else ""


class _Lines:
    """The lines of a file one after the other, without blanks around them.

    Attributes
    ----------
    number
        Of the line that came last, from 1.
    """

    def __init__(self, data: bytes):
        self.data = data
        self.number = 0
        self._begin = self._next = 0

    def __iter__(self) -> Iterator[str]:
        while self._next <= len(self.data):
            self._begin, self._next = self._next, _line_end(self.data, self._next) + 1
            self.number += 1
            yield _text(self.data[self._begin : self._next]).strip()

    def plain_rows(self, n_columns: int) -> tuple[list[np.ndarray], np.ndarray] | None:
        """Take rows of plain values, from the line that came last on; None if it is none.

        Returns
        -------
        Columns of byte strings, and the line number of each row.
        """
        if len(self.data) < _LARGE_FILE:
            return None
        from cryorefine.io.star_rows import plain_rows  # numba takes a second to load

        columns, before, end, n_lines = plain_rows(self.data, self._begin, n_columns, _CHUNK_ROWS)
        if len(before) == 0:
            return None
        lines = before + self.number
        self._next = end
        self.number += n_lines - 1
        return columns, lines


def _line_end(data: bytes, begin: int) -> int:
    end = data.find(b"\n", begin)
    return len(data) if end < 0 else end


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


class _Builder:
    """Collects one block's rows and turns them into columns chunk by chunk."""

    def __init__(self, name: str, path: Path):
        self.name, self.path = name, path
        self.labels: dict[str, int] = {}  # in order, and found at once; the line of each
        self.ending: Literal["whole", "in a row", "after a row"] = "whole"
        self.is_loop = False
        self.has_rows = False
        self.rows: list[str] = []
        self.row_lines: list[int] = []
        self.chunks: list[list[np.ndarray]] = []
        self.line_chunks: list[np.ndarray] = []
        self.pairs: list[str] = []
        self.pair_lines: list[int] = []

    def add_line(self, text: str, word: str, lines: _Lines) -> None:
        """Take one of the block's lines: loop_, a label with or without its value, or a row."""
        line = lines.number
        if word == "loop_":
            if self.labels:
                raise InputError(
                    f"second loop_ in block data_{self.name}",
                    where=f"{self.path}, line {line}",
                    do="start a new data_ block before it",
                )
            self.is_loop = True
        elif text[0] == "_" and not self.has_rows:
            parts = _split_quoted(text)
            self.add_label(parts[0][1:], line)
            if not self.is_loop:
                self.add_value(parts, line)
        elif self.is_loop and self.labels:
            self.has_rows = True
            self.add_row(text, lines)
        else:
            raise InputError(
                f"'{text[:40]}' stands where a label or loop_ is expected",
                where=f"{self.path}, line {line}",
                do="is this a STAR file?",
            )

    def add_label(self, label: str, line: int) -> None:
        if label in self.labels:
            raise InputError(
                f"label _{label} appears twice in block data_{self.name}",
                where=f"{self.path}, line {line}",
                do="remove one of the two columns",
            )
        self.labels[label] = line

    def add_value(self, parts: list[str], line: int) -> None:
        """Take the value that stands beside a label outside a loop."""
        if len(parts) != 2:
            raise InputError(
                f"label {parts[0]} has {len(parts) - 1 or 'no'} value" + "s" * (len(parts) > 2),
                where=f"{self.path}, line {line}",
                do="give one value on the same line, or write loop_ before the labels",
            )
        self._require_short(parts[1], parts[0][1:], line)
        self.pairs.append(parts[1])
        self.pair_lines.append(line)

    def add_row(self, text: str, lines: _Lines) -> None:
        """Take a row, and with it those that follow where they are plain."""
        plain = None if self.rows else lines.plain_rows(len(self.labels))
        if plain is not None:
            columns, row_lines = plain
            self.chunks.append(columns)
            self.line_chunks.append(row_lines)
            return
        self.rows.append(text)
        self.row_lines.append(lines.number)
        if len(self.rows) >= _CHUNK_ROWS:
            self.flush()

    def flush(self) -> None:
        if not self.rows:
            return
        n = len(self.labels)
        joined = "\n".join(self.rows)
        has_quotes = '"' in joined or "'" in joined or "#" in joined
        split = [_split_quoted(row) if has_quotes else row.split() for row in self.rows]
        for row, line in zip(split, self.row_lines, strict=True):
            if len(row) != n:
                self._refuse_row(row, line)
            if len(max(row, key=len)) > _LONGEST_VALUE // 4:  # a character has 4 bytes at most
                for label, value in zip(self.labels, row, strict=True):
                    self._require_short(value, label, line)
        tokens = [t for row in split for t in row]
        encoded = [t.encode("utf-8", "surrogateescape") for t in tokens]
        self.chunks.append([np.array(encoded[j::n], dtype=np.bytes_) for j in range(n)])
        self.line_chunks.append(np.array(self.row_lines, dtype=np.int64))
        self.rows, self.row_lines = [], []

    def _require_short(self, value: str, label: str, line: int) -> None:
        n_bytes = len(value.encode("utf-8", "surrogateescape"))
        if n_bytes > _LONGEST_VALUE:
            raise InputError(
                f"the value '{value[:_SHOWN]}...' has {n_bytes} bytes",
                where=f"{self.path}, line {line}, column _{label}",
                do=f"shorten it to {_LONGEST_VALUE} bytes at most",
            )

    def _refuse_row(self, row: list[str], line: int) -> None:
        n = len(self.labels)
        if len(row) < n:
            detail = f"; the first without a value is _{list(self.labels)[len(row)][:_SHOWN]}"
        else:
            detail = f"; the first too many is '{row[n][:_SHOWN]}'"
        raise InputError(
            f"row has {len(row)} values for {n} columns{detail}",
            where=f"{self.path}, line {line}, column {min(len(row), n) + 1}",
            do="was the file cut short or edited by hand? Restore the row or remove it",
        )

    def build(self) -> StarBlock:
        self.flush()
        if not self.is_loop:
            columns = {
                label: np.array([value.encode("utf-8", "surrogateescape")], dtype=np.bytes_)
                for label, value in zip(self.labels, self.pairs, strict=True)
            }
            lines = np.array(self.pair_lines, dtype=np.int64)
            ending = "in a row" if self.ending == "in a row" else "whole"
            return StarBlock(self.name, columns, lines, self.path, is_loop=False, ending=ending)
        columns = {label: self._column(j, label) for j, label in enumerate(self.labels)}
        lines = np.concatenate(self.line_chunks) if self.line_chunks else np.zeros(0, np.int64)
        return StarBlock(
            self.name, columns, lines, self.path, label_lines=self.labels, ending=self.ending
        )

    def _column(self, j: int, label: str) -> np.ndarray:
        """Put a column together, which takes as much memory a row as its longest value."""
        parts = [chunk[j] for chunk in self.chunks]
        if not parts:
            return np.zeros(0, dtype="S1")
        widths = [part.dtype.itemsize for part in parts]
        n_bytes = max(widths) * sum(map(len, parts))
        if n_bytes > _LARGEST_COLUMN and max(widths) > _USUAL_WIDTH:
            widest = widths.index(max(widths))
            row = int(np.char.str_len(parts[widest]).argmax())
            raise InputError(
                f"the value '{parts[widest][row][:_SHOWN].decode('utf-8', 'replace')}...' of "
                f"{max(widths)} bytes is too long for a table of {sum(map(len, parts))} rows",
                where=f"{self.path}, line {self.line_chunks[widest][row]}, column _{label}",
                do="shorten it",
            )
        for chunk in self.chunks:
            chunk[j] = _NONE  # or all columns would be in memory twice
        return np.concatenate(parts)


def read_star(path: Path) -> dict[str, StarBlock]:
    """Read all blocks of a STAR file.

    Unix and DOS line ends, comments, quoted values, labels with or without ``#n``, and blank lines
    between rows are accepted.

    Raises
    ------
    InputError
        If the file is missing, empty, not STAR, has a row with too few or too many values, or a
        label twice: names the line.
    """
    path = Path(path)
    blocks: dict[str, StarBlock] = {}
    current: _Builder | None = None
    is_empty = True
    lines = _Lines(_read_bytes(path))
    for line in lines:
        is_empty = is_empty and not line
        if not line or line[0] == "#":
            continue
        if current is not None and current.has_rows and line[0] not in "dl":
            current.add_row(line, lines)
            continue
        word = _only_word(line)
        if word.startswith("data_"):
            if current is not None:
                blocks[current.name] = current.build()
            current = _Builder(word[5:], path)
            if current.name in blocks:
                raise InputError(
                    f"block data_{current.name} appears twice",
                    where=f"{path}, line {lines.number}",
                    do="keep one of the two",
                )
        elif current is None:
            raise InputError(
                "not a STAR file: the first line is not 'data_...'",
                where=f"{path}, line {lines.number}",
                do="give a RELION .star file",
            )
        else:
            current.add_line(line, word, lines)
    if is_empty:
        raise InputError("the file is empty", where=str(path), do="was it copied whole?")
    if current is None:
        raise InputError("no data_ block", where=str(path), do="give a RELION .star file")
    if current.labels and (current.has_rows or not current.is_loop):
        current.ending = _ending(lines.data)
    blocks[current.name] = current.build()
    return blocks


def _ending(data: bytes) -> Literal["whole", "in a row", "after a row"]:
    """Tell how a file ends whose last block has rows."""
    begin = data.rfind(b"\n") + 1
    last = _text(data[begin:]).strip()
    if last:
        return "whole" if last[0] == "#" else "in a row"
    if begin == 0:
        return "whole"
    above = _text(data[data.rfind(b"\n", 0, begin - 1) + 1 : begin]).strip()
    if not above or above[0] == "#":
        return "whole"
    # RELION and cryorefine leave an empty line after every loop; others may not.
    return "after a row" if _WRITER.match(data) else "whole"


def _read_bytes(path: Path) -> bytes:
    """Return what a file holds, without a byte order mark; refuse what is no file."""
    require_no_pipe(path)
    try:
        return path.read_bytes().removeprefix(codecs.BOM_UTF8)
    except OSError as error:
        raise unreadable(path, error) from None


_is_plain = re.compile(r"(?!loop_\Z|data_)[^\s_#'\"]\S*").fullmatch
"""Tells whether a value needs no quotes: it is no word of the format's own."""


def _format(column: np.ndarray, where: str) -> list[str]:
    if column.dtype.kind == "S":
        column = np.char.decode(column, "utf-8", "surrogateescape")
    if column.dtype.kind == "f":
        size = np.abs(column.astype(np.float64))
        is_short = ((size >= _SMALL) & (size < _LARGE)) | (size == 0)
        if is_short.all():
            return [f"{v:.6f}" for v in column.tolist()]
        return [
            f"{v:.6f}" if short else f"{v:.8e}"
            for v, short in zip(column.tolist(), is_short.tolist(), strict=True)
        ]
    if column.dtype.kind in "iu":
        return [str(v) for v in column.tolist()]
    values = column.tolist() if column.dtype.kind == "U" else [str(v) for v in column.tolist()]
    return [v if _is_plain(v) else _quote(v, where) for v in values]


def _quote(value: str, where: str) -> str:
    """Return a value in quotes, since it would be read as something else without."""
    for quote in "\"'":
        # A quote ends a value only before a blank.
        if "\n" not in value and not any(quote + c in value for c in value if c.isspace()):
            return f"{quote}{value}{quote}"
    raise InputError(
        f"the value '{value}' cannot be written in a STAR file",
        where=where,
        do="remove its quotes and line breaks",
    )


@dataclass(frozen=True)
class StarForm:
    """How a program writes STAR files.

    Attributes
    ----------
    first_line
        Of the file.
    version
        Line above each block.
    is_numbered
        Whether columns are numbered after their labels.
    """

    first_line: str = ""
    version: str = "# version 30001"
    is_numbered: bool = True


def write_star(
    path: Path,
    blocks: Mapping[str, Mapping[str, np.ndarray]],
    form: StarForm = StarForm(),
) -> None:
    """Write loop blocks atomically, in RELION 3.1's form or another.

    Parameters
    ----------
    blocks
        Block name to columns; labels without underscore. Floats get six decimals, or eight
        significant digits in exponent form below 0.001 and from 10⁷ on; byte strings are
        written as they are, in quotes where they need them.

    Raises
    ------
    InputError
        If a value holds a line break, or both kinds of quotes before blanks.
    """
    with (
        atomic_path(path) as temporary,
        open(temporary, "w", encoding="utf-8", errors="surrogateescape") as file,
    ):
        file.write(form.first_line and f"{form.first_line}\n")
        for name, columns in blocks.items():
            above = f"\n{form.version}\n\n" if form.version else ""
            file.write(f"{above}data_{name}\n\nloop_\n")
            for i, label in enumerate(columns, 1):
                file.write(f"_{label} #{i}\n" if form.is_numbered else f" _{label}\n")
            arrays = {label: np.asarray(column) for label, column in columns.items()}
            for begin in range(0, max(map(len, arrays.values()), default=0), _CHUNK_ROWS):
                texts = [
                    _format(array[begin : begin + _CHUNK_ROWS], f"{path}, column _{label}")
                    for label, array in arrays.items()
                ]
                file.writelines("  ".join(row) + "\n" for row in zip(*texts, strict=True))
            file.write("\n")
