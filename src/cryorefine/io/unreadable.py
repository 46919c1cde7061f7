"""What a file that cannot be opened or read is refused with: in the same words by all readers."""

import os
import stat
from pathlib import Path

from cryorefine.errors import InputError

__all__ = ["require_no_pipe", "unreadable"]


def require_no_pipe(path: Path, kind: str = "file") -> None:
    """Refuse what is neither a file nor a folder before it is opened.

    A pipe would be waited for until somebody writes to it, and a device may have no end.

    Parameters
    ----------
    kind
        What the file was to be, for the message.

    Raises
    ------
    InputError
        If it is a pipe or a device, or cannot be found.
    """
    try:
        mode = os.stat(path).st_mode
    except ValueError:  # a NUL is in no file's name
        raise InputError(f"no such {kind}", where=str(path), do="check the path") from None
    except OSError as error:
        raise unreadable(path, error, kind) from None
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise InputError(f"is a pipe or a device, not a {kind}", where=str(path), do="name a file")


def unreadable(path: Path, error: OSError, kind: str = "file") -> InputError:
    """Return the refusal of a file, by the error that opening or reading it has raised.

    Parameters
    ----------
    kind
        What the file was to be, for the message.
    """
    match error:
        case FileNotFoundError() | NotADirectoryError():
            what, do = f"no such {kind}", "check the path"
        case IsADirectoryError():
            what, do = f"is a folder, not a {kind}", "name the file"
        case PermissionError():
            what, do = "may not be read", "check its permissions"
        case _:
            what, do = f"cannot be read ({error.strerror or error})", "check the path"
    return InputError(what, where=str(path), do=do)
