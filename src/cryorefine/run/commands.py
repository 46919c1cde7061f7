"""Commands that a file names run only after they were shown and allowed."""

from collections.abc import Collection

from cryorefine.errors import InputError
from cryorefine.settings import RefineSettings

__all__ = ["COMMANDS", "check_commands"]

COMMANDS = ("reference_command", "post_command")
"""Settings that are commands."""


def check_commands(
    settings: RefineSettings, given: Collection[str], *, is_allowed: bool, where: str
) -> list[str]:
    """Refuse commands that were not given in this call, unless they are allowed in it.

    Parameters
    ----------
    given
        Names of the settings that were given in this call, and not by a file.
    where
        The file or folder that has the others.

    Returns
    -------
    What is to be shown of those that are allowed, a line each.

    Raises
    ------
    InputError
        If there are such commands, and they are not allowed.
    """
    shell = " by a shell" if settings.command_shell else ""
    found = [
        f"--{name.replace('_', '-')} '{getattr(settings, name)}'"
        for name in COMMANDS
        if name not in given and getattr(settings, name) is not None
    ]
    if found and not is_allowed:
        raise InputError(
            f"the settings there would run {' and '.join(found)}{shell}",
            where=where,
            do="read it, and say --allow-commands if it may run",
        )
    return [f"{where}: its settings run {text}{shell}" for text in found]
