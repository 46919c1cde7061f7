"""STAR files as cryorefine and RELION write them; nothing of Scipion is imported."""

import shlex
from typing import Dict, Iterable, Iterator, List, Sequence, TextIO, Tuple

__all__ = ["Block", "lines_by_id", "read_blocks", "words_of", "write_block"]


class Block:
    """A table of a STAR file.

    Parameters
    ----------
    columns
        Labels without the leading underscore.
    rows
        Values as they are written, one list a row.
    """

    def __init__(self, columns: Sequence[str] = (), rows: Sequence[Sequence[str]] = ()) -> None:
        self.columns = list(columns)
        self.rows = [list(row) for row in rows]

    def records(self) -> Iterator[Dict[str, str]]:
        """Yield each row by label."""
        for row in self.rows:
            yield dict(zip(self.columns, row))


def words_of(line: str) -> List[str]:
    """Return the values of a row."""
    # Quotes are rare, and shlex is slow.
    return shlex.split(line) if "'" in line or '"' in line else line.split()


def read_blocks(lines: Iterable[str]) -> Dict[str, Block]:
    """Return the tables of a STAR file by name, without ``data_``; a list is a table of one row."""
    found: Dict[str, Block] = {}
    block, is_loop = Block(), False
    for line in lines:
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        if text.startswith("data_"):
            block, is_loop = found.setdefault(text[len("data_") :], Block()), False
        elif text == "loop_":
            is_loop = True
        elif is_loop and not text.startswith("_"):
            block.rows.append(words_of(text))
        elif is_loop:
            block.columns.append(text.split()[0][1:])
        else:
            label, value = words_of(text)[:2]
            block.columns.append(label[1:])
            block.rows = [[*(block.rows[0] if block.rows else []), value]]
    return found


def _quoted(value: str) -> str:
    return f"'{value}'" if not value or any(c.isspace() for c in value) else value


def write_block(file: TextIO, name: str, block: Block) -> None:
    """Write a table, with the line of its version that RELION looks for."""
    file.write(f"\n# version 30001\n\ndata_{name}\n\nloop_\n")
    for number, column in enumerate(block.columns, 1):
        file.write(f"_{column} #{number}\n")
    for row in block.rows:
        file.write("  ".join(_quoted(value) for value in row) + "\n")
    file.write("\n")


def lines_by_id(lines: Iterable[str], name: str, label: str) -> Tuple[List[str], Dict[int, str]]:
    """Return the columns of one table, and its rows as they are written, by a whole number in them.

    Rows stay text until they are used: as dictionaries, a million would not fit in memory.
    """
    columns: List[str] = []
    found: Dict[int, str] = {}
    is_inside = False
    for line in lines:
        text = line.strip()
        if text.startswith("data_"):
            is_inside = text == f"data_{name}"
        elif is_inside and text.startswith("_"):
            columns.append(text.split()[0][1:])
        elif is_inside and text and text != "loop_" and not text.startswith("#"):
            found[int(float(words_of(text)[columns.index(label)]))] = text
    return columns, found
