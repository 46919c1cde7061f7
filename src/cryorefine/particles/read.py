"""Read particle metadata of any known format: one reader per suffix."""

from collections.abc import Callable
from pathlib import Path

from cryorefine.errors import InputError
from cryorefine.particles.formats.relion import read_relion
from cryorefine.particles.table import ParticleTable

__all__ = ["read_particles"]

_READERS: dict[str, Callable[..., ParticleTable]] = {".star": read_relion}


def read_particles(
    path: Path, *, ctf: bool = True, ignored: frozenset[str] = frozenset()
) -> ParticleTable:
    """Read a particle file by its suffix.

    Parameters
    ----------
    ctf, ignored
        As for :func:`~cryorefine.particles.formats.relion.read_relion`.

    Raises
    ------
    InputError
        If the suffix is unknown, or the reader refuses the file.
    """
    path = Path(path)
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise InputError(
            f"particle files of type '{path.suffix or path.name}' cannot be read",
            where=str(path),
            do=f"give one of: {', '.join('*' + s for s in sorted(_READERS))}",
        )
    return reader(path, ctf=ctf, ignored=ignored)
