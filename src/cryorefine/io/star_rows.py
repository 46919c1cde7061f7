"""Rows of plain values in the bytes of a STAR file: taken many at once, and read as numbers.

Plain are values of printable ASCII without quotes, at most 256 bytes long. Whatever is otherwise in
a file ends what is taken here, and is left to be looked at with care.
"""

import numpy as np

from cryorefine.io.star_loops import copy_words, find_rows, read_decimals

__all__ = ["decimal_numbers", "plain_rows"]

_MAX_CELLS = 2**22
"""Values of rows that are found at once: 8 MB say where they begin."""


def plain_rows(
    data: bytes, begin: int, n_columns: int, max_rows: int
) -> tuple[list[np.ndarray], np.ndarray, int, int]:
    """Take the rows of plain values that follow one another in a file.

    Parameters
    ----------
    begin
        Where in ``data`` the first of their lines begins.
    n_columns
        Values of each row.
    max_rows
        How many are taken at most.

    Returns
    -------
    Columns, (rows,) of byte strings each; how many lines are before each row, from ``begin`` on;
    where the first line begins that was not taken, and how many lines were.
    """
    # A row has a byte and a blank at least for each value.
    n_max = min(max_rows, _MAX_CELLS // n_columns, (len(data) - begin) // (2 * n_columns) + 1)
    codes = np.frombuffer(data, np.uint8)
    starts, lines = np.empty(n_max, np.int64), np.empty(n_max, np.int64)
    places = np.empty((n_columns, n_max), np.uint16)
    widths = np.zeros(n_columns, np.int64)
    n, end, n_lines = find_rows(begin, len(data), codes, starts, lines, places, widths)
    if n == 0:
        return [], lines[:0], begin, 0
    columns = []
    for column, width in zip(places, widths.tolist(), strict=True):
        words = np.zeros((n, width), np.uint8)
        copy_words(0, n, codes, starts, column, words)
        columns.append(words.view(f"S{width}")[:, 0])
    return columns, lines[:n], end, n_lines


def decimal_numbers(column: np.ndarray) -> np.ndarray:
    """Return byte strings as the float64 that Python's ``float`` makes of each, to the bit.

    Raises
    ------
    ValueError
        If one is no number.
    """
    column = np.require(column, requirements=["C", "W"])  # kernels take one kind of array
    words = column.view(np.uint8).reshape(len(column), column.dtype.itemsize)
    values, is_read = np.empty(len(column)), np.empty(len(column), np.bool_)
    read_decimals(0, len(column), words, values, is_read)
    if not is_read.all():
        values[~is_read] = column[~is_read].astype(np.float64)
    return values
