"""Command-line options made from the settings' model: one source for names, types and help."""

import types
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

import click
from pydantic.fields import FieldInfo

from cryorefine.cli.file_path import FILE_PATH
from cryorefine.errors import InputError
from cryorefine.settings import GROUPS, RefineSettings

__all__ = [
    "ALLOW_COMMANDS",
    "GroupedCommand",
    "SettingOption",
    "given",
    "settings_options",
    "taken_back",
]

ALLOW_COMMANDS = (
    "Run the commands that the settings file names (--reference-command, --post-command). Without "
    "it only those run that are given here."
)
"""Help of ``--allow-commands``."""


class SettingOption(click.Option):
    """An option that stands for a setting; it knows the title of the setting's group."""

    def __init__(self, declarations: list[str], *, title: str, **attributes: Any) -> None:
        super().__init__(declarations, **attributes)
        self.title = title


class GroupedCommand(click.Command):
    """A command whose help has the settings under the titles of their groups."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the command's own options first, then those of each group of settings."""
        sections: dict[str, list[tuple[str, str]]] = {title: [] for title in ("Options", *GROUPS)}
        for parameter in self.get_params(ctx):
            # Arguments stand in the line of usage.
            is_option = isinstance(parameter, click.Option)
            record = parameter.get_help_record(ctx) if is_option else None
            if record is not None:
                is_setting = isinstance(parameter, SettingOption)
                sections[parameter.title if is_setting else "Options"].append(record)
        for title, records in sections.items():
            if records:
                with formatter.section(title):
                    formatter.write_dl(records)


def _plain(annotation: Any) -> Any:
    """Return the type behind ``X | None``."""
    if get_origin(annotation) in (Union, types.UnionType):
        return next(a for a in get_args(annotation) if a is not type(None))
    return annotation


def _option(name: str, info: FieldInfo, title: str) -> SettingOption:
    flag = "--" + name.replace("_", "-")
    kind = _plain(info.annotation)
    text = info.description or ""
    if kind is bool:
        # Off switches: a setting that is true by default is turned off by --no-NAME.
        switch = f"{flag}/--no-{name.replace('_', '-')}"
        return SettingOption([switch, name], title=title, default=None, help=text)
    if info.default is not None and not info.is_required() and info.default != ():
        text = f"{text} [default: {info.default}]"
    is_paths = get_origin(kind) is tuple and get_args(kind)[0] is Path
    return SettingOption([flag, name], title=title, type=_type(kind), multiple=is_paths, help=text)


def _type(kind: Any) -> click.ParamType:
    """Return what the command line reads for a setting's type."""
    if get_origin(kind) is Literal:
        return click.Choice(get_args(kind))
    if get_origin(kind) is tuple and get_args(kind)[0] is not Path:
        return click.STRING
    simple = {int: click.INT, float: click.FLOAT, str: click.STRING}
    return simple.get(kind, FILE_PATH)


def settings_options(*names: str) -> Callable[[click.Command], click.Command]:
    """Add one option for each named setting to a command."""
    titles = {name: title for title, group in GROUPS.items() for name in group.model_fields}

    def add(command: click.Command) -> click.Command:
        for name in names:
            option = _option(name, RefineSettings.model_fields[name], titles[name])
            command.params.append(option)
        return command

    return add


def given(values: dict[str, Any]) -> dict[str, Any]:
    """Return the options that were really given; the others are left to file and defaults."""
    return {k: v for k, v in values.items() if v is not None and v != ()}


def taken_back(names: Sequence[str], options: Mapping[str, Any]) -> dict[str, None]:
    """Return the settings that are to be taken back, written with or without dashes.

    Raises
    ------
    InputError
        If there is no such setting, or it is given anew as well.
    """
    found = dict.fromkeys(name.removeprefix("--").replace("-", "_") for name in names)
    for name in found:
        if name not in RefineSettings.model_fields:
            raise InputError(
                f"no such setting: '{name}'",
                where="--unset",
                do="name an option of this command, such as mask",
            )
        if name in options:
            raise InputError(
                f"--{name.replace('_', '-')} is given as well",
                where="--unset",
                do="say one of them",
            )
    return found
