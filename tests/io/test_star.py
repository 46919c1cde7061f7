import re

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cryorefine.io import star
from cryorefine.io.star import read_star, write_star
from tests.builders import line_of, loop, refused

quick = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)

printable = st.text(
    st.characters(codec="utf-8", exclude_categories=["Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"])
    | st.sampled_from("\"'# _;[]$"),
    max_size=12,
)


@pytest.fixture(autouse=True, params=["singly", "many at once"])
def rows_taken(request, monkeypatch):
    """Take plain rows and numbers both as in small files and as in large ones."""
    if request.param == "many at once":
        monkeypatch.setattr(star, "_LARGE_FILE", 0)
        monkeypatch.setattr(star, "_MANY_ROWS", 0)


def holds_both_quotes_before_blanks(value):
    return bool(re.search(r'"\s', value) and re.search(r"'\s", value))


values = (
    printable
    | st.sampled_from(["", " ", "loop_", "data_x", "_rlnX", '"', "' ", "#", "a#b", "it's"])
).filter(lambda v: not holds_both_quotes_before_blanks(v))
tables = st.integers(1, 4).flatmap(
    lambda n: st.lists(st.lists(values, min_size=n, max_size=n), min_size=1, max_size=5)
)


def written(path, text, **options):
    path.write_text(text, encoding="utf-8", newline="", **options)
    return path


@quick
@given(rows=tables)
def test_any_printable_values_come_back_as_they_were_written(rows, tmp_path):
    columns = {f"rln{i}": np.array(column) for i, column in enumerate(zip(*rows, strict=True))}
    write_star(tmp_path / "t.star", {"particles": columns})
    block = read_star(tmp_path / "t.star")["particles"]
    assert list(block.columns) == list(columns)
    assert [list(block.text(label)) for label in columns] == [list(c) for c in columns.values()]


@quick
@given(rows=tables)
def test_columns_read_from_a_file_are_written_back_byte_for_byte(rows, tmp_path):
    columns = {f"rln{i}": np.array(column) for i, column in enumerate(zip(*rows, strict=True))}
    write_star(tmp_path / "1.star", {"particles": columns})
    first = read_star(tmp_path / "1.star")["particles"].columns
    write_star(tmp_path / "2.star", {"particles": first})
    assert (tmp_path / "1.star").read_bytes() == (tmp_path / "2.star").read_bytes()


@quick
@given(numbers=st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=8))
def test_floats_come_back_to_six_decimals_or_eight_digits(numbers, tmp_path):
    write_star(tmp_path / "t.star", {"p": {"rlnX": np.array(numbers)}})
    back = read_star(tmp_path / "t.star")["p"].floats("rlnX")
    np.testing.assert_allclose(back, numbers, rtol=5.1e-9, atol=5.1e-7)
    tiny = np.abs(numbers) < 1e-3
    np.testing.assert_allclose(back[tiny], np.array(numbers)[tiny], rtol=5.1e-9, atol=0)


@quick
@given(numbers=st.lists(st.integers(-(2**53), 2**53), min_size=1, max_size=8))
def test_integers_come_back_exactly(numbers, tmp_path):
    write_star(tmp_path / "t.star", {"p": {"rlnN": np.array(numbers)}})
    assert read_star(tmp_path / "t.star")["p"].integers("rlnN").tolist() == numbers


@pytest.mark.parametrize("value", ["a\" b' c", "a\nb"])
def test_a_value_that_star_cannot_hold_is_not_written(value, tmp_path):
    path = written(tmp_path / "t.star", "old")
    with refused("STAR"):
        write_star(path, {"p": {"rlnX": np.array([value])}})
    assert path.read_text() == "old"


def test_unknown_bytes_travel_unchanged(tmp_path):
    path = tmp_path / "t.star"
    path.write_bytes(b"data_p\nloop_\n_rlnX\n_rlnY\nM\xfcller.mrc 1.50e+00\n\xff\xfe 007\n")
    write_star(tmp_path / "out.star", {"p": read_star(path)["p"].columns})
    rows = (tmp_path / "out.star").read_bytes().split(b"\n")
    assert b"M\xfcller.mrc  1.50e+00" in rows
    assert b"\xff\xfe  007" in rows


@pytest.mark.parametrize("end", ["\n", "\r\n"], ids=["unix", "dos"])
def test_line_ends_comments_blank_lines_and_label_numbers_do_not_matter(tmp_path, end):
    text = (
        "# a comment\n\n  data_particles  \n# another\nloop_ \n"
        "_rlnA #1 \n_rlnB\n_rlnC #3 a remark\n"
        " 1   two 3.5 \n\n# between rows\n\t4\tfive\t6 # behind a row\n"
    )
    path = written(tmp_path / "t.star", text.replace("\n", end))
    block = read_star(path)["particles"]
    assert list(block.columns) == ["rlnA", "rlnB", "rlnC"]
    assert block.integers("rlnA").tolist() == [1, 4]
    assert list(block.text("rlnB")) == ["two", "five"]
    assert block.floats("rlnC").tolist() == [3.5, 6.0]
    assert block.lines.tolist() == [9, 12]
    assert len(block) == 2
    assert block.is_loop


def test_a_comment_may_stand_behind_data_and_loop(tmp_path):
    path = written(tmp_path / "t.star", "data_p # one\nloop_ # two\n_rlnA # three\n1\n")
    assert read_star(path)["p"].integers("rlnA").tolist() == [1]


def test_a_byte_order_mark_before_the_first_line_does_not_matter(tmp_path):
    path = tmp_path / "t.star"
    path.write_bytes(b"\xef\xbb\xbfdata_p\nloop_\n_rlnA\n1\n")
    assert read_star(path)["p"].integers("rlnA").tolist() == [1]


def test_quoted_values_may_hold_blanks_and_the_other_quote(tmp_path):
    text = "data_p\nloop_\n_rlnA\n_rlnB\n'a b' \"it's c\"\n\"\" 'd'e'\n\"x#y z\" '\"'\n"
    block = read_star(written(tmp_path / "t.star", text))["p"]
    assert list(block.text("rlnA")) == ["a b", "", "x#y z"]
    assert list(block.text("rlnB")) == ["it's c", "d'e", '"']


def test_several_blocks_come_in_file_order_with_and_without_loops(tmp_path):
    text = (
        "data_general\n\n_rlnFinalResolution   16.36\n_rlnMaskName 'my mask.mrc' # soft\n\n"
        "data_\nloop_\n_rlnA #1\n1\n2\n\ndata_fsc\nloop_\n_rlnB #1\n3\n"
    )
    blocks = read_star(written(tmp_path / "t.star", text))
    assert list(blocks) == ["general", "", "fsc"]
    general = blocks["general"]
    assert not general.is_loop
    assert len(general) == 1
    assert general.floats("rlnFinalResolution").tolist() == [16.36]
    assert list(general.text("rlnMaskName")) == ["my mask.mrc"]
    assert blocks[""].integers("rlnA").tolist() == [1, 2]
    assert "rlnB" in blocks["fsc"]
    assert "rlnA" not in blocks["fsc"]


def test_a_loop_without_rows_has_no_rows_but_all_labels(tmp_path):
    block = read_star(written(tmp_path / "t.star", "data_p\nloop_\n_rlnA #1\n_rlnB #2\n"))["p"]
    assert len(block) == 0
    assert list(block.columns) == ["rlnA", "rlnB"]
    assert block.floats("rlnA").shape == (0,)
    assert block.integers("rlnA").shape == (0,)
    assert block.text("rlnB").shape == (0,)


def test_a_block_without_labels_has_no_rows(tmp_path):
    assert len(read_star(written(tmp_path / "t.star", "data_p\n"))["p"]) == 0


def test_a_table_without_rows_can_be_written(tmp_path):
    write_star(tmp_path / "t.star", {"p": {"rlnA": np.zeros(0), "rlnB": np.zeros(0, "S3")}})
    assert list(read_star(tmp_path / "t.star")["p"].columns) == ["rlnA", "rlnB"]


@pytest.mark.parametrize("n_rows", [1, 2, 3, 4, 5, 6, 7])
def test_files_longer_than_a_chunk_read_as_one_table(tmp_path, monkeypatch, n_rows):
    monkeypatch.setattr(star, "_CHUNK_ROWS", 3)
    names = ["x" * (i + 1) for i in range(n_rows)]  # of growing width
    path = written(tmp_path / "t.star", loop("p", {"rlnN": range(n_rows), "rlnS": names}))
    block = read_star(path)["p"]
    assert block.integers("rlnN").tolist() == list(range(n_rows))
    assert list(block.text("rlnS")) == names
    assert block.lines.tolist() == list(range(6, 6 + n_rows))


def test_a_bad_row_behind_the_first_chunk_names_its_own_line(tmp_path, monkeypatch):
    monkeypatch.setattr(star, "_CHUNK_ROWS", 2)
    path = written(tmp_path / "t.star", "data_p\nloop_\n_rlnA\n_rlnB\n1 2\n3 4\n\n5 6\n7\n8 9\n")
    with refused(f"{path}, line 9, column 2", "_rlnB"):
        read_star(path)


def test_a_row_that_is_too_short_names_line_column_and_label(tmp_path):
    path = written(tmp_path / "t.star", "data_p\nloop_\n_rlnA\n_rlnB\n_rlnC\n1 2 3\n1 2\n")
    with refused(f"{path}, line 7, column 3", "2 values for 3 columns", "_rlnC"):
        read_star(path)


def test_a_row_that_is_too_long_names_line_column_and_value(tmp_path):
    path = written(tmp_path / "t.star", "data_p\nloop_\n_rlnA\n_rlnB\n1 2\n1 2 three\n")
    with refused(f"{path}, line 6, column 3", "3 values for 2 columns", "'three'"):
        read_star(path)


def test_a_file_cut_off_within_a_row_is_refused(tmp_path):
    whole = loop("p", {"rlnA": [1, 2, 3], "rlnB": ["x", "y", "z"]})
    path = written(tmp_path / "t.star", whole[: whole.rindex("z")])
    with refused("line 8", "1 values for 2 columns", "cut short"):
        read_star(path)


@pytest.mark.parametrize(
    ("text", "line", "part"),
    [
        ("data_p\nloop_\n_rlnA\n_rlnB\n_rlnA\n1 2 3\n", 5, "label _rlnA appears twice"),
        ("data_p\n_rlnA 1\n_rlnA 2\n", 3, "label _rlnA appears twice"),
        ("data_p\nloop_\n_rlnA\n1\ndata_q\ndata_p\n", 6, "block data_p appears twice"),
        ("data_p\nloop_\n_rlnA\n1\nloop_\n_rlnB\n2\n", 5, "second loop_"),
        ("hello\ndata_p\n", 1, "not a STAR file"),
        ("# only\n\nloop_\n_rlnA\n1\n", 3, "not a STAR file"),
        ("data_p\n1 2 3\n", 2, "'1 2 3' stands where"),
        ("data_p\nloop_\n1 2 3\n", 3, "'1 2 3' stands where"),
        ("data_p\n_rlnA\n", 2, "_rlnA has no value"),
        ("data_p\n_rlnA 1 2\n", 2, "_rlnA has 2 values"),
        ("data_p\n_rlnA 1\nx y\n", 3, "'x y' stands where"),
    ],
)
def test_what_is_not_star_is_refused_with_its_line(tmp_path, text, line, part):
    path = written(tmp_path / "t.star", text)
    with refused(f"{path}, line {line}: ", part):
        read_star(path)


@pytest.mark.parametrize("text", ["", "\n\n", "  \r\n"])
def test_an_empty_file_is_refused(tmp_path, text):
    with refused("t.star: the file is empty"):
        read_star(written(tmp_path / "t.star", text))


def test_a_file_of_comments_only_is_refused(tmp_path):
    with refused("t.star: no data_ block"):
        read_star(written(tmp_path / "t.star", "# version 30001\n"))


@pytest.mark.parametrize("seed", range(5))
def test_binary_garbage_is_refused_in_one_line(tmp_path, seed):
    path = tmp_path / "t.star"
    path.write_bytes(np.random.default_rng(seed).bytes(5000))
    with refused(f"{path}, line", "not a STAR file"):
        read_star(path)


def test_binary_garbage_behind_a_block_is_refused_in_one_line(tmp_path):
    path = tmp_path / "t.star"
    path.write_bytes(b"data_p\nloop_\n_rlnA\n1 \x1c\x85\xe2\x80\xa8\x0b\x1b\x00 2\n")
    with refused(f"{path}, line 4"):
        read_star(path)


def test_a_missing_file_a_folder_and_a_path_below_a_file_are_refused(tmp_path):
    with refused("gone.star: no such file"):
        read_star(tmp_path / "gone.star")
    with refused(f"{tmp_path}: is a folder"):
        read_star(tmp_path)
    file = written(tmp_path / "t.star", "data_p\n")
    with refused("t.star/x.star"):
        read_star(file / "x.star")
    with refused("cannot be read"):
        read_star(tmp_path / ("x" * 300))


@pytest.mark.parametrize("value", ["abc", "1,5", "nan", "NaN", "inf", "-Infinity", "1e999", '""'])
def test_a_value_that_is_not_a_finite_number_names_file_line_and_column(tmp_path, value):
    path = written(tmp_path / "t.star", f"data_p\nloop_\n_rlnA\n_rlnB\n1 x\n2 y\n{value} z\n")
    shown = value.strip('"')
    with refused(f"{path}, line 7, column _rlnA: '{shown}' is not a finite number"):
        read_star(path)["p"].floats("rlnA")


def test_the_first_of_several_bad_numbers_is_named(tmp_path):
    path = written(tmp_path / "t.star", loop("p", {"rlnA": [1, "nan", "x"]}))
    with refused(f"line {line_of(path, 'nan')}", "'nan'"):
        read_star(path)["p"].floats("rlnA")


def test_a_bad_number_outside_a_loop_names_its_own_line(tmp_path):
    path = written(tmp_path / "t.star", "data_g\n\n_rlnA 1\n_rlnB 2\n_rlnC three\n")
    with refused(f"{path}, line 5, column _rlnC"):
        read_star(path)["g"].floats("rlnC")


@pytest.mark.parametrize("value", ["1.5", "-0.1", "1e300"])
def test_a_value_that_is_not_a_whole_number_names_file_line_and_column(tmp_path, value):
    path = written(tmp_path / "t.star", loop("p", {"rlnN": ["1", value]}))
    with refused(f"line {line_of(path, value)}, column _rlnN: '{value}' is not a whole number"):
        read_star(path)["p"].integers("rlnN")


def test_whole_numbers_written_as_floats_are_accepted(tmp_path):
    path = written(tmp_path / "t.star", loop("p", {"rlnN": ["3.000", "-2e1", "0"]}))
    assert read_star(path)["p"].integers("rlnN").tolist() == [3, -20, 0]


@pytest.mark.parametrize("method", ["text", "floats", "integers"])
def test_a_missing_column_is_refused_by_name(tmp_path, method):
    block = read_star(written(tmp_path / "t.star", loop("p", {"rlnA": [1]})))["p"]
    with refused("t.star: column _rlnB is missing in block data_p"):
        getattr(block, method)("rlnB")


def test_a_failure_while_writing_leaves_the_old_file(tmp_path):
    path = written(tmp_path / "t.star", "old")
    good, ragged = {"rlnA": np.arange(3)}, {"rlnA": np.arange(3), "rlnB": np.arange(2)}
    with pytest.raises(ValueError, match="shorter"):
        write_star(path, {"good": good, "ragged": ragged})
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def gemmi_blocks(path):
    """Read a STAR file with gemmi: (name, {label: values}) by block."""
    gemmi = pytest.importorskip("gemmi")
    for block in gemmi.cif.read(str(path)):
        columns = {}
        for item in block:
            if item.loop is not None:
                width = item.loop.width()
                for i, tag in enumerate(item.loop.tags):
                    columns[tag[1:]] = [gemmi.cif.as_string(v) for v in item.loop.values[i::width]]
            elif item.pair is not None:
                columns[item.pair[0][1:]] = [gemmi.cif.as_string(item.pair[1])]
        yield block.name.strip(), columns


@pytest.mark.parametrize(
    "name",
    [
        "formats/relion31.star",
        "formats/relion31.v2.star",
        "formats/relion31.6opticsgroups.star",
        "formats/relion5.star",
        "formats/FinalRefinement-OriginalParticles-PfCRT.star",
        "formats/aspire_sample.star",
        "formats/empiar_10076_7.star",
        "maps/relion_postprocess_example.star",
        "conventions/relion_proj_batch.star",
    ],
)
def test_real_files_read_as_gemmi_reads_them(shared_data, name):
    path = shared_data / name
    mine, theirs = read_star(path), list(gemmi_blocks(path))
    assert len(mine) == len(theirs)
    for block, (block_name, columns) in zip(mine.values(), theirs, strict=True):
        assert block.name == block_name.removeprefix("#")
        assert list(block.columns) == list(columns)
        for label, column in columns.items():
            assert list(block.text(label)) == column, label


def test_what_is_written_reads_the_same_in_gemmi(tmp_path):
    awkward = ["a b", "it's", '"x', "_y", "#z", "loop_", "data_q", "", "a' b"]
    write_star(tmp_path / "t.star", {"p": {"rlnA": np.array(awkward), "rlnN": np.arange(9)}})
    ((name, columns),) = gemmi_blocks(tmp_path / "t.star")
    assert name == "p"
    assert columns["rlnA"] == awkward
    assert columns["rlnN"] == [str(i) for i in range(9)]
