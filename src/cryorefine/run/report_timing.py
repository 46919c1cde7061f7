"""When the report of a run is written anew: as often as costs little."""

import time
from collections.abc import Callable
from pathlib import Path
from threading import Thread

__all__ = ["Reporter", "TimedReport"]

Reporter = Callable[[Path], None]
"""Rewrites the report of a run folder; called now and then, and at the end."""

_REPORT_SHARE = 20
"""Time since the last report, in units of what one takes, after which the next is written: reports
then take a twentieth of a run."""

_FIRST_REPORT_S = 2.0  # what the first one is expected to take


class TimedReport:
    """Renews a run's report beside the work of the run, as often as costs little."""

    def __init__(self, output: Path, reporter: Reporter | None) -> None:
        self._output, self._reporter = output, reporter
        self._cost_s, self._written_s = _FIRST_REPORT_S, time.monotonic()
        self._beside: Thread | None = None
        self._error: Exception | None = None

    def write(self) -> None:
        """Write now, when one that is being written beside the run is done."""
        self._wait()
        self._raise()
        self._write()
        self._raise()

    def write_if_cheap(self) -> None:
        """Begin one beside the run, unless that costs more than a twentieth of its time so far.

        That is the time since the last one, which may still be being written.
        """
        if self._beside is not None and self._beside.is_alive():
            return
        self._raise()
        if time.monotonic() - self._written_s > _REPORT_SHARE * self._cost_s:
            self._beside = Thread(target=self._write, name="report", daemon=True)
            self._beside.start()

    def _write(self) -> None:
        """Write, and take note of what it costs and of what went wrong."""
        if self._reporter is None:
            return
        start_s = time.thread_time()
        try:
            self._reporter(self._output)
        except Exception as error:
            self._error = error
        self._written_s, self._cost_s = time.monotonic(), time.thread_time() - start_s

    def _wait(self) -> None:
        if self._beside is not None:
            self._beside.join()

    def _raise(self) -> None:
        """Raise what the last report ended with, in the thread of the run."""
        error, self._error = self._error, None
        if error is not None:
            raise error
