"""Errors written for the person who made the mistake: what, where, what to do."""

__all__ = ["CryorefineError", "InputError", "StoppedEarly"]


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
        self.what, self.where, self.do = what, where, do
        text = f"{where}: {what}" if where else what
        text = f"{text}. {do[0].upper()}{do[1:]}." if do else f"{text}."
        super().__init__("".join(map(_printable, text)))


def _printable(character: str) -> str:
    """Keep a message one line that any terminal can show, whatever it quotes from a file."""
    if character.isprintable():
        return character
    return " " if character.isspace() else "\N{REPLACEMENT CHARACTER}"


class StoppedEarly(CryorefineError):
    """A run stopped before its end and can be resumed from its last committed iteration."""

    exit_code = 3
