"""Write files so that a reader sees the old content or the new one, never a half."""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

__all__ = ["atomic_path", "name_file", "sync_directory", "write_text"]


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Give a temporary name beside ``path``; rename it to ``path`` if the block ends well.

    The content is flushed to the disk before the rename. On an error the temporary file goes and
    ``path`` stays as it was.
    """
    path = Path(path)
    temporary = _new_file(path)
    try:
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        with suppress(FileNotFoundError):
            temporary.unlink()
        name_file(error, path, str(temporary))
        raise
    sync_directory(path.parent)


def _new_file(path: Path) -> Path:
    """Make an empty file beside ``path``, hidden, with the rights that the system gives new ones.

    To ask for the mask of these rights is to change it for all threads for a moment, so that
    ``tempfile``, whose files are the owner's alone, is of no use here.
    """
    while True:
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
        with suppress(FileExistsError):
            os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
            return temporary


def name_file(error: BaseException, path: Path, temporary: str | None = None) -> None:
    """Let an error of the system say which file was written: of a write, it does not itself."""
    if isinstance(error, OSError) and error.errno and error.filename in (None, temporary):
        error.filename = str(path)


def sync_directory(directory: Path) -> None:
    """Flush a directory's entries, where the system can."""
    with suppress(OSError):
        handle = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically, UTF-8."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
