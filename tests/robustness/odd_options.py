"""Every option of every command with values that nobody means."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import click

from cryorefine.cli.main import cli

__all__ = ["VALUES", "OddCommand", "make_odd_places", "odd_commands"]

VALUES = (
    "", " ", "\0", "a\0b", "nan", "inf", "-inf", "-1", "0", "1", "-0.0", "1e308", "-1e308",
    "1e-320", "1e400", "1" + "0" * 30, "9" * 5000, "0x10", "1_0", "\N{ARABIC-INDIC DIGIT THREE}",
    "\N{VULGAR FRACTION ONE HALF}", "x" * 300, "y" * 5000, "/".join("z" * 250 for _ in range(20)),
    "\udcff", "\x1b[2J", "..", ".", "/", "-", "--", "[]", "{", "{volume", "{volume!r:1}", "%s", "'",
    '"a', "a b", "true", "None", "c0", "c9999999999", "i9", "cuda:99999999999", "/dev/null",
    "/dev/zero", "/dev/full", "/proc/self/mem", "./loop", "./pipe", "./file", "./closed/x",
    "./file/x", "pipe.star", "loop.star", "folder.star", "pipe.mrc", "folder.mrc", "1,2", "1 -2",
    "1 nan", ",", "30 20 10", "1e9",
)  # fmt: skip
"""What an option, or an argument, may be given."""


@dataclass(frozen=True)
class OddCommand:
    """A command line with one odd value.

    Attributes
    ----------
    arguments
        All of them.
    odd
        The option and its value, for a message.
    """

    arguments: tuple[str, ...]
    odd: str


def odd_commands(bases: dict[str, tuple[str, ...]]) -> Iterator[OddCommand]:
    """Yield all values at all options, and in place of all arguments, of some commands.

    Parameters
    ----------
    bases
        By command, arguments that it accepts; the later of two values of an option counts.
    """
    context = click.Context(cli)
    for name, base in bases.items():
        command = cli.get_command(context, name)
        assert command is not None
        n_arguments = sum(isinstance(p, click.Argument) for p in command.params)
        for parameter in command.params:
            for value in VALUES:
                shown = f"{name} {parameter.opts[0]} {value[:40]!r}"
                if isinstance(parameter, click.Argument):
                    at = list(base[:n_arguments])
                    at[command.params.index(parameter)] = value
                    yield OddCommand((name, *at, *base[n_arguments:]), shown)
                else:
                    assert isinstance(parameter, click.Option)
                    given = parameter.opts[:1] if parameter.is_flag else (parameter.opts[0], value)
                    yield OddCommand((name, *base, *given), shown)
                    if parameter.is_flag:
                        break


def make_odd_places(folder: Path) -> None:
    """Make what the values name: a loop of links, pipes, a file, folders."""
    (folder / "file").write_text("x")
    for name in ("loop", "loop.star"):
        (folder / name).symlink_to(folder / name)
    for name in ("pipe", "pipe.star", "pipe.mrc"):
        os.mkfifo(folder / name)
    for name in ("folder.star", "folder.mrc", "closed"):
        (folder / name).mkdir()
    (folder / "closed").chmod(0o500)
