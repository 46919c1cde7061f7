"""A worker process: it does blocks of the tasks that it is sent, until it is told to end.

Started as ``python -m cryorefine.engine.worker DESCRIPTOR THREADS`` by
:class:`cryorefine.engine.processes.ProcessEngine`.
"""

import pickle
import signal
import sys
import traceback
from multiprocessing.connection import Connection
from typing import Any

from cryorefine.engine.freed_memory import release_memory
from cryorefine.engine.threads import begin_worker
from cryorefine.engine.transfer import Sent, pack, unpack

__all__ = ["serve"]


def serve(connection: Connection, threads: int) -> None:
    """Answer messages: ``("task", parcel)``, ``("block", i, block)``, ``("end",)``.

    Answers are ``("done", n)`` for so many more particles, ``("result", i, parcel)``, and
    ``("error", i, exception, text)``. The memory of a result is held until the next message.
    """
    begin_worker(threads)
    task: Any = None
    held: Sent | None = None
    while True:
        try:
            message = connection.recv()
        except (EOFError, OSError):  # who started this process is gone
            return
        if held is not None:
            held.close()
            held = None
        if message[0] == "end":
            return
        try:
            if message[0] == "task":
                task = None
                release_memory()
                task = unpack(message[1])
                continue
            _, i, block = message
            held = pack(task.run(block, lambda count: connection.send(("done", count))))
            connection.send(("result", i, held.parcel))
        except BrokenPipeError:
            return
        except Exception as error:
            i = message[1] if message[0] == "block" else None
            connection.send(("error", i, _sendable(error), traceback.format_exc()))


def _sendable(error: Exception) -> Exception:
    """Return an exception, or one like it if it cannot be pickled."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


def main() -> None:
    """Serve on the connection that the command line names."""
    # Ctrl-C reaches all processes of a terminal: the one that started this decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    descriptor, threads = map(int, sys.argv[1:3])
    with Connection(descriptor) as connection:
        serve(connection, threads)


if __name__ == "__main__":
    main()
