"""What of a run is done by one thread alone, and where: a look at all threads every 4 ms.

    python benchmarks/serial_share.py particles.star --reference reference.mrc --symmetry d7

A run is made once to load and compile what it needs, and once more while a thread looks which of
the others the system has running (Linux only). With a and b seconds in which at most one and more
of n threads ran, one thread would have taken a + n b: the serial share is a over that. It is what
a division of the run could still change; the machine's memory, shared by all, is not in it. Work
that is done beside an iteration hides what would be serial. The looks themselves take some time.

"Where" is the function that the thread which ran alone was in, the outermost one below the loop of
a run; work within kernels and libraries counts for who called it.
"""

import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread, get_native_id
from threading import enumerate as threads_of_python
from types import FrameType

from cryorefine.cli.environment import modules_of_a_run, prepare_environment

prepare_environment()  # before torch is loaded

with modules_of_a_run():
    from cryorefine.report.build import write_report
    from cryorefine.run.loop import refine
from trial import markdown, number, parser_of_set, settings_of_set

_PAUSE_S = 0.004
_COMMON = {"refine", "_loop", "advance", "iterate", "once", "first_segment", "side_by_side", "work"}
"""Functions that all of a run is in: they do not tell where."""


def running_threads() -> list[int]:
    """Return the system's numbers of the threads that run or could, the one that asks left out."""
    found = []
    for task in os.listdir("/proc/self/task"):
        try:
            state = Path(f"/proc/self/task/{task}/stat").read_text().rsplit(")", 1)[1].split()[0]
        except OSError:  # it has just ended
            continue
        if state == "R" and int(task) != get_native_id():
            found.append(int(task))
    return found


def place_of(frame: FrameType | None) -> str:
    """Return the outermost function of the program that tells where a thread is."""
    place = "another library"
    while frame is not None:
        path, name = frame.f_code.co_filename, frame.f_code.co_name
        if "/cryorefine/" in path and name not in _COMMON and "contextlib" not in path:
            place = f"{path.split('/cryorefine/')[-1].removesuffix('.py')}: {name}"
        frame = frame.f_back
    return place


@contextmanager
def looks() -> Iterator[tuple[Counter[int], Counter[str]]]:
    """Count numbers of running threads, and places of those that ran alone, within a context."""
    numbers, places, ended = Counter[int](), Counter[str](), Event()

    def look() -> None:
        while not ended.wait(_PAUSE_S):
            running = running_threads()
            numbers[len(running)] += 1
            if len(running) == 1:
                known = {thread.native_id: thread.ident for thread in threads_of_python()}
                frames = sys._current_frames()
                places[place_of(frames.get(known.get(running[0]) or 0))] += 1

    thread = Thread(target=look, daemon=True)
    thread.start()
    try:
        yield numbers, places
    finally:
        ended.set()
        thread.join()


def main() -> None:
    """Refine twice, look at the second run and print what was seen."""
    parser = parser_of_set(__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--places", type=int, default=20, help="so many are shown")
    options = parser.parse_args()
    settings = settings_of_set(options, threads=options.threads)
    with tempfile.TemporaryDirectory() as work:

        def once() -> None:
            refine(settings, Path(work) / "run", overwrite=True, reporter=write_report)

        once()
        begin_s = time.perf_counter()
        with looks() as (numbers, places):
            once()
        wall_s = time.perf_counter() - begin_s
    each_s = wall_s / numbers.total()
    alone_s = each_s * (numbers[0] + numbers[1])
    share = alone_s / (alone_s + options.threads * (wall_s - alone_s))
    rows = [[str(k), number(each_s * numbers[k])] for k in sorted(numbers)]
    print(markdown([["threads running", "s"], *rows]))
    print(f"\nOne or none for {alone_s:.2f} of {wall_s:.2f} s: serial share {100 * share:.1f} %.\n")
    rows = [[place, number(each_s * k)] for place, k in places.most_common(options.places)]
    print(markdown([["one thread alone in", "s"], *rows]))


if __name__ == "__main__":
    main()
