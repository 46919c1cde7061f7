"""Work of a run that is done beside its next iteration: files and the report."""

from collections.abc import Callable
from threading import Thread
from typing import Generic, TypeVar

from cryorefine.engine.threads import begin_worker

__all__ = ["Beside"]

Result = TypeVar("Result")


class Beside(Generic[Result]):
    """Does one job at a time in a thread of its own.

    Parameters
    ----------
    at_once
        False where there is no thread or no memory to spare: jobs are then done where they begin.
    """

    def __init__(self, *, at_once: bool) -> None:
        self._at_once = at_once
        self._thread: Thread | None = None
        self._result: Result | None = None
        self._error: BaseException | None = None

    def begin(self, job: Callable[[], Result], *, threads: int = 1) -> None:
        """Begin a job, when the one before has been done; raises what that one ended with.

        Parameters
        ----------
        threads
            What it may use of them: more than one where nothing is done beside it.
        """
        self.wait()
        self._result = None
        if not self._at_once:
            self._result = job()
            return

        def work() -> None:
            begin_worker(threads)
            try:
                self._result = job()
            except BaseException as error:
                self._error = error

        self._thread = Thread(target=work, name="beside")
        self._thread.start()

    def wait(self) -> Result | None:
        """Return what the last job returned, None if there was none, when it has been done.

        What it ended with is raised here, once.
        """
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        error, self._error = self._error, None
        if error is not None:
            raise error
        return self._result
