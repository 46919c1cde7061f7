"""Choose the engine of a run."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from cryorefine.engine.processes import ProcessEngine
from cryorefine.engine.protocol import Engine
from cryorefine.engine.serial import SerialEngine
from cryorefine.engine.threaded import ThreadEngine
from cryorefine.engine.threads import use_threads
from cryorefine.settings import RefineSettings

__all__ = ["engine_of"]


@contextmanager
def engine_of(settings: RefineSettings, device: torch.device) -> Iterator[Engine]:
    """Give the process its threads, and yield what a run's work is done by; it ends afterwards.

    A GPU does one thing after the other. On the CPU threads of this process do the work, or worker
    processes if there are to be any.
    """
    threads = use_threads(settings.threads)
    engine: Engine
    if device.type != "cpu":
        engine = SerialEngine()
    elif settings.workers is not None:
        engine = ProcessEngine(settings.workers, threads=threads)
    else:
        engine = ThreadEngine(threads)
    try:
        yield engine
    finally:
        engine.close()
