"""Errors written for the person who made the mistake: what, where, what to do."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

__all__ = ["CryorefineError", "InputError", "Problems", "StoppedEarly", "shown"]


class CryorefineError(Exception):
    """Base of all errors that this program raises on purpose.

    ``exit_code`` is what the command line exits with.
    """

    exit_code = 1


class InputError(CryorefineError):
    """Something the user gave cannot be used.

    Parameters
    ----------
    what
        What is wrong, as a clause: ``"image 12 is beyond the end of the stack"``.
    where
        File, line, column or option that it is about; empty if there is none.
    do
        What to do about it, as an imperative: ``"check the file was copied whole"``.
    """

    exit_code = 2

    def __init__(self, what: str, *, where: str = "", do: str = ""):
        what, where = _shortened(what), _shortened(where)
        self.what, self.where, self.do = what, where, do
        text = f"{where}: {what}" if where else what
        text = f"{text}. {do[0].upper()}{do[1:]}." if do else f"{text}."
        super().__init__(shown(text))

    def __reduce__(self) -> tuple[Callable[..., "InputError"], tuple[str]]:
        """Keep its parts on the way from a worker process."""
        return partial(type(self), where=self.where, do=self.do), (self.what,)


class Problems:
    """Collects what is wrong with several inputs, so that a user hears of all of it at once."""

    def __init__(self) -> None:
        self._found: list[InputError] = []

    @contextmanager
    def collected(self) -> Iterator[None]:
        """Keep an :class:`InputError` of the block for later, and go on after it."""
        try:
            yield
        except InputError as error:
            self._found.append(error)

    def raise_all(self) -> None:
        """Raise what was collected: one error as it is, several as one that lists them."""
        if len(self._found) == 1:
            raise self._found[0]
        if self._found:
            listed = " ".join(f"({i}) {error}" for i, error in enumerate(self._found, 1))
            what = f"{len(self._found)} problems: {listed}".removesuffix(".")
            raise InputError(what, do="correct all of them")


_LONGEST = 4000
"""Characters of the longest part of a message: a screenful, whatever it quotes from a file."""


def _shortened(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


def shown(text: str) -> str:
    """Keep a message one line that any terminal can show, whatever it quotes from a file."""
    return "".join(map(_printable, text))


def _printable(character: str) -> str:
    if character.isprintable():
        return character
    return " " if character.isspace() else "\N{REPLACEMENT CHARACTER}"


class StoppedEarly(CryorefineError):
    """A run stopped before its end and can be resumed from its last committed iteration."""

    exit_code = 3
