"""The command ``cryorefine``: finds the subcommand, and turns errors into one line and a code."""

import errno
import importlib
import sys
from collections.abc import Sequence

import click

from cryorefine.cli.environment import (
    lack_of_memory,
    prepare_environment,
    require_address_space,
)
from cryorefine.cli.terminal import terminal
from cryorefine.errors import CryorefineError, shown

__all__ = ["main"]

_COMMANDS = {
    "refine": "Refine particles against an initial map to the highest resolution they hold.",
    "resume": "Continue a run: where it stopped, or with other settings or particles.",
    "reconstruct": "Half maps, FSC and map from the poses in a particle file.",
    "inspect": "Show what a particle file holds, and whether it can be refined.",
    "fsc": "Fourier shell correlation of two half maps.",
    "restore": "Process two half maps: denoise, deconvolve, symmetrise within a mask and more.",
    "helical-search": "Twist and rise of a map of a filament, and how sure they are.",
    "convert": "Write particles in the format of another program, and list what it cannot hold.",
    "symmetry": "Find the symmetry axes of a map; convert maps and poses to other axes.",
    "simulate": "Simulate particle images with known poses.",
    "export": "Hand a run's particles, poses and mask on to cryoDRGN or recovar.",
    "relion-job": "Refine as a job External of RELION.",
    "demo": "Simulate 1,000 particles and refine them, to see how it works.",
    "report": "Write a run's report.html anew.",
}

_NOT_WRITABLE = (
    errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EROFS, errno.EPERM
)  # fmt: skip
"""What a disk that is full or may not be written to answers, and a limit to the size of files."""


class _LazyGroup(click.Group):
    """Imports a subcommand's module only when it is called: ``--help`` stays instant."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        return importlib.import_module(f"cryorefine.cli.{cmd_name.replace('-', '_')}").command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name, command, rest = super().resolve_command(ctx, args)
        if not {"-h", "--help"} & set(rest):
            require_address_space()
        return name, command, rest

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(_COMMANDS.items()))


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="cryorefine")
def cli() -> None:
    """Refine cryo-EM single-particle images.

    Every command has its own --help. Exit codes: 0 done, 1 usable with warnings (inspect), 2 bad
    input, 3 stopped early but resumable.
    """


def _complain(message: str) -> None:
    click.echo(f"cryorefine: {shown(' '.join(message.split()))}", err=True)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit."""
    prepare_environment()
    with terminal():
        _run(arguments)


def _run(arguments: Sequence[str] | None) -> None:
    try:
        code = cli.main(args=arguments, standalone_mode=False)
        sys.exit(code if isinstance(code, int) else 0)
    except CryorefineError as error:
        _complain(str(error))
        sys.exit(error.exit_code)
    except click.UsageError as error:
        path = error.ctx.command_path if error.ctx is not None else "cryorefine"
        _complain(f"{error.format_message()} See '{path} --help'.")
        sys.exit(2)
    except click.ClickException as error:
        _complain(error.format_message())
        sys.exit(2)
    except (click.Abort, KeyboardInterrupt) as stop:
        # click takes both for a user's stop; this program asks nothing, so that no input can end.
        if isinstance(stop.__cause__, EOFError):
            _complain("a file ended before what it says it holds: it was cut short or damaged.")
            sys.exit(2)
        _complain(f"stopped by {str(stop) or 'the user'}.")
        sys.exit(3)
    except (MemoryError, ImportError, RuntimeError, OSError, SystemError) as error:
        if lack_of_memory(error):
            _complain("memory is full. Raise the limit (ulimit -v), or end other programs.")
            sys.exit(2)
        if not isinstance(error, OSError) or error.errno not in _NOT_WRITABLE:
            raise
        _complain(
            f"{error.filename or 'writing'}: {error.strerror}. Free space or choose another folder."
        )
        sys.exit(2)
