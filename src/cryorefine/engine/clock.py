"""Wall and CPU time of a run over all its parts."""

import time
from dataclasses import dataclass

__all__ = ["Clock"]


@dataclass
class Clock:
    """Time spent, earlier parts of a resumed run included."""

    wall_s: float = 0.0
    cpu_s: float = 0.0

    def __post_init__(self):
        self._wall_start, self._cpu_start = time.monotonic(), time.process_time()

    def read(self) -> tuple[float, float]:
        """Return wall and CPU seconds so far."""
        return (
            self.wall_s + time.monotonic() - self._wall_start,
            self.cpu_s + time.process_time() - self._cpu_start,
        )
