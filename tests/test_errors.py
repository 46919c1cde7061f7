import pytest

from cryorefine.errors import CryorefineError, InputError, StoppedEarly


def test_an_input_error_says_where_what_and_what_to_do():
    error = InputError("no such file", where="a.star, line 3", do="check the path")
    assert str(error) == "a.star, line 3: no such file. Check the path."


def test_an_input_error_without_place_or_advice_is_still_a_sentence():
    assert str(InputError("no such file")) == "no such file."


@pytest.mark.parametrize("stray", ["\n", "\r\n", "\x0b", "\x85", "\u2028", "\x1b", "\0", "\udcff"])
def test_a_message_is_one_printable_line_whatever_the_file_held(stray):
    text = str(InputError(f"'a{stray}b' is odd", where=f"x{stray}.star", do="correct it"))
    assert len(text.splitlines()) == 1
    assert text.isprintable()
    assert text.encode("utf-8")


def test_exit_codes_tell_wrong_input_from_an_early_stop():
    assert (CryorefineError.exit_code, InputError.exit_code, StoppedEarly.exit_code) == (1, 2, 3)
