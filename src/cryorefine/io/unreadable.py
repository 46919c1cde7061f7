"""What a file that cannot be opened or read is refused with: in the same words by all readers."""

from pathlib import Path

from cryorefine.errors import InputError

__all__ = ["unreadable"]


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
