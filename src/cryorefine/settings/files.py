"""Settings from plain values, and to and from TOML files."""

import json
import tomllib
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from cryorefine.errors import InputError
from cryorefine.io.atomic import write_text
from cryorefine.io.unreadable import require_no_pipe, unreadable
from cryorefine.settings.combined import GROUPS, RefineSettings, option_name

__all__ = ["load_settings", "make_settings", "save_settings"]


_LARGEST = 1_000_000
"""Bytes of a settings file: a hundred times what all settings with their descriptions have."""


def make_settings(values: dict[str, Any], *, where: str = "") -> RefineSettings:
    """Return validated settings.

    Raises
    ------
    InputError
        Listing every problem at once, by option name.
    """
    try:
        return RefineSettings(**values)
    except ValidationError as error:
        problems = []
        for item in error.errors():
            name = option_name(str(item["loc"][0])) if item["loc"] else ""
            message = item["msg"].removeprefix("Value error, ")
            if item["type"] == "extra_forbidden":
                message = "no such setting"
            is_told = item["type"] not in ("missing", "value_error")
            given = f" (given: {_shown(item['input'])})" if is_told else ""
            problems.append(f"{name} {message}{given}".strip())
        raise InputError("; ".join(problems), where=where, do="correct the options") from None


def _shown(value: Any) -> str:
    try:
        return str(value)
    except (ValueError, RecursionError):  # thousands of digits, or of lists in lists
        return "far too much"


def load_settings(path: Path) -> dict[str, Any]:
    """Read settings from a TOML file as a plain table.

    Raises
    ------
    InputError
        If the file is missing or not TOML.
    """
    require_no_pipe(path, "settings file")
    try:
        with open(path, "rb") as file:
            text = file.read(_LARGEST + 1)
        if len(text) > _LARGEST:
            raise ValueError(f"more than {_LARGEST / 1e6:g} MB")
        return tomllib.loads(text.decode("utf-8"))
    except OSError as error:
        raise unreadable(path, error, "settings file") from None
    except RecursionError:
        raise InputError("lists in lists, far too deep", where=str(path), do="correct it") from None
    except ValueError as error:  # no TOML, no text, or a number of thousands of digits
        raise InputError(f"not a TOML file ({error})", where=str(path), do="correct it") from None


def save_settings(path: Path, settings: RefineSettings) -> None:
    """Write resolved settings as TOML by group, each with its description; unset ones as comments.

    The initial low-pass is one of them where it was not given: a local run begins elsewhere then.
    """
    lines = []
    for title, group in GROUPS.items():
        lines += [f"## {title}", ""]
        for name, info in group.model_fields.items():
            lines += [f"# {info.description}", _line(settings, name), ""]
    write_text(path, "\n".join(lines))


def _line(settings: RefineSettings, name: str) -> str:
    value = getattr(settings, name)
    is_free = name == "initial_lowpass_angstrom" and name not in settings.model_fields_set
    if is_free:
        return f"# {name} = {_toml(value)}"
    return f"# {name} =" if value is None else f"{name} = {_toml(value)}"


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, tuple | list):
        return "[" + ", ".join(_toml(v) for v in value) + "]"
    # TOML's escapes are those of JSON, and of DEL.
    return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007f")
