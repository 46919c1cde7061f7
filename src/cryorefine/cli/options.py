"""Command-line options made from the settings' model: one source for names, types and help."""

import types
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

import click
from pydantic.fields import FieldInfo

from cryorefine.refine.settings import RefineSettings

__all__ = ["given", "settings_options"]


def _plain(annotation: Any) -> Any:
    """Return the type behind ``X | None``."""
    if get_origin(annotation) in (Union, types.UnionType):
        return next(a for a in get_args(annotation) if a is not type(None))
    return annotation


def _option(name: str, info: FieldInfo) -> click.Option:
    flag = "--" + name.replace("_", "-")
    kind = _plain(info.annotation)
    text = info.description or ""
    if kind is bool:
        # Off switches: a setting that is true by default is turned off by --no-NAME.
        return click.Option(
            [f"{flag}/--no-{name.replace('_', '-')}", name], default=None, help=text
        )
    if info.default is not None and not info.is_required() and info.default != ():
        text = f"{text} [default: {info.default}]"
    if get_origin(kind) is Literal:
        return click.Option([flag, name], type=click.Choice(get_args(kind)), help=text)
    if get_origin(kind) is tuple and get_args(kind)[0] is not Path:
        return click.Option([flag, name], type=click.STRING, help=text)
    if get_origin(kind) is tuple:
        return click.Option([flag, name], type=click.Path(path_type=Path), multiple=True, help=text)
    simple = {int: click.INT, float: click.FLOAT, str: click.STRING}
    chosen = simple.get(kind, click.Path(path_type=Path))
    return click.Option([flag, name], type=chosen, help=text)


def settings_options(*names: str) -> Callable[[click.Command], click.Command]:
    """Add one option for each named setting to a command."""

    def add(command: click.Command) -> click.Command:
        for name in names:
            command.params.append(_option(name, RefineSettings.model_fields[name]))
        return command

    return add


def given(values: dict[str, Any]) -> dict[str, Any]:
    """Return the options that were really given; the others are left to file and defaults."""
    return {k: v for k, v in values.items() if v is not None and v != ()}
