"""Pass a map through a command of the user's own: a file goes in, the same file comes back."""

import os
import re
import shlex
import shutil
import signal
import subprocess
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from jaxtyping import Float
from torch import Tensor

from cryorefine.errors import InputError
from cryorefine.io.mrc import read_volume, write_volume

__all__ = ["check_command", "expand_command", "run_command", "transform_volume"]

_FIELD = re.compile(r"\{\{([A-Za-z_]\w*)\}\}|\{([A-Za-z_]\w*)\}")
# To a shell ${HOME} is a variable of its own.
_SHELL_FIELD = re.compile(r"\{\{([A-Za-z_]\w*)\}\}|(?<!\$)\{([A-Za-z_]\w*)\}")

_FILE_NAME = "volume.mrc"
_TAIL_LINES, _TAIL_CHARACTERS = 20, 4000
"""Of a failed command's output, what a message repeats: the end holds the error."""

_LAST_WORDS_S = 2.0
"""Seconds that a stopped command has to close its output: stopping must not hang on it."""

_SAME_VOXEL = 1e-3  # half a voxel across 500: less than headers are rounded to


def expand_command(template: str, variables: Mapping[str, object]) -> list[str]:
    """Return the words of a command with its fields filled in, for a run without a shell.

    The template is split as a shell would, and then each ``{name}`` is replaced: a value with
    spaces stays within its word, and what is put in is not looked at again. ``{{name}}`` becomes
    ``{name}``; braces round anything else are left alone.

    Raises
    ------
    InputError
        If a name is not among the variables, a quote is not closed or the template is empty.
    """
    words = _split(template, variables)
    return [_fill(word, _FIELD, template, variables, str) for word in words]


def check_command(template: str, names: Collection[str], *, shell: bool = False) -> None:
    """Find out whether a command can run, before the hours that precede it.

    Parameters
    ----------
    names
        Of the variables that there will be.
    shell
        Whether it will run in a shell, which has programs that are no files: those are not
        looked for, nor is one that a field names.

    Raises
    ------
    InputError
        As :func:`expand_command`, or if there is no such program.
    """
    words = _split(template, names)
    _fill(template, _SHELL_FIELD if shell else _FIELD, template, dict.fromkeys(names, "0"), str)
    if not shell and not _FIELD.search(words[0]) and shutil.which(words[0]) is None:
        raise InputError(
            f"no program {words[0]} is found, or it may not be executed",
            where=template,
            do="give its full path, or check its permissions",
        )


def run_command(
    template: str,
    variables: Mapping[str, object],
    *,
    shell: bool,
    cwd: Path,
    timeout_s: float | None = None,
) -> str:
    """Run a command to its end and return what it printed, errors included.

    It reads nothing from the terminal. Whatever ends the wait ends the command, too, with all
    that it has started.

    Parameters
    ----------
    shell
        Give it to ``/bin/sh`` as one string, values quoted. Such a value cannot stand within
        quotes of the template. ``${name}`` is left to the shell.
    cwd
        Folder to run it in.
    timeout_s
        None waits for as long as it takes.

    Raises
    ------
    InputError
        As :func:`expand_command`, or if the command cannot be started, takes too long or exits
        with another status than 0; the message ends with what it last printed.
    """
    if shell:
        words = ["/bin/sh", "-c", _shell_string(template, variables)]
        shown = words[-1]
    else:
        words = expand_command(template, variables)
        shown = shlex.join(words)
    try:
        child = subprocess.Popen(
            words,
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            encoding="utf-8",
            errors="replace",
        )
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise InputError(
            f"the command cannot be started ({reason})", where=shown, do="check the program's path"
        ) from None
    with child:
        try:
            output, _ = child.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            _kill(child)
            output = ""
            # What has left the group may still hold the pipe.
            with suppress(subprocess.TimeoutExpired):
                output, _ = child.communicate(timeout=_LAST_WORDS_S)
            raise InputError(
                f"the command was stopped after {timeout_s:g} s; {_tail(output)}",
                where=shown,
                do="allow it more time or correct it",
            ) from None
        except BaseException:
            _kill(child)
            raise
    if child.returncode != 0:
        raise InputError(
            f"the command {_ending(child.returncode)}; {_tail(output)}",
            where=shown,
            do="correct the command",
        )
    return output


def transform_volume(
    volume: Float[Tensor, "z y x"],
    *,
    voxel_A: float,
    template: str,
    shell: bool,
    folder: Path,
    variables: Mapping[str, object],
) -> Float[Tensor, "z y x"]:
    """Return what a command makes of a map, which it rewrites in place.

    The command runs in the current folder, so that paths in it mean what they mean to the user.

    Parameters
    ----------
    folder
        Is made for the file and removed with all that it holds then, also on an error. What a
        killed run has left there is overwritten.
    variables
        To fill in besides ``volume``, the path of the map, ``sampling``, its voxel size in Å,
        and ``dim``, its size in voxels.

    Returns
    -------
    float32 on the device of ``volume``.

    Raises
    ------
    InputError
        As :func:`run_command`, if the file is no longer a map of the same box and voxel size with
        finite values, or if ``folder`` holds other files than ours.
    """
    size_px = volume.shape[-1]
    with _own_folder(folder) as own:
        path = own / _FILE_NAME
        write_volume(path, volume, voxel_A)
        own_variables = {"volume": path, "sampling": voxel_A, "dim": size_px}
        run_command(template, {**variables, **own_variables}, shell=shell, cwd=Path.cwd())
        try:
            made = read_volume(path)
        except InputError as error:
            raise _unusable(template, f"no usable map in {{volume}}: {error.what}") from None
        if made.size_px != size_px:
            raise _unusable(
                template, f"a map of {made.size_px}³ voxels in {{volume}}, given {size_px}³"
            )
        if abs(made.voxel_A - voxel_A) > _SAME_VOXEL * voxel_A:
            raise _unusable(
                template, f"voxels of {made.voxel_A:.5g} Å in {{volume}}, given {voxel_A:.5g} Å"
            )
    return made.data.to(volume.device)


def _unusable(template: str, what: str) -> InputError:
    return InputError(
        f"the command left {what}",
        where=template,
        do="have it write a map of the same box and voxel size with finite values",
    )


@contextmanager
def _own_folder(folder: Path) -> Iterator[Path]:
    """Make a folder and remove it at the end; never one with files that are not ours."""
    own = Path(folder).absolute()
    own.mkdir(parents=True, exist_ok=True)
    if any(own.iterdir()) and not (own / _FILE_NAME).exists():
        raise InputError(
            "the folder for a command's files holds others",
            where=str(own),
            do="name a folder that does not exist",
        )
    try:
        yield own
    finally:
        shutil.rmtree(own, ignore_errors=True)


def _split(template: str, names: Collection[str]) -> list[str]:
    try:
        words = shlex.split(template)
    except ValueError as error:
        raise InputError(
            f"the command cannot be split into words ({str(error).lower()})",
            where=template,
            do=f"close the quotes{_listed('; the variables are ', names)}",
        ) from None
    if not words or not words[0]:
        raise InputError("the command is empty", do="give a program and its arguments")
    return words


def _fill(
    text: str,
    field: re.Pattern[str],
    template: str,
    variables: Mapping[str, object],
    spell: Callable[[str], str],
) -> str:
    """Replace the fields of a text, each value spelt out by ``spell``."""

    def value(match: re.Match[str]) -> str:
        literal, name = match.groups()
        if literal is not None:
            return f"{{{literal}}}"
        if name not in variables:
            raise InputError(
                f"there is no variable {{{name}}}",
                where=template,
                do=f"write {{{{{name}}}}} for {{{name}}} itself{_listed(', or use ', variables)}",
            )
        return spell(str(variables[name]))

    return field.sub(value, text)


def _listed(before: str, names: Collection[str]) -> str:
    return before + ", ".join(f"{{{name}}}" for name in sorted(names)) if names else ""


def _shell_string(template: str, variables: Mapping[str, object]) -> str:
    """Return a template for a shell, values quoted."""
    _split(template, variables)
    for match in _SHELL_FIELD.finditer(template):
        name = match[2]
        if name not in variables:
            continue
        text = str(variables[name])
        # Quotes within quotes would end them, or be taken for a part of the value.
        if shlex.quote(text) != text and _is_quoted(template, match.start()):
            raise InputError(
                f"{{{name}}} stands within quotes, and its value needs some of its own: {text}",
                where=template,
                do=f"write {{{name}}} without quotes around it",
            )
    return _fill(template, _SHELL_FIELD, template, variables, shlex.quote)


def _is_quoted(template: str, position: int) -> bool:
    quote, escaped = "", False
    for character in template[:position]:
        if escaped:
            escaped = False
        elif character == "\\" and quote != "'":
            escaped = True
        elif quote:
            quote = "" if character == quote else quote
        elif character in "'\"":
            quote = character
    return bool(quote)


def _kill(child: subprocess.Popen[str]) -> None:
    """Kill a child with its descendants, of which any could hold its output open."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, signal.SIGKILL)


def _ending(status: int) -> str:
    if status >= 0:
        return f"ended with exit status {status}"
    with suppress(ValueError):
        return f"was killed by {signal.Signals(-status).name} (exit status {status})"
    return f"was killed by signal {-status} (exit status {status})"


def _tail(output: str) -> str:
    """Return what a command printed last, on one line as messages are."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    if not lines:
        return "it printed nothing"
    return f"it printed last: {' | '.join(lines[-_TAIL_LINES:])[-_TAIL_CHARACTERS:]}"
