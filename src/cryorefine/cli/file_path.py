"""Names of files on the command line."""

from pathlib import Path
from typing import Any

import click

__all__ = ["FILE_PATH"]


class _FilePath(click.Path):
    """A path; a name that no file can have is refused as one, and not by the system's call."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            return super().convert(value, param, ctx)
        except (ValueError, OSError) as error:
            self.fail(f"{str(value)[:80]!r} is no name of a file ({error}).", param, ctx)


FILE_PATH = _FilePath(path_type=Path)
"""Of a file or folder, whether it exists or not."""
