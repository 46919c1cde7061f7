"""Where the program becomes a library: its caller's threads, and messages in words of Python."""

import functools
import inspect
import re
import types
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Literal, ParamSpec, TypeVar, Union, get_args, get_origin

import torch

from cryorefine.compiled import kernel_threads, use_kernel_threads
from cryorefine.errors import InputError, StoppedEarly
from cryorefine.settings import RefineSettings

__all__ = ["in_parameters", "library_call", "threads_restored"]

P = ParamSpec("P")
R = TypeVar("R")

# Of the command line and of this package alike, beside the settings.
_OTHER_FLAGS = ("overwrite", "accept_changed_inputs", "allow_commands")
_OTHER_NAMES = ("output", "keep_above_percentile", *_OTHER_FLAGS)
_OPTION = re.compile(
    r"(?<![\w/-])--(?P<name>[a-z][a-z0-9-]*)"
    r"(?:[ =](?P<value>[a-z]+(?::\d+)?|\d+(?:\.\d+)?)(?![\w.]))?"
)
_COMMAND = re.compile(r"'cryorefine (?P<name>refine|resume)(?P<rest>[^']*)'")


@contextmanager
def threads_restored() -> Iterator[None]:
    """Give torch and our kernels back, at the end, the numbers of threads that they had before.

    For what sets them, which is runs.
    """
    of_torch, of_kernels = torch.get_num_threads(), kernel_threads()
    try:
        yield
    finally:
        if torch.get_num_threads() != of_torch:
            torch.set_num_threads(of_torch)
        use_kernel_threads(of_kernels)


def library_call(function: Callable[P, R]) -> Callable[P, R]:
    """Make a function one of the library: its errors name parameters instead of options."""
    names = tuple(inspect.signature(function).parameters)

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return function(*args, **kwargs)
        except InputError as error:
            what, do = in_parameters(error.what, names), in_parameters(error.do, names)
            translated = InputError(what, where=in_parameters(error.where, names), do=do)
            raise translated.with_traceback(error.__traceback__) from None
        except StoppedEarly as error:
            stop = StoppedEarly(in_parameters(str(error), names))
            raise stop.with_traceback(error.__traceback__) from None

    return call


def in_parameters(text: str, names: Iterable[str] = ()) -> str:
    """Return a message that speaks of options in words of parameters.

    ``--symmetry`` becomes ``symmetry=``, or ``symmetry`` where that is what the message is about;
    ``--device cpu`` becomes ``device='cpu'``, ``--no-ctf`` becomes ``ctf=False``, and a command
    in quotes the call that does the same. Options of other programs stay.

    Parameters
    ----------
    names
        Parameters of the function that was called, beside the settings.
    """
    known = {*RefineSettings.model_fields, *_OTHER_NAMES, *names}
    text = _COMMAND.sub(lambda match: _call(match, known), text)
    text = _OPTION.sub(lambda match: _parameter(match, known), text)
    return re.sub(r"\boptions\b", "parameters", text)


def _call(match: re.Match[str], known: set[str]) -> str:
    """Return the call in Python that does what a command in quotes does."""
    options = [_assignment(m, known)[0] for m in _OPTION.finditer(match["rest"])]
    folder = _OPTION.sub("", match["rest"]).strip()
    if match["name"] == "refine":
        return f"cryorefine.refine({', '.join(options)})" if options else "cryorefine.refine"
    return f"cryorefine.open_run({folder!r}).resume({', '.join(options)})"


def _parameter(match: re.Match[str], known: set[str]) -> str:
    """Return an option within a sentence as a parameter; one of another program as it is."""
    name = match["name"].replace("-", "_")
    rest = match.string[match.end("name") :]
    if name not in known and name.removeprefix("no_") not in known:
        # The settings' own message about a name that they do not know.
        return name + match[0][len(match["name"]) + 2 :] if rest[:8] == " no such" else match[0]
    text, has_value = _assignment(match, known)
    after = "" if has_value else match[0][len(match["name"]) + 2 :]
    # The subject of a message is before all else, and what is said of it begins anew after it.
    before = match.string[: match.start()]
    is_first = not before or before.endswith((", ", "; "))
    is_alone = rest[:1] in ("", ":", ",", ";") or rest[:2].strip().isupper()
    is_subject = is_first and (is_alone or rest[:8] == " no such")
    return (text.partition("=")[0] if is_subject and not has_value else text) + after


def _assignment(match: re.Match[str], known: set[str]) -> tuple[str, bool]:
    """Return ``name=value``, or ``name=`` without one, and whether it has taken the next word."""
    name, value = match["name"].replace("-", "_"), match["value"]
    if name not in known and name.startswith("no_"):
        return f"{name.removeprefix('no_')}=False", False
    if name in _OTHER_FLAGS or _is_flag(name):
        return f"{name}=True", False
    if value is not None and value[0].isdigit():
        return f"{name}={value}", True
    if value is not None and (name == "device" or value in _choices(name)):
        return f"{name}={value!r}", True
    return f"{name}=", False


def _is_flag(name: str) -> bool:
    return name in RefineSettings.model_fields and bool in _kinds(name)


def _choices(name: str) -> tuple[str, ...]:
    """Return the words that a setting may be."""
    if name not in RefineSettings.model_fields:
        return ()
    return tuple(c for k in _kinds(name) if get_origin(k) is Literal for c in get_args(k))


def _kinds(name: str) -> tuple[Any, ...]:
    """Return the types that a setting may have."""
    annotation = RefineSettings.model_fields[name].annotation
    if get_origin(annotation) in (Union, types.UnionType):
        return get_args(annotation)
    return (annotation,)
