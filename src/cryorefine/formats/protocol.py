"""What a particle format does: tells its files, reads them, writes them, and says what it lost."""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from cryorefine.formats.columns import Column
from cryorefine.particles.formats.read_options import ReadOptions
from cryorefine.particles.table import ParticleTable

__all__ = ["ParticleFormat", "Reading"]


@dataclass(frozen=True, eq=False)
class Reading:
    """A table, and what of the file is not in it in a form that can be computed with.

    Attributes
    ----------
    not_understood
        One clause for each; what can be written to the same format again says so.
    """

    table: ParticleTable
    not_understood: tuple[str, ...] = ()


class ParticleFormat(Protocol):
    """A metadata format; ``docs/formats.md`` has the conventions of all of them.

    Attributes
    ----------
    name
        As ``--to`` takes it.
    title
        As messages say it.
    suffixes
        Of its files, in lower case; the first is the one that is written.
    columns
        All labels that are read or written.
    """

    @property
    def name(self) -> str: ...  # noqa: D102 (above)
    @property
    def title(self) -> str: ...  # noqa: D102
    @property
    def suffixes(self) -> tuple[str, ...]: ...  # noqa: D102
    @property
    def columns(self) -> tuple[Column, ...]: ...  # noqa: D102

    def recognises(self, path: Path, head: bytes) -> bool:
        """Tell whether a file is of this format, from its first bytes."""
        ...

    def files(self, path: Path) -> tuple[Path, ...]:
        """Return all files that are written for a path, itself among them."""
        ...

    def read(self, path: Path, options: ReadOptions) -> Reading:
        """Read a file.

        Raises
        ------
        InputError
            If anything that refinement needs is missing, malformed or out of range.
        """
        ...

    def write(self, path: Path, table: ParticleTable) -> tuple[str, ...]:
        """Write a table; return a clause for everything in it that the file does not hold.

        Raises
        ------
        InputError
            If the format cannot say at all what the table holds.
        """
        ...
