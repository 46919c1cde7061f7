"""From values of the form to the command line of cryorefine; nothing of Scipion is imported."""

from typing import Any, Dict, List, Tuple

from .parameters import FIXED_BY_RUN, FormParameter, all_parameters, default_values, is_shown

__all__ = ["changed_settings", "option", "refine_options", "resume_options", "settings_of"]

Settings = Dict[str, Any]
"""Settings of cryorefine by name; a flag is a bool, all else the words of the command line."""


def _word(value: float) -> str:
    return f"{value:.10g}"


def _setting(parameter: FormParameter, value: Any) -> Any:
    """Return what cryorefine is given for a value of the form; None for an empty field."""
    if parameter.only_yes and not value:
        return None
    if parameter.kind == "flag":
        return parameter.choices[bool(value)] if parameter.choices else bool(value)
    if value is None or value == "" or value == ():
        return None
    if parameter.kind == "choice":
        return parameter.choices[int(value)]
    if parameter.kind in ("integer", "number"):
        return _word(float(value) * parameter.factor)
    if parameter.kind == "volumes":
        return tuple(str(path) for path in value)
    return str(value).strip() or None


def settings_of(values: Dict[str, Any]) -> Settings:
    """Return the settings that the form stands for, without what is empty or not shown.

    Parameters
    ----------
    values
        Values of the form by name. Volumes and masks are paths; initial volumes, a tuple of paths.
    """
    settings = {}
    for parameter in all_parameters():
        if parameter.setting and is_shown(parameter, values):
            value = _setting(parameter, values.get(parameter.name))
            if value is not None:
                settings[parameter.setting] = value
    return settings


def option(name: str, value: Any) -> List[str]:
    """Return the words of the command line for a setting."""
    dashed = name.replace("_", "-")
    if isinstance(value, bool):
        return [f"--{dashed}" if value else f"--no-{dashed}"]
    values = value if isinstance(value, tuple) else (value,)
    return [word for one in values for word in (f"--{dashed}", str(one))]


def refine_options(settings: Settings) -> List[str]:
    """Return the options of a new run: those that are not what cryorefine does by itself."""
    defaults = settings_of(default_values())
    words: List[str] = []
    for name, value in settings.items():
        if defaults.get(name) != value:
            words += option(name, value)
    return words


def changed_settings(new: Settings, old: Settings) -> Dict[str, Tuple[Any, Any]]:
    """Return what a continued run changes, by name: the value before, and the one now.

    None stands for what cryorefine does by itself. The number of iterations is no change: it says
    how many more there are.
    """
    defaults = settings_of(default_values())
    before, now = {**defaults, **old}, {**defaults, **new}
    names = [n for n in {**before, **now} if n not in FIXED_BY_RUN and n != "iterations"]
    return {
        name: (before.get(name), now.get(name))
        for name in names
        if before.get(name) != now.get(name)
    }


def resume_options(new: Settings, old: Settings) -> List[str]:
    """Return the options of a continued run, after which the form holds as it is shown."""
    words: List[str] = []
    for name, (_, value) in changed_settings(new, old).items():
        words += ["--unset", name] if value is None else option(name, value)
    if "iterations" in new:
        words += option("iterations", new["iterations"])
    elif "iterations" in old:
        words += ["--unset", "iterations"]
    return words
