import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import mrcfile
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cryorefine.errors import InputError
from cryorefine.io.mrc import write_volume
from cryorefine.restore.command import (
    check_command,
    expand_command,
    run_command,
    transform_volume,
)

PYTHON = shlex.quote(sys.executable)
WORDS = {"volume": Path("/a b/v.mrc"), "sampling": 1.5, "dim": 64}
NO_BRACES = st.text(st.characters(codec="utf-8", exclude_characters="{}\0"))


def python(code: str, arguments: str = "") -> str:
    """Return a command that runs a line of Python."""
    return f"{PYTHON} -c {shlex.quote(code)} {arguments}"


SAY_ARGUMENTS = "import sys; print(sys.argv[1:])"


def test_a_field_is_replaced_in_every_word_and_within_words():
    words = expand_command("prog -i {volume} --apix={sampling} {dim}{dim}", WORDS)
    assert words == ["prog", "-i", "/a b/v.mrc", "--apix=1.5", "6464"]


def test_words_are_those_of_a_shell():
    assert expand_command("""a 'b c' "d e" f\\ g 'h'"i" """, {}) == ["a", "b c", "d e", "f g", "hi"]


@given(NO_BRACES, NO_BRACES)
def test_a_value_stays_one_word_and_reaches_the_program_as_it_is(first, second):
    values = {"a": first, "b": second}
    assert expand_command("prog {a} x{b}", values) == ["prog", first, f"x{second}"]


@given(st.lists(NO_BRACES, min_size=1).filter(lambda words: bool(words[0])))
def test_words_without_fields_come_through(words):
    assert expand_command(shlex.join(words), {}) == words


def test_what_is_put_in_is_not_looked_at_again():
    values = {"a": "{b} 'x", "b": "{a}"}
    assert expand_command("prog {a} {b}", values) == ["prog", "{b} 'x", "{a}"]


def test_braces_that_hold_no_name_are_left_alone_and_doubled_ones_become_single():
    template = "awk '{print $1}' {} { x } {1} {{volume}} {{unheard_of}}"
    expected = ["awk", "{print $1}", "{}", "{", "x", "}", "{1}", "{volume}", "{unheard_of}"]
    assert expand_command(template, WORDS) == expected


@pytest.mark.parametrize("template", ["prog {volum}", "prog 'a", 'prog "{volume}', "prog \\"])
def test_a_template_that_cannot_be_read_is_refused_with_the_known_variables(template):
    for attempt in (
        lambda: expand_command(template, WORDS),
        lambda: run_command(template, WORDS, shell=True, cwd=Path()),
        lambda: check_command(template, WORDS),
        lambda: check_command(template, list(WORDS), shell=True),
    ):
        with pytest.raises(InputError, match=r"\{dim\}, \{sampling\}, \{volume\}"):
            attempt()


@pytest.mark.parametrize("template", ["", "  ", "\n\t", "''"])
def test_an_empty_template_is_refused(template):
    for attempt in (
        lambda: expand_command(template, WORDS),
        lambda: run_command(template, WORDS, shell=True, cwd=Path()),
        lambda: check_command(template, WORDS),
        lambda: check_command(template, WORDS, shell=True),
    ):
        with pytest.raises(InputError, match="the command is empty"):
            attempt()


def test_a_program_that_is_not_there_is_found_out_before_the_run(tmp_path):
    with pytest.raises(InputError, match="no program cryorefine-none-such"):
        check_command("cryorefine-none-such {volume}", ["volume"])
    script = tmp_path / "my script.sh"
    script.write_text("#!/bin/sh\n", encoding="utf-8")
    with pytest.raises(InputError, match="may not be executed"):
        check_command(f"'{script}' {{volume}}", ["volume"])
    script.chmod(0o700)
    check_command(f"'{script}' {{volume}}", ["volume"])
    check_command(python("print({dim})", "{volume}"), ["volume", "dim"])


def test_programs_that_only_a_shell_or_a_field_can_name_are_not_looked_for():
    check_command("for f in {volume}; do echo ${f}; done", ["volume"], shell=True)
    check_command("{program} {volume}", ["volume", "program"])


def test_output_and_errors_come_back_together(tmp_path):
    code = "import os; os.write(1, b'one '); os.write(2, b'two '); os.write(1, b'\\xff')"
    output = run_command(python(code), {}, shell=False, cwd=tmp_path)
    assert output == "one two \N{REPLACEMENT CHARACTER}"


def test_a_command_runs_in_its_folder_and_reads_nothing(tmp_path):
    code = "import os, sys; print(os.getcwd(), sys.stdin.read())"
    output = run_command(python(code), {}, shell=False, cwd=tmp_path)
    assert output.split() == [str(tmp_path.resolve())]


NASTY = [
    "a b",
    "it's",
    'say "x"',
    "$(echo no)",
    "`echo no`",
    "; echo no",
    "a\nb",
    "*",
    "~",
    "",
    "é",
]


@pytest.mark.parametrize("shell", [False, True])
def test_values_reach_the_program_literally_with_and_without_a_shell(tmp_path, shell):
    values = {f"v{i}": value for i, value in enumerate(NASTY)}
    arguments = " ".join(f"{{{name}}}" for name in values)
    code = "import sys, json; print(json.dumps(sys.argv[1:]))"
    output = run_command(python(code, arguments), values, shell=shell, cwd=tmp_path)
    assert json.loads(output) == NASTY


def test_the_marks_of_a_shell_mean_nothing_without_one(tmp_path):
    template = python(SAY_ARGUMENTS, "a; echo b | c > d && $HOME `e` *")
    output = run_command(template, {}, shell=False, cwd=tmp_path)
    assert output == "['a;', 'echo', 'b', '|', 'c', '>', 'd', '&&', '$HOME', '`e`', '*']\n"
    assert not list(tmp_path.iterdir())


def test_a_shell_has_its_pipes_and_variables(tmp_path):
    template = "x={volume}; echo ${x} | tr a-z A-Z > out.txt; cat out.txt; echo {sampling}"
    output = run_command(template, WORDS, shell=True, cwd=tmp_path)
    assert output == "/A B/V.MRC\n1.5\n"
    assert (tmp_path / "out.txt").exists()


@pytest.mark.parametrize(
    "template",
    ['echo "{volume}"', "echo '{volume}'", 'echo "it\'s \\" {volume}"', "echo 'a''{volume}'"],
)
def test_a_value_that_needs_quotes_is_refused_within_quotes_of_a_shell(tmp_path, template):
    with pytest.raises(InputError, match="without quotes"):
        run_command(template, WORDS, shell=True, cwd=tmp_path)
    plain = run_command(template, {"volume": "/a/v.mrc"}, shell=True, cwd=tmp_path)
    assert "/a/v.mrc" in plain


@pytest.mark.parametrize(
    "template", ["echo 'a b' {volume}", "echo \\' {volume}", 'echo "\\""{volume}']
)
def test_quotes_that_are_closed_or_escaped_do_not_count(tmp_path, template):
    assert "/a b/v.mrc" in run_command(template, WORDS, shell=True, cwd=tmp_path)


@pytest.mark.parametrize("shell", [False, True])
def test_a_failure_shows_the_command_its_status_and_its_last_lines(tmp_path, shell):
    code = "import sys; print(*range(1000, 1030), sep=chr(10)); sys.exit('no such thing')"
    with pytest.raises(InputError) as caught:
        run_command(python(code, "{dim}"), WORDS, shell=shell, cwd=tmp_path)
    message = str(caught.value)
    assert "sys.exit" in message
    assert " 64: " in message  # the command as it ran, not the template
    assert "exit status 1" in message
    assert "1029 | no such thing" in message
    assert "1011" in message  # with the error the twentieth line from the end
    assert "1010" not in message


def test_a_failure_without_a_word_says_so(tmp_path):
    with pytest.raises(InputError, match="exit status 7; it printed nothing"):
        run_command("exit 7", {}, shell=True, cwd=tmp_path)


def test_a_command_that_crashes_is_named_by_its_signal(tmp_path):
    with pytest.raises(InputError, match=r"SIGKILL \(exit status -9\)"):
        run_command("kill -9 $$", {}, shell=True, cwd=tmp_path)


@pytest.mark.parametrize("template", ["./none-such {volume}", "{zero} x", "{empty} x"])
def test_a_command_that_cannot_start_is_the_users_error(tmp_path, template):
    values = {**WORDS, "zero": "\0", "empty": ""}
    with pytest.raises(InputError, match="cannot be started"):
        run_command(template, values, shell=False, cwd=tmp_path)


# The writing end of a named pipe is closed when the last process that has it open is gone.
HOLD = "exec 3>{fifo}; echo begun; sleep 120; echo survived >&3"


@pytest.fixture
def fifo(tmp_path):
    path = tmp_path / "pipe"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    os.set_blocking(reader, True)
    yield path, reader
    os.close(reader)


def test_a_command_that_takes_too_long_is_killed_with_what_it_started(tmp_path, fifo):
    path, reader = fifo
    with pytest.raises(InputError, match="stopped after 1 s; it printed last: begun"):
        run_command(f"({HOLD})", {"fifo": path}, shell=True, cwd=tmp_path, timeout_s=1.0)
    assert os.read(reader, 10) == b""


@pytest.mark.parametrize("raised", [KeyboardInterrupt, RuntimeError])
def test_an_interrupt_kills_the_command_with_what_it_started(tmp_path, fifo, monkeypatch, raised):
    path, reader = fifo
    template = f"({HOLD})".replace("echo begun", "echo begun >&3")

    def interrupted(self, *_, **__):
        # It has begun when it has written this; it would sleep for minutes.
        assert os.read(reader, 6) == b"begun\n"
        raise raised

    os.set_blocking(reader, True)
    monkeypatch.setattr(subprocess.Popen, "communicate", interrupted)
    with pytest.raises(raised), open(path, "wb", buffering=0):
        # Held open from here, too, so that reading waits for the command to begin.
        run_command(template, {"fifo": path}, shell=True, cwd=tmp_path)
    assert os.read(reader, 10) == b""


EDIT = """
import sys, mrcfile
with mrcfile.open(sys.argv[1], mode="r+") as mrc:
    mrc.data[:] = mrc.data * float(sys.argv[2])
"""


def transform(volume, template, folder, *, voxel_A=1.5, shell=False, **variables):
    return transform_volume(
        volume, voxel_A=voxel_A, template=template, shell=shell, folder=folder, variables=variables
    )


def ramp(size_px: int) -> torch.Tensor:
    return torch.arange(size_px**3, dtype=torch.float32).view((size_px,) * 3)


@pytest.mark.parametrize("shell", [False, True])
@pytest.mark.parametrize("size_px", [4, 5])
def test_a_map_is_changed_as_the_command_changes_its_file(tmp_path, shell, size_px):
    volume, folder = ramp(size_px), tmp_path / "it's a new" / "folder"
    template = python(EDIT, "{volume} {factor}")
    found = transform(volume, template, folder, shell=shell, factor=3)
    assert torch.equal(found, 3 * volume)
    assert not folder.exists()
    assert folder.parent.is_dir()


def test_a_command_that_does_nothing_returns_the_map_as_float32(tmp_path):
    volume = ramp(4)
    found = transform(volume.double(), python("pass"), tmp_path / "new")
    assert found.dtype == torch.float32
    assert torch.equal(found, volume)


def test_a_command_is_told_the_file_the_voxel_size_and_the_box(tmp_path):
    out = tmp_path / "said.txt"
    code = "import sys; open(sys.argv[1], 'w').write(' '.join(sys.argv[2:]))"
    template = python(code, "{out} {volume} {sampling} {dim} {iteration}")
    transform(
        ramp(4), template, tmp_path / "new", voxel_A=1.07, out=out, iteration=7, dim="ours counts"
    )
    assert out.read_text() == f"{tmp_path / 'new' / 'volume.mrc'} 1.07 4 7"


def test_a_command_runs_where_the_user_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("edit.py").write_text(EDIT, encoding="utf-8")
    found = transform(ramp(4), f"{PYTHON} edit.py {{volume}} 2", Path("new"))
    assert torch.equal(found, 2 * ramp(4))
    assert not Path("new").exists()


def test_another_order_of_axes_or_type_of_numbers_is_understood(tmp_path):
    def write(path: Path, volume: torch.Tensor) -> None:
        with mrcfile.new(path) as mrc:
            mrc.set_data(np.ascontiguousarray(volume.numpy().transpose(2, 1, 0)).astype(np.int16))
            mrc.voxel_size = 1.50001
            assert mrc.header is not None
            mrc.header.mapc, mrc.header.mapr, mrc.header.maps = 3, 2, 1

    write(tmp_path / "other.mrc", ramp(4))
    found = transform(torch.zeros(4, 4, 4), "cp {other} {volume}", tmp_path / "new",
                      other=tmp_path / "other.mrc")  # fmt: skip
    assert torch.equal(found, ramp(4))


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of writing what is not finite
def test_a_result_that_does_not_fit_is_refused_and_the_folder_removed(tmp_path):
    wrong = {
        "5³ voxels in .*given 4³": (torch.ones(5, 5, 5), 1.5),
        "voxels of 1.6 Å in .*given 1.5 Å": (torch.ones(4, 4, 4), 1.6),
        "NaN or infinite": (torch.full((4, 4, 4), torch.nan), 1.5),
        "NaN or infinite ": (torch.full((4, 4, 4), torch.inf), 1.5),
        "not cubic": (torch.ones(4, 4, 5), 1.5),
        "no voxel size": (torch.ones(4, 4, 4), 0.0),
    }
    other, folder = tmp_path / "other.mrc", tmp_path / "new"
    for message, (volume, voxel_A) in wrong.items():
        write_volume(other, volume, voxel_A)
        with pytest.raises(InputError, match=message) as caught:
            transform(torch.ones(4, 4, 4), "cp {other} {volume}", folder, other=other)
        assert "cp {other} {volume}: the command left" in str(caught.value)
        assert not folder.exists()


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("rm {volume}", "no such map"),
        ("cp /dev/null {volume}", "too few for an MRC header"),
        ("false", "exit status 1"),
        ("cryorefine-none-such {volume}", "cannot be started"),
        ("echo {volumes}", "no variable"),
    ],
)
def test_a_command_that_fails_leaves_no_folder(tmp_path, template, message):
    with pytest.raises(InputError, match=message):
        transform(ramp(4), template, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_what_a_killed_run_has_left_is_cleared_away(tmp_path):
    folder = tmp_path / "new"
    folder.mkdir()
    for name in ("volume.mrc", "volume_half.mrc"):
        (folder / name).write_bytes(b"torn")
    assert torch.equal(transform(ramp(4), "true", folder), ramp(4))
    assert not folder.exists()


def test_a_folder_of_the_users_is_never_removed(tmp_path):
    (tmp_path / "precious.star").write_text("data_", encoding="utf-8")
    with pytest.raises(InputError, match="Name a folder that does not exist"):
        transform(ramp(4), "true", tmp_path)
    assert (tmp_path / "precious.star").read_text() == "data_"


def test_a_folder_that_is_empty_is_used(tmp_path):
    folder = tmp_path / "new"
    folder.mkdir()
    assert torch.equal(transform(ramp(4), "true", folder), ramp(4))


def test_an_interrupted_command_leaves_no_folder(tmp_path, monkeypatch):
    def interrupted(self, *_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(subprocess.Popen, "communicate", interrupted)
    with pytest.raises(KeyboardInterrupt):
        transform(ramp(4), "sleep 120", tmp_path / "new")
    assert not (tmp_path / "new").exists()
