"""Sizes, times and hashes of files, and whether a file is still the one that they are of."""

import os
import stat
from hashlib import sha256
from pathlib import Path
from typing import Any

__all__ = ["difference", "file_digest"]

_WHOLE_BYTES = 64 << 20
"""Larger files are hashed in part: a set has terabytes, which are not to be read once more."""
_SAMPLE_BYTES = 1 << 20
"""As much as a disk reads at once at little more than the cost of seeking."""
_N_SAMPLES = 64
"""Evenly spread, the first and the last bytes among them: as much as of a file that is hashed
whole."""

_ALL = "all"
_SAMPLES = f"{_N_SAMPLES} samples of 1 MiB"
_ENDS = "first and last MiB"
"""What earlier versions hashed of large files."""


def file_digest(path: Path, covered: str = "") -> dict[str, Any]:
    """Return a file's size, time of change and SHA-256, and what of it was hashed.

    Parameters
    ----------
    covered
        What to hash, as an earlier digest has it; empty: all, or samples of a large file.
    """
    with open(path, "rb") as file:
        status = os.fstat(file.fileno())
        size = status.st_size
        covered = covered or (_ALL if size <= _WHOLE_BYTES else _SAMPLES)
        digest = sha256()
        if covered == _ALL:
            for chunk in iter(lambda: file.read(_SAMPLE_BYTES), b""):
                digest.update(chunk)
        else:
            n = 2 if covered == _ENDS else _N_SAMPLES
            for i in range(n):
                file.seek(max(0, size - _SAMPLE_BYTES) * i // (n - 1))
                digest.update(file.read(_SAMPLE_BYTES))
    return {
        "size_bytes": size,
        "modified_ns": status.st_mtime_ns,
        "sha256": digest.hexdigest(),
        "sha256_of": covered,
    }


def difference(path: Path, known: dict[str, Any]) -> str:
    """Return how a file differs from its digest, in words; empty if it does not.

    Size and time are looked at first, and the content only where the time differs.
    """
    try:
        status = os.stat(path)
    except OSError as error:
        return f"cannot be found ({error.strerror})"
    except ValueError as error:  # a NUL is in no file's name
        return f"cannot be found ({error})"
    if not stat.S_ISREG(status.st_mode):
        return "is no file"
    size = known.get("size_bytes")
    if status.st_size != size:
        return f"has {status.st_size} bytes instead of {size}"
    if status.st_mtime_ns == known.get("modified_ns"):
        return ""
    found = file_digest(path, str(known.get("sha256_of", _ALL)))
    return "" if found["sha256"] == known.get("sha256") else "has another content of the same size"
