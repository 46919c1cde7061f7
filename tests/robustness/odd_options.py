"""Every option of every command with values that nobody means."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import click

from cryorefine.cli.main import cli

__all__ = ["VALUES", "OddCommand", "command_names", "make_odd_places", "odd_commands"]

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


def command_names() -> list[str]:
    """Return the names of all commands, those within a group of them after its name."""
    context = click.Context(cli)
    names = []
    for name in cli.list_commands(context):
        command = cli.get_command(context, name)
        inner = command.list_commands(context) if isinstance(command, click.Group) else [""]
        names += [f"{name} {word}".strip() for word in inner]
    return names


def command_of(name: str) -> click.Command:
    """Return the command of a name as :func:`command_names` has them."""
    command: click.Command | None = cli
    for word in name.split():
        assert isinstance(command, click.Group)
        command = command.get_command(click.Context(command), word)
    assert command is not None
    return command


def odd_commands(bases: dict[str, tuple[str, ...]]) -> Iterator[OddCommand]:
    """Yield all values at all options, and in place of all arguments, of some commands.

    Parameters
    ----------
    bases
        By name of a command, arguments that it accepts; the later of two values of an option
        counts.
    """
    for name, base in bases.items():
        command, words = command_of(name), tuple(name.split())
        n_arguments = sum(isinstance(p, click.Argument) for p in command.params)
        for parameter in command.params:
            for value in VALUES:
                shown = f"{name} {parameter.opts[0]} {value[:40]!r}"
                if isinstance(parameter, click.Argument):
                    at = list(base[:n_arguments])
                    at[command.params.index(parameter)] = value
                    yield OddCommand((*words, *at, *base[n_arguments:]), shown)
                else:
                    assert isinstance(parameter, click.Option)
                    values = () if parameter.is_flag else (value,) * parameter.nargs
                    yield OddCommand((*words, *base, parameter.opts[0], *values), shown)
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
