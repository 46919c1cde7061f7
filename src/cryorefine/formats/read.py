"""Read particle metadata of any known format, told by what a file holds."""

from pathlib import Path

from cryorefine.formats.registry import format_of
from cryorefine.particles.formats.read_options import ReadOptions
from cryorefine.particles.table import ParticleTable

__all__ = ["read_particles"]


def read_particles(
    path: Path,
    *,
    ctf: bool = True,
    ignored: frozenset[str] = frozenset(),
    image_root: Path | None = None,
) -> ParticleTable:
    """Read a particle file.

    Parameters
    ----------
    ctf, ignored, image_root
        As in :class:`~cryorefine.particles.formats.read_options.ReadOptions`.

    Raises
    ------
    InputError
        If the format is unknown, or the reader refuses the file.
    """
    path = Path(path)
    options = ReadOptions(ctf=ctf, ignored=ignored, image_root=image_root)
    return format_of(path).read(path, options).table
