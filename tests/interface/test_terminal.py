"""The command in the hands of shells, batch systems and old terminals."""

import os
import signal
import subprocess
import sys
import time

import pytest

from cryorefine.errors import shown
from cryorefine.storage.layout import committed_iterations


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    folder = tmp_path_factory.mktemp("terminal") / "set"
    run("simulate", "phantom", "--output", folder, "--particles", 24, "--box-px", 24,
        "--pixel-angstrom", 6, "--snr", 1)  # fmt: skip
    return folder


def command(*arguments):
    return [sys.executable, "-m", "cryorefine", *map(str, arguments)]


def run(*arguments, **options):
    result = subprocess.run(
        command(*arguments), capture_output=True, check=False, timeout=120, **options
    )
    assert result.returncode == 0, result.stderr
    return result


def refinement(folder, output, iterations=2):
    return command(
        "refine", folder / "particles.star", "--reference", folder / "reference.mrc", "--output",
        output, "--iterations", iterations, "--threads", 1,
    )  # fmt: skip


def own_lines(errors):
    return [line for line in errors.decode().splitlines() if not line.startswith("warning:")]


def wait_for(condition):
    for _ in range(1200):
        if condition():
            return
        time.sleep(0.05)
    raise AssertionError("it did not come")


@pytest.mark.slow
def test_a_run_goes_on_when_nobody_reads_its_lines_any_more(tiny, tmp_path):
    with subprocess.Popen(
        refinement(tiny, tmp_path / "run"), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout.readline()
        process.stdout.close()  # as ``| head -1`` does
        errors = process.stderr.read()
    assert process.returncode == 0, errors
    assert not own_lines(errors)
    assert committed_iterations(tmp_path / "run")[-1] == 2


@pytest.mark.slow
@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_signals_of_batch_systems_are_clean_stops(tiny, tmp_path, name):

    def heed():  # also where the tests themselves run under nohup
        signal.signal(getattr(signal, name), signal.SIG_DFL)

    with subprocess.Popen(
        refinement(tiny, tmp_path / "run", 60), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        preexec_fn=heed,
    ) as process:  # fmt: skip
        wait_for(lambda: 1 in committed_iterations(tmp_path / "run"))
        process.send_signal(getattr(signal, name))
        process.send_signal(getattr(signal, name))  # twice, as schedulers do
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 3, errors
    (message,) = own_lines(errors)
    assert f"stopped by {name}" in message
    assert "cryorefine resume" in message


@pytest.mark.slow
def test_what_nohup_has_ignored_stays_ignored(tiny, tmp_path):
    def ignore():
        signal.signal(signal.SIGHUP, signal.SIG_IGN)

    with subprocess.Popen(
        refinement(tiny, tmp_path / "run"), stdout=subprocess.DEVNULL, preexec_fn=ignore
    ) as process:
        wait_for(lambda: 0 in committed_iterations(tmp_path / "run"))
        process.send_signal(signal.SIGHUP)
    assert process.returncode == 0


@pytest.mark.slow
def test_a_terminal_without_the_letters_of_units_shows_others(tiny, tmp_path):
    environment = os.environ | {"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0", "LC_ALL": "C"}
    result = subprocess.run(
        refinement(tiny, tmp_path / "run", 1), capture_output=True, check=False, env=environment,
        timeout=120,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert b" A/px" in result.stdout
    assert b"\\x" not in result.stdout


def test_no_control_character_of_a_files_name_reaches_the_terminal():
    assert (
        shown("a\x1b[31mred\x07\nline")
        == "a\N{REPLACEMENT CHARACTER}[31mred\N{REPLACEMENT CHARACTER} line"
    )
    result = subprocess.run(
        command("refine", "no\x1b[31msuch.star", "--reference", "a.mrc", "--output", "b"),
        capture_output=True, check=False, timeout=120,
    )  # fmt: skip
    assert result.returncode == 2
    assert b"\x1b" not in result.stderr + result.stdout
