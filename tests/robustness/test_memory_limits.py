"""Commands under a limit on their memory: what cannot be begun is refused in one line."""

import os
import resource
import subprocess
import sys

import pytest

from cryorefine.cli.environment import lack_of_memory, require_address_space
from tests.builders import refused
from tests.robustness.judged import Ended, problem_of_command
from tests.robustness.small_set import valid_set

MB = 1_000_000


def limited(limit_mb: int, *arguments: object) -> Ended:
    """Return how a command ends that may have so many addresses."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (limit_mb * MB, limit_mb * MB))

    ended = subprocess.run(
        [sys.executable, "-m", "cryorefine", *map(str, arguments)],
        capture_output=True, text=True, timeout=300, preexec_fn=limit,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    return Ended(ended.returncode, ended.stderr)


@pytest.mark.parametrize("limit_mb", [300, 600, 1000, 1500])
def test_a_limit_that_the_libraries_do_not_fit_in_is_named_before_they_are_loaded(
    tmp_path, limit_mb
):
    star = valid_set().write(tmp_path / "data")
    commands = {
        300: ("refine", star, "--output", tmp_path / "run"),
        600: ("report", tmp_path),
        1000: ("fsc", tmp_path, tmp_path, "--output", tmp_path / "fsc.star"),
        1500: ("demo", "--output", tmp_path / "demo"),
    }
    ended = limited(limit_mb, *commands[limit_mb])
    assert (ended.code, problem_of_command(ended)) == (2, "")
    assert "ulimit -v" in ended.error
    assert "OpenBLAS" not in ended.error
    assert sorted(p.name for p in tmp_path.iterdir()) == ["data"]


def test_help_needs_no_libraries_and_is_shown_within_any_limit():
    assert limited(300, "refine", "--help") == Ended(0, "")


def test_a_command_is_done_within_a_limit_that_is_just_accepted(tmp_path):
    valid_set().write(tmp_path)
    half, out = tmp_path / "reference.mrc", tmp_path / "fsc.star"
    accepted_mb = 1600 + 48 * (os.cpu_count() or 1)
    ended = limited(accepted_mb, "fsc", half, half, "--output", out)
    assert (ended.code, problem_of_command(ended)) == (0, "")
    assert out.exists()


def test_no_limit_is_asked_for_more_than_there_is(monkeypatch):
    monkeypatch.setattr(resource, "getrlimit", lambda _: (resource.RLIM_INFINITY,) * 2)
    require_address_space()
    monkeypatch.setattr(resource, "getrlimit", lambda _: (2 * MB, 2 * MB))
    with refused("ulimit -v", "0.0 GB", "Raise it"):
        require_address_space()


@pytest.mark.parametrize(
    ("error", "lacks"),
    [
        (MemoryError(), True),
        (RuntimeError("can't start new thread"), True),
        (ImportError("libtorch_cpu.so: failed to map segment from shared object"), True),
        (OSError(12, "Cannot allocate memory"), True),
        (RuntimeError("a shape is wrong"), False),
        (ImportError("No module named 'torch'"), False),
        (KeyError("bad_alloc"), False),
    ],
)  # fmt: skip
def test_errors_of_memory_are_told_from_others(error, lacks):
    assert lack_of_memory(error) == lacks
