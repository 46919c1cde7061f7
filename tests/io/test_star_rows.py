"""The compiled loops of STAR files against Python, and against the same files read line by line."""

import math
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from cryorefine.errors import InputError
from cryorefine.io import star
from cryorefine.io.star import read_star
from cryorefine.io.star_loops import MAX_ROW, MAX_WIDTH, find_rows, read_decimals
from cryorefine.io.star_rows import decimal_numbers
from tests.builders import loop, refused

many = settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)

digits = st.text("0123456789", max_size=22)
signs = st.sampled_from(["", "+", "-"])
decimals = st.builds(
    lambda sign, whole, point, part, e: sign + whole + point + part + e,
    signs,
    digits,
    st.sampled_from(["", "."]),
    digits,
    st.just("") | st.builds("{}{}{}".format, st.sampled_from("eE"), signs, st.integers(0, 400)),
)
words = (
    decimals
    | st.floats().map(repr)
    | st.floats(-1e6, 1e6).map(lambda v: f"{v:.6f}")
    | st.integers().map(str)
    | st.text("0123456789+-.eE_ naif", max_size=8)
    | st.sampled_from(
        ["", ".", "-", "e5", "1e", "1e+", "1..2", "0x10", "1_0", "1\x002", "nan", "-inf"]
    )
)


def bits(value):
    return np.float64(value).tobytes()


@many
@given(words=st.lists(words, min_size=1, max_size=20))
@example(words=["9007199254740993", "9007199254740992", "9007199254740991", "-0.0", "-0e7"])
@example(words=["1e22", "1e23", "1e-22", "1e-23", "4.35", "0.3", "123456.7890123", "5e-324"])
@example(
    words=["0" * 40 + "1.50", "0." + "0" * 21 + "1", "0." + "0" * 30 + "1", "1e99999999999999"]
)
def test_numbers_are_those_that_python_reads_to_the_bit(words):
    column = np.array([w.encode() for w in words], np.bytes_)
    expected = []
    for word in column.tolist():
        try:
            expected.append(float(word))
        except ValueError:
            with pytest.raises(ValueError, match="could not convert"):
                decimal_numbers(column)
            return
    found = decimal_numbers(column)
    for word, a, b in zip(words, found, expected, strict=True):
        assert bits(a) == bits(b) or (math.isnan(a) and math.isnan(b)), word


def test_usual_numbers_of_a_file_are_all_read_by_the_loop():
    random = np.random.default_rng(0)
    texts = [f"{v:.6f}" for v in random.uniform(-40_000, 40_000, 1000)]
    texts += [f"{v:.6e}" for v in random.uniform(-1, 1, 1000)] + ["1", "-3", "007", "300.0", ".5"]
    column = np.array(texts, np.bytes_)
    matrix = column.view(np.uint8).reshape(len(column), -1)
    values, is_read = np.full(len(column), np.nan), np.zeros(len(column), bool)
    read_decimals(0, len(column), matrix, values, is_read)
    assert is_read.all()
    assert values.tobytes() == np.array([float(t) for t in texts]).tobytes()


def test_numbers_of_a_part_and_of_a_column_that_cannot_be_written_to_are_read(tmp_path):
    column = np.array([f"{i}.5" for i in range(10)], np.bytes_)
    assert decimal_numbers(column[::2]).tolist() == [0.5, 2.5, 4.5, 6.5, 8.5]
    column.setflags(write=False)
    assert decimal_numbers(column).tolist() == [i + 0.5 for i in range(10)]


cells = st.sampled_from(
    ["1", "-2.5", "a/b.mrc", "1@s.mrcs", "'a b'", '"x"', "#c", "a#b", "it's", "_x", "loop_",
     "data_q", "d", "l", "é", "\xa0", "\x1c", "\x00", "\x7f", "\x85", "x" * (MAX_WIDTH + 1),
     "y" * 3000]
) | st.sampled_from(["1", "20", "abc"])  # fmt: skip
blanks = st.sampled_from([" ", " ", " ", "  ", "\t", "\v", "\f", "\r"])
rows = st.lists(st.tuples(cells, blanks), max_size=4).map(
    lambda row: "".join(a + b for a, b in row)
)
plain = st.sampled_from(["1 2", " 3\t4 ", "5 6\r", "", "  ", "# note é", "d 1", "7 8 9"])
texts = st.builds(
    lambda labels, lines, end, final: (
        "data_p" + end + "loop_" + end + "".join(f"_r{i}{end}" for i in range(labels))
        + end.join(lines) + final
    ),
    st.integers(1, 3),
    st.lists(plain | rows, max_size=12),
    st.sampled_from(["\n", "\n", "\r\n"]),
    st.sampled_from(["", "\n", "\n\n", "\n# end"]),
)  # fmt: skip


def outcome(path, *, many_at_once, chunk_rows):
    """Return all that is read of a file, or the message that refuses it."""
    with (
        patch.object(star, "_LARGE_FILE", 0 if many_at_once else 2**62),
        patch.object(star, "_CHUNK_ROWS", chunk_rows),
    ):
        try:
            blocks = read_star(path)
        except InputError as error:
            return str(error)
    return [
        (
            name,
            b.is_loop,
            b.ending,
            b.lines.tolist(),
            b.label_lines,
            {label: (c.dtype, c.tolist()) for label, c in b.columns.items()},
        )
        for name, b in blocks.items()
    ]


@many
@given(text=texts, chunk_rows=st.sampled_from([1, 2, 3, 50]))
def test_a_file_is_read_or_refused_the_same_many_rows_at_once(text, chunk_rows, tmp_path):
    path = tmp_path / "t.star"
    path.write_bytes(text.encode())
    singly = outcome(path, many_at_once=False, chunk_rows=chunk_rows)
    at_once = outcome(path, many_at_once=True, chunk_rows=chunk_rows)
    if chunk_rows > 1 and isinstance(singly, str):
        # Of two things that are wrong the one or the other is said, as rows are looked at together.
        assert isinstance(at_once, str)
    else:
        assert at_once == singly


@many
@given(
    at=st.floats(0, 1),
    bytes_=st.binary(min_size=1, max_size=3),
    cut=st.booleans(),
    n=st.integers(1, 3),
)
def test_a_damaged_file_is_read_or_refused_the_same_many_rows_at_once(at, bytes_, cut, n, tmp_path):
    whole = loop("p", {f"rln{j}": [f"{i}.{j}" for i in range(9)] for j in range(n)}).encode()
    place = int(at * len(whole))
    path = tmp_path / "t.star"
    path.write_bytes(whole[:place] + bytes_ + (b"" if cut else whole[place + len(bytes_) :]))
    singly = outcome(path, many_at_once=False, chunk_rows=50)
    assert outcome(path, many_at_once=True, chunk_rows=4) == singly


@pytest.fixture
def large(tmp_path):
    """Return a file large enough for the loops, and its number of rows."""
    n = 20_000
    names = [f"{i:06d}@stacks/a_{i // 100:04d}.mrcs" for i in range(1, n + 1)]
    path = tmp_path / "large.star"
    path.write_text(loop("p", {"rlnImageName": names, "rlnX": [f"{i / 7:.6f}" for i in range(n)]}))
    assert path.stat().st_size > star._LARGE_FILE
    return path, n


def test_all_rows_of_a_large_file_come_from_the_loops(large, monkeypatch):
    path, n = large
    monkeypatch.setattr(star._Builder, "flush", lambda builder: None)  # of rows taken singly
    block = read_star(path)["p"]
    assert len(block) == n
    assert block.lines.tolist() == list(range(6, 6 + n))
    assert block.floats("rlnX").tolist() == [float(f"{i / 7:.6f}") for i in range(n)]
    assert block.text("rlnImageName")[-1] == f"{n:06d}@stacks/a_{n // 100:04d}.mrcs"


def test_a_bad_number_of_a_large_file_names_file_line_and_column(large):
    path, _ = large
    path.write_text(path.read_text().replace(" 1000.000000\n", " 1OOO.000000\n"))
    with refused(f"{path}, line 7006, column _rlnX: '1OOO.000000' is not a finite number"):
        read_star(path)["p"].floats("rlnX")


def test_a_row_of_a_large_file_that_is_cut_short_names_line_and_column(large):
    path, _ = large
    path.write_text(path.read_text().replace(" 1000.000000\n", "\n"))
    with refused(f"{path}, line 7006, column 2: row has 1 values for 2 columns", "_rlnX"):
        read_star(path)


def test_a_row_that_is_not_plain_amid_a_large_file_is_read_all_the_same(large):
    path, _ = large
    whole = read_star(path)["p"].columns
    name = "001000@stacks/a_0010.mrcs"
    path.write_text(path.read_text().replace(name, f'"{name}"') + "# end\n")
    found = read_star(path)["p"].columns
    for label in whole:
        np.testing.assert_array_equal(found[label], whole[label])


def test_places_of_values_fit_into_their_sixteen_bits():
    data = b" " * (MAX_ROW - 1) + b"1\n" + b" " * MAX_ROW + b"2\n"
    starts, lines = np.zeros(4, np.int64), np.zeros(4, np.int64)
    places, widths = np.zeros((1, 4), np.uint16), np.zeros(1, np.int64)
    codes = np.frombuffer(data, np.uint8)
    n, end, n_lines = find_rows(0, len(data), codes, starts, lines, places, widths)
    assert (n, end, n_lines) == (1, MAX_ROW + 1, 1)
    assert places[0, 0] == MAX_ROW - 1
