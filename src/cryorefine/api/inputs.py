"""Objects that a run is given, written beside it: its settings hold paths, and resuming reads them.

Files are named by their content. One that a run still uses is never replaced, and the same object
given again is the same file.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path
from typing import Any

from cryorefine.api.particles import Particles
from cryorefine.api.volume import Volume
from cryorefine.errors import InputError
from cryorefine.storage.layout import INPUTS
from cryorefine.storage.removal import settings_texts

__all__ = ["inputs_as_paths"]

_VOLUMES = ("mask", "reference_mask", "post_mask", "compare_to")


@contextmanager
def inputs_as_paths(output: Path, values: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Write the objects among a run's settings into its folder; yield the settings with paths.

    A file that no settings of the folder name at the end is removed again, and so are folders that
    are empty then: a run that is refused leaves nothing behind. What a call leaves that is killed,
    the next run in the folder removes (``storage.removal.sweep_inputs``).

    Parameters
    ----------
    values
        Settings by name.

    Raises
    ------
    InputError
        If a value is neither a path nor an object that can be written.
    """
    missing = [p for p in (output / INPUTS, output, *output.parents) if not p.exists()]
    written: list[Path] = []
    try:
        yield {name: _as_path(output, name, value, written) for name, value in values.items()}
    finally:
        _forget_unused(output, written)
        for folder in missing:
            with suppress(OSError):
                folder.rmdir()


def _as_path(output: Path, name: str, value: Any, written: list[Path]) -> Any:
    """Return a setting's value with paths for objects."""
    if name == "particles":
        return _one(output, name, value, Particles, written)
    if name in _VOLUMES:
        return None if value is None else _one(output, name, value, Volume, written)
    if name == "reference":
        several = value if isinstance(value, tuple | list) else [] if value is None else [value]
        return tuple(
            _one(output, f"reference{i}", one, Volume, written) for i, one in enumerate(several, 1)
        )
    return value


def _one(output: Path, name: str, value: Any, kind: type, written: list[Path]) -> Path:
    if isinstance(value, str | os.PathLike):
        return Path(value)
    if not isinstance(value, kind):
        raise InputError(
            f"{type(value).__name__} is neither a path nor {kind.__name__}",
            where=name.rstrip("12"),
            do=f"give a path or cryorefine.{kind.__name__}",
        )
    folder = (output / INPUTS).absolute()
    if folder.is_symlink():
        raise InputError(
            "is a link, and what is written to a run stays in its folder",
            where=str(folder),
            do="put a folder there",
        )
    folder.mkdir(parents=True, exist_ok=True)
    suffix = ".star" if kind is Particles else ".mrc"
    part = folder / f".{name}.part{suffix}"
    if isinstance(value, Particles):
        value._write(part, absolute=True)
        digest = sha256(part.read_bytes())
    else:
        value.write(part)
        # Not that of the file, whose header has the time.
        digest = sha256(value.data.tobytes() + repr(value.voxel_A).encode())
    path = folder / f"{name}_{digest.hexdigest()[:16]}{suffix}"
    if path.exists():
        part.unlink()
    else:
        os.replace(part, path)
        written.append(path)
    return path


def _forget_unused(output: Path, written: list[Path]) -> None:
    """Remove what was written here, unless settings of the run name it."""
    used = settings_texts(output)
    for path in written:
        if path.name not in used:
            path.unlink(missing_ok=True)
