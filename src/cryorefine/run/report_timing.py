"""When the report of a run is written anew: as often as costs little."""

import time
from collections.abc import Callable
from pathlib import Path

__all__ = ["Reporter", "TimedReport"]

Reporter = Callable[[Path], None]
"""Rewrites the report of a run folder; called now and then, and at the end."""

_REPORT_SHARE = 40
"""Time since the last report, in units of what one takes, after which the next is written: reports
then take a fortieth of a run."""

_FIRST_REPORT_S = 2.0  # what the first one is expected to take


class TimedReport:
    """Renews a run's report as often as costs little."""

    def __init__(self, output: Path, reporter: Reporter | None) -> None:
        self._output, self._reporter = output, reporter
        self._cost_s, self._written_s = _FIRST_REPORT_S, time.monotonic()

    def write(self) -> None:
        """Write now, and take note of what it costs."""
        if self._reporter is not None:
            start = time.monotonic()
            self._reporter(self._output)
            self._written_s = time.monotonic()
            self._cost_s = self._written_s - start

    def write_if_cheap(self) -> None:
        """Write unless that would take more than a fortieth of the time since the last."""
        if time.monotonic() - self._written_s > _REPORT_SHARE * self._cost_s:
            self.write()
