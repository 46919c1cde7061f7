"""Which files and folders of a run folder are this program's, by their names.

Only these are ever replaced or removed. None of them may be a symbolic link: what is written to a
run folder stays in it.
"""

import os
import re
from collections.abc import Iterator
from pathlib import Path

from cryorefine.errors import InputError

__all__ = [
    "EVENTS",
    "INPUTS",
    "INTERMEDIATE",
    "ITERATION_FILES",
    "LOCK",
    "MANIFEST",
    "PUBLISHED",
    "RESULTS",
    "RUN_FILES",
    "SEGMENT_FILES",
    "check_no_devices",
    "check_no_links",
    "committed_iterations",
    "is_leftover",
    "is_object",
    "is_object_leftover",
    "is_of_a_run",
    "is_run_file",
    "iteration_folder",
    "segment_folder",
    "segment_folders",
]

RESULTS = (
    "map.mrc",
    "map_sharpened.mrc",
    "map_average.mrc",
    "map.star",
    "half1.mrc",
    "half2.mrc",
    "mask.mrc",
    "fsc.star",
    "fsc.xml",
    "fsc.csv",
    "open_in_chimerax.cxc",
    "particles.star",
    "statistics.json",
    "summary.json",
    "summary.txt",
    "methods.txt",
    "map_processed.mrc",
    "half1_processed.mrc",
    "half2_processed.mrc",
    "disagreement.mrc",
    "fsc_processed.star",
    "restorations.json",
    "half1_unsymmetrised.mrc",
    "half2_unsymmetrised.mrc",
    "undecided_poses.star",
    "rejected_particles.star",
)
"""What an iteration may show at the top of the run folder."""

EVENTS = "events.jsonl"
MANIFEST = "manifest.json"
PUBLISHED = "published.json"
"""Which iteration the top of the folder shows, and the sizes and hashes of its files."""
RUN_FILES = (EVENTS, "legs.json", MANIFEST, PUBLISHED, "report.html", "settings.toml")
"""What belongs to the run and to no iteration."""

_STATE = "state.npz"
"""By which a folder is known as one of a run's: users may have folders of like names."""
INTERMEDIATE = (
    *(name for name in RESULTS if name.endswith(".mrc")),
    *("reference1.mrc", "reference2.mrc", "sums.npz"),
)
"""What of an iteration before the last two can be done without: only resuming needs it, and people
who look at how maps came about."""
_USED_REFERENCES = ("reference1_used.mrc", "reference2_used.mrc")
"""As images were compared with them; only where intermediate files are kept."""
ITERATION_FILES = (*dict.fromkeys((*RESULTS, *INTERMEDIATE)), *_USED_REFERENCES, _STATE)
_VOLUMES = ("half1.mrc", "half2.mrc", "mask.mrc", "reference1.mrc", "reference2.mrc", "sums.npz")
SEGMENT_FILES = ("settings.toml", MANIFEST, *_VOLUMES, _STATE)

INPUTS = "inputs"
"""Folder within a run's for inputs that were no files; it may be there before the run."""

_OBJECT = re.compile(
    r"(?:particles|reference\d|mask|reference_mask|post_mask|compare_to)_[0-9a-f]{16}\.(?:star|mrc)"
)
_OBJECT_PART = re.compile(
    r"\.\w+\.part\.(?:star|mrc)|\.\.\w+\.part\.(?:star|mrc)\.[a-z0-9_]{8}\.part"
)
"""An object on its way, and that file on its own way."""

LOCK = ".cryorefine.lock"
"""Held by the process that works in the folder."""

_ITERATION = re.compile(r"iteration_([0-9]{3,18})")
_SEGMENT = re.compile(r"leg_[0-9]{3,}")
_OLD_SETTINGS = re.compile(r"settings_leg[0-9]{3,}\.toml")
_PART = re.compile(r"\.(.+)\.[a-z0-9_]{8}\.part")
"""A file on its way (``io.atomic``)."""
_PART_FOLDER = re.compile(r"\.(?:iteration|leg)_[0-9]{3,}\.part")
"""A folder on its way (``run.checkpoint``)."""
_FOLDER = re.compile(r"(?:iteration|leg)_[0-9]{3,}|\.(?:iteration|leg)_[0-9]{3,}\.part")
"""All of the above that are folders."""


def iteration_folder(run: Path, iteration: int) -> Path:
    """Return the folder of a committed iteration."""
    return run / f"iteration_{iteration:03d}"


def segment_folder(run: Path, number: int) -> Path:
    """Return the folder that holds what a later segment of a run began with, and its settings."""
    return run / f"leg_{number:03d}"


def committed_iterations(run: Path) -> list[int]:
    """Return the numbers of all whole iterations of a run, ascending.

    A folder of such a name that holds no state is not one of them.
    """
    if not os.path.isdir(run):  # a name that is none is no folder
        return []
    numbered = ((_ITERATION.fullmatch(path.name), path) for path in run.iterdir())
    whole = [(int(match[1]), path) for match, path in numbered if match and is_of_a_run(path)]
    # Nobody has written one with more zeros than the number needs.
    return sorted(number for number, path in whole if iteration_folder(run, number) == path)


def segment_folders(run: Path) -> list[Path]:
    """Return the folders of later segments."""
    return [p for p in sorted(run.iterdir()) if _SEGMENT.fullmatch(p.name) and is_of_a_run(p)]


def is_of_a_run(folder: Path) -> bool:
    """Tell whether a folder was written by this program, and whole."""
    return os.path.lexists(folder / _STATE)


def is_run_file(name: str) -> bool:
    """Tell whether a name at the top of a run folder is that of one of its files."""
    return name in (*RESULTS, *RUN_FILES) or _OLD_SETTINGS.fullmatch(name) is not None


def is_leftover(name: str) -> bool:
    """Tell whether a name in a run folder, or in one of its folders, is of something half done."""
    if _PART_FOLDER.fullmatch(name):
        return True
    match = _PART.fullmatch(name)
    return match is not None and (match[1] in ITERATION_FILES or is_run_file(match[1]))


def is_object(name: str) -> bool:
    """Tell whether a name in the folder for inputs is that of an object written there."""
    return _OBJECT.fullmatch(name) is not None


def is_object_leftover(name: str) -> bool:
    """Tell whether a name in the folder for inputs is of an object that is half written."""
    return _OBJECT_PART.fullmatch(name) is not None


def check_no_links(run: Path) -> None:
    """Refuse a run folder in which a link stands for a file or folder of the run.

    So does anything else that is neither: what waits for a writer, such as a pipe, would never be
    read to its end.

    Raises
    ------
    InputError
        Naming the first of them.
    """
    check_no_devices(run)
    for path in _own_entries(run):
        if path.is_symlink():
            raise InputError(
                f"is a link to {os.readlink(path)}; what is written to a run stays in its folder",
                where=str(path),
                do="put the file or folder itself there",
            )


def check_no_devices(run: Path) -> None:
    """Refuse a run folder in which something stands for a file of the run that is none.

    Links to files are accepted: this is for those who only read.

    Raises
    ------
    InputError
        Naming the first.
    """
    for path in _own_entries(run):
        is_folder = _FOLDER.fullmatch(path.name) is not None
        if not os.path.exists(path) or (path.is_dir() if is_folder else path.is_file()):
            continue
        raise InputError(
            f"is no {'folder' if is_folder else 'file'}",
            where=str(path),
            do="restore it, or move it away",
        )


def _own_entries(run: Path) -> Iterator[Path]:
    """Yield all files and folders of a run folder that have names of this program's."""
    if not os.path.isdir(run):  # a name that is none is no folder
        return
    for path in sorted(run.iterdir()):
        name = path.name
        if is_run_file(name) or is_leftover(name) or name == LOCK:
            yield path
        if (_ITERATION.fullmatch(name) or _SEGMENT.fullmatch(name)) and is_of_a_run(path):
            yield path
            yield from (path / inner for inner in (*ITERATION_FILES, *SEGMENT_FILES))
