"""Kill this process, or fill its disk, at a chosen change of files, as far as they can tell."""

import builtins
import errno
import io
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

_CHANGES = (
    "replace", "rename", "unlink", "remove", "rmdir", "mkdir", "link", "fsync", "truncate",
    "sendfile",
)  # fmt: skip
_NEED_SPACE = ("mkdir", "fsync", "open", "sendfile")


class Killed(BaseException):
    """The process is no more."""


class Count:
    """How many changes there were, and what the one was that went wrong."""

    def __init__(self) -> None:
        self.n = 0
        self.name = ""


@contextmanager
def killed_at(point: int) -> Iterator[Count]:
    """Let the change number ``point`` and all later ones raise: no handler puts anything right.

    Changes are calls that make, rename, remove, flush or open a file for writing. 0 only counts.
    """
    with _hooked(point, lambda name, is_first: Killed(name)) as count, suppress(Killed):
        yield count


@contextmanager
def full_disk_at(point: int) -> Iterator[Count]:
    """Let change number ``point`` and later ones that need space fail as on a full disk."""

    def full(name: str, is_first: bool) -> BaseException | None:
        is_full = name in _NEED_SPACE
        return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) if is_full else None

    with _hooked(point, full) as count:
        yield count


@contextmanager
def met_at(point: int, meet: Callable[[], object]) -> Iterator[Count]:
    """Call something right before change number ``point``, which then happens."""

    def met(name: str, is_first: bool) -> None:
        if is_first:
            meet()

    with _hooked(point, met) as count:
        yield count


def begun_apart(act: Callable[[], object], error: Path) -> int:
    """Let a child do something, with what it says to a file; returns the child's number.

    It ends with the code that a command would end with, 70 after any other error: modules and
    kernels are those that this process has loaded.
    """
    child = os.fork()
    if child:
        return child
    code = 70  # what no command ends with
    try:
        descriptor = os.open(error, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        nothing = os.open(os.devnull, os.O_RDWR)
        for number, target in ((0, nothing), (1, nothing), (2, descriptor)):
            os.dup2(target, number)
        sys.stdin, sys.stdout, sys.stderr = os.fdopen(0), os.fdopen(1, "w"), os.fdopen(2, "w")
        signal.signal(signal.SIGINT, signal.default_int_handler)
        act()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 0
    except BaseException:
        traceback.print_exc()
    finally:
        with suppress(Exception):
            sys.stderr.flush()
        os._exit(code)


def ended_apart(child: int) -> int:
    """Return the code that a child ends with, or the negative number of what killed it."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@contextmanager
def _hooked(point: int, error_of: Any) -> Iterator[Count]:
    count = Count()

    def before(name: str) -> None:
        count.n += 1
        if point and count.n >= point:
            error = error_of(name, count.n == point)
            if error is not None:
                count.name = count.name or name
                raise error

    def hooked(name: str, original: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            before(name)
            return original(*args, **kwargs)

        return call

    def opened(original: Any) -> Any:
        def call(file: Any, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
            if set(mode) & set("wax+") and str(file) != os.devnull:
                before("open")
            return original(file, mode, *args, **kwargs)

        return call

    def low_opened(path: Any, flags: int, *args: Any, **kwargs: Any) -> int:
        if flags & os.O_CREAT:
            before("open")
        return os_open(path, flags, *args, **kwargs)

    os_open = os.open
    with pytest.MonkeyPatch.context() as patch:
        for name in _CHANGES:
            patch.setattr(os, name, hooked(name, getattr(os, name)))
        patch.setattr(os, "open", low_opened)
        original = builtins.open
        patch.setattr(builtins, "open", opened(original))
        patch.setattr(io, "open", opened(original))
        yield count


def assert_whole(run: Path) -> None:
    """Check that the top of a folder is its newest iteration, and nothing is half done."""
    names = sorted(path.name for path in run.iterdir())
    newest = max(run.glob("iteration_*/state.npz")).parent
    private = {"reference1.mrc", "reference2.mrc", "sums.npz", "state.npz"}
    inner = {p.name: p.read_bytes() for p in newest.iterdir() if p.name not in private}
    run_files = {"legs.json", "manifest.json", "published.json", "report.html", "settings.toml"}
    run_files |= {"events.jsonl", "notes.txt"} | {p.name for p in run.glob("settings_leg*.toml")}
    shown = {
        p.name: p.read_bytes() for p in run.iterdir() if p.is_file() and p.name not in run_files
    }
    assert shown == inner
    assert not [name for name in names if name.startswith(".")]
