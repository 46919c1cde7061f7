"""What the command meets outside: terminals of few characters, closed pipes, signals to stop."""

import codecs
import errno
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from types import FrameType
from typing import Any, TextIO

__all__ = ["terminal"]

_PLAIN = {"Å": "A", "°": " deg", "µ": "u", "×": "x", "²": "^2", "³": "^3", "…": "...", "–": "-"}
"""How a terminal that cannot show these shows them; others become escapes."""

_HANDLER = "cryorefine-plain"

_GONE = (errno.EPIPE, errno.EIO, errno.ESTALE)
"""What writing ends with where nobody reads any more: a closed pipe, a terminal that is gone."""

_STOPPING = ("SIGTERM", "SIGHUP")
"""What batch systems and closed sessions send, before they kill."""


class _Output:
    """A stream of the process that goes quiet when nobody reads it any more.

    A refinement is not to end because the program that showed its lines did.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        with self._quiet_when_gone():
            return self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with self._quiet_when_gone():
            self._stream.flush()

    @contextmanager
    def _quiet_when_gone(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno not in _GONE:
                raise
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)


@contextmanager
def terminal() -> Iterator[None]:
    """Within the block, output is tolerant, and signals to stop are what Ctrl-C is."""
    with ExitStack() as stack:
        for name in ("stdout", "stderr"):
            stream = getattr(sys, name)
            if _is_of_the_process(stream):
                stream.reconfigure(errors=_HANDLER)
                setattr(sys, name, _Output(stream))
                stack.callback(setattr, sys, name, stream)
        for name in _STOPPING:
            number = getattr(signal, name, None)
            # Whoever has them ignored, as nohup does, wants the run to go on.
            if number is None or signal.getsignal(number) is not signal.SIG_DFL:
                continue
            with suppress(ValueError):  # only the main thread may
                stack.callback(signal.signal, number, signal.signal(number, _stop))
        yield


def _stop(number: int, frame: FrameType | None) -> None:
    # Once is enough: what is written then is not to be stopped by the next.
    signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt(signal.Signals(number).name)


def _is_of_the_process(stream: Any) -> bool:
    """Tell whether a stream is one that the process began with, and not one of a test."""
    try:
        return stream.fileno() in (1, 2) and hasattr(stream, "reconfigure")
    except (AttributeError, OSError, ValueError):
        return False


def _plain(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    parts = error.object[error.start : error.end]
    escaped = (part.encode("ascii", "backslashreplace").decode() for part in parts)
    return "".join(
        _PLAIN.get(part, text) for part, text in zip(parts, escaped, strict=True)
    ), error.end


codecs.register_error(_HANDLER, _plain)
