"""The loops of ``star_rows``, in numba, over a range of bytes or of rows."""

import numpy as np

from cryorefine.compiled import compiled

__all__ = ["MAX_ROW", "MAX_WIDTH", "copy_words", "find_rows", "read_decimals"]

MAX_WIDTH = 256
"""Bytes of a plain value: longer than names usually are, since each row takes as much memory."""

MAX_ROW = 2**16
"""Bytes of a row, so that 16 bits tell where in it a value begins."""

_BREAK, _BLANK, _LAST_PRINTABLE = ord("\n"), ord(" "), ord("~")
_TAB, _RETURN = ord("\t"), ord("\r")  # between them are all other blanks and the line break
_HASH, _DOUBLE, _SINGLE, _SMALL_D, _SMALL_L = (ord(c) for c in "#\"'dl")

_ZERO, _NINE, _MINUS, _PLUS, _POINT, _SMALL_E, _LARGE_E = (ord(c) for c in "09-+.eE")

_POWERS = np.array([float(10**i) for i in range(23)])
"""Powers of ten that are exact in double precision: all there are."""

_FULL = 2**53 // 10
"""A mantissa of more may not be exact in double precision with one more digit."""

_MAX_EXPONENT = 10_000
"""Beyond the exponent of any double; larger ones must not run over."""


@compiled
def find_rows(begin, end, codes, starts, lines, places, widths):
    """Find rows one after the other, until one is not plain or the arrays are full.

    Lines that are empty or a comment are passed over. Returns how many rows there are, where the
    first line begins that was not taken, and how many lines were.

    Parameters
    ----------
    begin, end
        Of the bytes to look at; a line begins at ``begin``.
    codes
        (bytes,) uint8.
    starts, lines
        (rows,) int64: filled with where each row begins, and how many lines are before it.
    places
        (columns, rows) uint16: filled with where in its row each value begins.
    widths
        (columns,) int64 zeros: filled with the length of the longest value of each column.
    """
    n_columns, n_rows, n_lines, line = len(widths), 0, 0, begin
    own = np.zeros(n_columns, np.int64)
    while line < end and n_rows < len(starts):
        at, n = line, 0
        while True:
            while at < end and (
                codes[at] == _BLANK or (_TAB <= codes[at] <= _RETURN and codes[at] != _BREAK)
            ):
                at += 1
            if at == end or codes[at] == _BREAK:
                break
            first = codes[at]
            if first == _HASH and n == 0:
                while at < end and codes[at] != _BREAK:
                    at += 1
                break
            if first in (_HASH, _DOUBLE, _SINGLE):
                return n_rows, line, n_lines
            # A word alone may begin a block.
            if n_columns == 1 and first in (_SMALL_D, _SMALL_L):
                return n_rows, line, n_lines
            if n == n_columns or at - line >= MAX_ROW:
                return n_rows, line, n_lines
            word = at
            while at < end and _BLANK < codes[at] <= _LAST_PRINTABLE:
                at += 1
            is_ended = at == end or codes[at] == _BLANK or _TAB <= codes[at] <= _RETURN
            if not is_ended or at - word > MAX_WIDTH:
                return n_rows, line, n_lines
            places[n, n_rows] = word - line
            own[n] = at - word
            n += 1
        if n == n_columns:
            for j in range(n_columns):
                widths[j] = max(widths[j], own[j])
            starts[n_rows] = line
            lines[n_rows] = n_lines
            n_rows += 1
        elif n > 0:
            return n_rows, line, n_lines
        n_lines += 1
        line = at + 1
    return n_rows, line, n_lines


@compiled
def copy_words(begin, end, codes, starts, places, out):
    """Copy the values of one column, which ``find_rows`` found, into rows of zeros of ``out``."""
    for row in range(begin, end):
        first = starts[row] + places[row]
        last = min(first + out.shape[1], len(codes))
        for at in range(first, last):
            if not _BLANK < codes[at] <= _LAST_PRINTABLE:
                break
            out[row, at - first] = codes[at]


@compiled
def read_decimals(begin, end, words, values, is_read):
    """Read words, (rows, bytes) uint8 with zeros behind, as numbers; leave what is not plain.

    Read are words whose digits are an integer that double precision holds, times or over a power of
    ten that it holds: one operation then rounds correctly [1]_. ``is_read`` says which they are.

    .. [1] Clinger (1990) How to read floating point numbers accurately. PLDI 25, 92.
    """
    width = words.shape[1]
    for row in range(begin, end):
        word = words[row]
        at, mantissa, exponent, n_digits = 0, 0, 0, 0
        is_negative = word[0] == _MINUS
        if is_negative or word[0] == _PLUS:
            at = 1
        is_read[row] = False
        is_fraction = False
        while at < width and mantissa < _FULL:
            digit = np.int64(word[at]) - _ZERO
            if 0 <= digit <= 9:
                mantissa = mantissa * 10 + digit
                n_digits += 1
                exponent -= is_fraction
            elif word[at] == _POINT and not is_fraction:
                is_fraction = True
            else:
                break
            at += 1
        if n_digits == 0:
            continue
        if at < width and (word[at] == _SMALL_E or word[at] == _LARGE_E):
            at += 1
            is_less = at < width and word[at] == _MINUS
            if at < width and (is_less or word[at] == _PLUS):
                at += 1
            power, n_digits = 0, 0
            while at < width and _ZERO <= word[at] <= _NINE and power < _MAX_EXPONENT:
                power = power * 10 + (np.int64(word[at]) - _ZERO)
                n_digits += 1
                at += 1
            if n_digits == 0:
                continue
            exponent += -power if is_less else power
        while at < width and word[at] == 0:
            at += 1
        if at < width or abs(exponent) >= len(_POWERS):
            continue
        value = float(mantissa)
        value = value * _POWERS[exponent] if exponent >= 0 else value / _POWERS[-exponent]
        values[row] = -value if is_negative else value
        is_read[row] = True
