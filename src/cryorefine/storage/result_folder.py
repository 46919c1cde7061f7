"""Folders of results that are no run's: a command leaves all of its files, or nothing.

Results are written into a folder within the one that they are for, and moved up when all are there.
A command that fails removes what it has written. One that is killed leaves the inner folder: by it
the same command knows later what is unfinished, and begins anew.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from cryorefine.errors import InputError
from cryorefine.io.atomic import sync_directory
from cryorefine.io.output_path import is_there
from cryorefine.storage.layout import LOCK
from cryorefine.storage.lock import locked

__all__ = ["ResultFolder", "folder_made"]


@dataclass(frozen=True)
class ResultFolder:
    """A folder that a command fills.

    Attributes
    ----------
    path
        Where it is, or will be.
    command
        Name of the command; the inner folder is named for it.
    names
        Of all files that it may leave. The last is there only where all are.
    """

    path: Path
    command: str
    names: tuple[str, ...]

    @property
    def aside(self) -> Path:
        """The inner folder: it is there while results are on their way, and after a kill."""
        return self.path / f".{self.command}.part"

    @property
    def is_unfinished(self) -> bool:
        """Whether the command was killed here, and no whole set of its results is there."""
        return os.path.lexists(self.aside) and not os.path.lexists(self.path / self.names[-1])

    def others(self) -> list[str]:
        """Return the names in the folder, without what any killed command has left of itself."""
        return [p.name for p in self.path.iterdir() if p.name not in (LOCK, self.aside.name)]

    def check_new(self) -> None:
        """Refuse a folder that holds something but what the same command has left unfinished.

        Raises
        ------
        InputError
            If so, or if no folder can be there.
        """
        if not is_there(self.path):
            return
        others = set(self.others())
        mine = set(self.names) if os.path.lexists(self.aside) else set()
        if others - mine:
            raise InputError(
                "exists and is not empty", where=str(self.path), do="give a new --output"
            )

    @contextmanager
    def filled(self, check: Callable[[], None]) -> Iterator[Path]:
        """Give a folder to write into; move its files up when the block ends well.

        Files of these names that are there are replaced, or removed if there is no new one. On an
        error they stay, and nothing of the new ones does.

        Parameters
        ----------
        check
            Refuses a folder that may not be filled. It is called once no other process can fill it.

        Raises
        ------
        InputError
            If another process works in the folder, or something else stands in the way.
        """
        with folder_made(self.path), locked(self.path):
            check()
            self._clear_aside()
            self.aside.mkdir()
            try:
                yield self.aside
            except BaseException as error:
                self._name_results(error)
                with suppress(OSError):
                    self._clear_aside()
                raise
            self._move_up()

    def _move_up(self) -> None:
        # Without the last of them no older set is whole any more, nor this one until it has come.
        for name in (self.names[-1], *self.names[:-1]):
            if name == self.names[-1] or not (self.aside / name).exists():
                (self.path / name).unlink(missing_ok=True)
        for name in self.names:
            if (self.aside / name).exists():
                os.replace(self.aside / name, self.path / name)
        self._clear_aside()
        sync_directory(self.path)

    def _clear_aside(self) -> None:
        """Remove the inner folder with what this program writes there."""
        aside = self.aside
        if not os.path.lexists(aside):
            return
        if aside.is_symlink() or not aside.is_dir():
            raise InputError("is in the way", where=str(aside), do="remove it")
        for path in aside.iterdir():
            if path.name in self.names or (path.name[0] == "." and path.suffix == ".part"):
                path.unlink()
        try:
            aside.rmdir()
        except OSError as error:
            raise InputError(
                f"cannot be removed ({error.strerror})", where=str(aside), do="remove it"
            ) from None

    def _name_results(self, error: BaseException) -> None:
        """Let an error name the file by its place among the results."""
        if isinstance(error, OSError) and error.errno and isinstance(error.filename, str):
            path = Path(error.filename)
            if path.is_relative_to(self.aside):
                error.filename = str(self.path / path.relative_to(self.aside))


@contextmanager
def folder_made(folder: Path) -> Iterator[None]:
    """Make a folder and those above it that are missing; on an error none of them stays empty."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except BaseException:
        for path in missing:  # the innermost first
            with suppress(OSError):  # something has been put there
                path.rmdir()
        raise
