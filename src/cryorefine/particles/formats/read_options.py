"""How a particle file is to be read, whatever its format."""

from dataclasses import dataclass
from pathlib import Path

__all__ = ["ReadOptions"]


@dataclass(frozen=True)
class ReadOptions:
    """How a particle file is to be read.

    Attributes
    ----------
    ctf
        Whether the images have contrast transfer. If so, its values must be there.
    ignored
        Labels of cryorefine's own columns that are not read.
    image_root
        Folder in which stacks are looked for first, by as much of their names as leads to a file.
    """

    ctf: bool = True
    ignored: frozenset[str] = frozenset()
    image_root: Path | None = None
