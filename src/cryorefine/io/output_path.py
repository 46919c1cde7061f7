"""Where results are to go: refused before anything is computed, if it can hold none."""

import os
import stat
from pathlib import Path

from cryorefine.errors import InputError

__all__ = ["check_new_folder", "check_output_file", "is_there", "why_no_name"]


def why_no_name(text: str) -> str:
    """Return why a text can be the name of no file, or of none that a record can hold."""
    if "\0" in text:
        return "a NUL is in no file's name and in no command"
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return "bytes that are no UTF-8 cannot be kept in the records of a run"
    return ""


def is_there(path: Path, *, do: str = "give another --output") -> bool:
    """Tell whether a folder of this name is there already; refuse what can be none.

    Parameters
    ----------
    do
        What to do if so.

    Raises
    ------
    InputError
        If it, or what should be a folder above it, is a file, a device or a link that leads
        nowhere; or the name is none.
    """
    reason = why_no_name(str(path))
    if reason:
        raise InputError(reason, where=str(path), do=do)
    for folder in (path, *path.absolute().parents):
        try:
            status = os.stat(folder)
        except (FileNotFoundError, NotADirectoryError):
            if folder.is_symlink():
                raise InputError("is a link that leads nowhere", where=str(folder), do=do) from None
            continue
        except OSError as error:
            raise InputError(
                f"cannot be used ({error.strerror})",
                where=str(folder),
                do=do,
            ) from None
        if not stat.S_ISDIR(status.st_mode):
            what = "is a file" if stat.S_ISREG(status.st_mode) else "is a device or a pipe"
            raise InputError(what, where=str(folder), do=do)
        if not os.access(folder, os.W_OK | os.X_OK):
            raise InputError("may not be written to", where=str(folder), do=do)
        return folder == path
    return False


def check_new_folder(path: Path) -> None:
    """Refuse a folder that cannot be made, or holds something.

    Raises
    ------
    InputError
        As :func:`is_there`, and if it is not empty.
    """
    if is_there(path) and any(path.iterdir()):
        raise InputError("exists and is not empty", where=str(path), do="give a new --output")


def check_output_file(path: Path, *, overwrite: bool) -> None:
    """Refuse a file that cannot be written, or is there and is not to be replaced.

    Raises
    ------
    InputError
        If so; also if it is a device, a pipe or a folder, which no file replaces.
    """
    do = "give another name"
    if not is_there(path.absolute().parent, do=do):
        raise InputError("no such folder", where=str(path.parent), do="make it first")
    reason = why_no_name(path.name)
    try:
        is_taken = os.path.lexists(path)
        is_file = path.is_file()
    except (OSError, ValueError) as error:
        reason = reason or str(getattr(error, "strerror", error))
        is_taken = is_file = False
    if reason or path.name in ("", "..") or len(os.fsencode(path.name)) > _LONGEST_NAME:
        raise InputError(reason or "is no name of a file", where=str(path), do=do)
    if is_taken and not is_file:
        raise InputError("is no file", where=str(path), do=do)
    if is_taken and not overwrite:
        raise InputError("the file exists", where=str(path), do="say --overwrite to replace it")


_LONGEST_NAME = 230
"""Bytes of a name: file systems allow 255, and while it is written a file has a longer one."""
