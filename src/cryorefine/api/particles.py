"""Particles as a Python object: columns as attributes, selections, images read when asked for."""

import os
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from types import EllipsisType
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from cryorefine.api.boundary import library_call
from cryorefine.errors import InputError
from cryorefine.formats.read import read_particles as read_table
from cryorefine.geometry.rotation import matrix_from_euler
from cryorefine.io.output_path import check_output_file
from cryorefine.io.star import StarBlock, read_star, write_star
from cryorefine.particles.formats.image_files import image_names
from cryorefine.particles.formats.relion import relion_blocks
from cryorefine.particles.images import ImageSource, open_images
from cryorefine.particles.table import ParticleTable
from cryorefine.particles.turned import turned_poses
from cryorefine.records.particle_tables import QUALITY_COLUMNS
from cryorefine.units import DEG

__all__ = ["Particles", "read_particles"]

_ANGLES = ("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi")


class Particles:
    """Particles and their images.

    The columns that a refinement writes are attributes by their short names, such as
    ``sigma_rotation_deg``, ``score`` or ``weight``; any other column of the file is one by its
    label, such as ``rlnClassNumber``. ``columns`` lists all of them. Arrays have one entry per
    particle. Nothing is changed in place: a selection is a new object.

    ``particles[key]`` selects: a number, a slice, a mask or an array of row numbers.

    Examples
    --------
    >>> import cryorefine as cr
    >>> particles = cr.read_particles("truth_particles.star")
    >>> len(particles)
    120
    >>> near_focus = particles[particles.defocus_u_A < 12000]
    >>> near_focus.images([0, 1]).shape
    (2, 32, 32)
    >>> near_focus.write("near_focus.star")
    """

    def __init__(
        self,
        table: ParticleTable,
        optics: Mapping[str, np.ndarray],
        block: StarBlock,
    ) -> None:
        # The text of the file beside the table made of it: what is written is what was read.
        self._table, self._optics, self._block = table, dict(optics), block

    def __len__(self) -> int:
        return len(self._table)

    def __repr__(self) -> str:
        poses = "with poses" if self.has_pose else "without poses"
        return f"<Particles: {len(self)} of {self._table.source.name}, {poses}>"

    def __getitem__(self, key: Any) -> "Particles":
        if isinstance(key, str | tuple | EllipsisType) or key is None:
            raise TypeError("particles are selected by a number, a slice, a mask or row numbers")
        rows = np.atleast_1d(np.arange(len(self))[key])
        lines = self._block.lines
        block = StarBlock(
            self._block.name,
            {label: column[rows] for label, column in self._block.columns.items()},
            lines[rows] if len(lines) else lines,
            self._block.path,
        )
        return Particles(self._table.select(rows), self._optics, block)

    def __iter__(self) -> Iterator["Particles"]:
        return (self[row] for row in range(len(self)))

    def __getattr__(self, name: str) -> np.ndarray:
        label = QUALITY_COLUMNS.get(name, name)
        if name.startswith("_") or label not in self._block:
            raise AttributeError(f"these particles have no {name!r}; .columns lists what they have")
        return self._column(label)

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *self.columns]

    def _column(self, label: str) -> np.ndarray:
        try:
            return self._block.floats(label)
        except InputError:
            return self._block.text(label)

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns that the file has: all of them are attributes."""
        short = {label: name for name, label in QUALITY_COLUMNS.items()}
        return tuple(short.get(label, label) for label in self._block.columns)

    @property
    def names(self) -> np.ndarray:
        """Where each image is, as ``000001@stack.mrcs``: (n,) text."""
        return self._table.names

    @property
    def micrographs(self) -> np.ndarray:
        """Name of each particle's micrograph: (n,) text; empty text where the file has none."""
        if not self._table.micrographs:
            return np.full(len(self), "")
        return np.array(self._table.micrographs)[self._table.micrograph_index]

    @property
    def has_pose(self) -> bool:
        """Whether there are poses."""
        return self._table.has_pose

    @property
    def is_assigned(self) -> np.ndarray:
        """Whose angles are a pose: (n,) bool."""
        return ~self._table.lacks_pose

    @property
    def euler_deg(self) -> np.ndarray:
        """(n, 3): rot, tilt and psi in degrees, as RELION defines them."""
        return self._table.euler_rad / DEG

    @property
    def rotations(self) -> np.ndarray:
        """(n, 3, 3): matrices that take coordinates (x, y, z) of the object to the image's."""
        return matrix_from_euler(torch.from_numpy(self._table.euler_rad)).numpy()

    @property
    def shift_A(self) -> np.ndarray:
        """(n, 2): (x, y) in Å by which an image's content is moved to be centred."""
        return self._table.shift_A

    @property
    def defocus_u_A(self) -> np.ndarray:
        """Defocus along the axis of ``defocus_angle_deg`` in Å, positive for underfocus: (n,)."""
        return self._table.defocus_u_A

    @property
    def defocus_v_A(self) -> np.ndarray:
        """Defocus across that axis in Å: (n,)."""
        return self._table.defocus_v_A

    @property
    def defocus_angle_deg(self) -> np.ndarray:
        """Angle from x towards y in degrees: (n,)."""
        return self._table.defocus_angle_rad / DEG

    @property
    def half_set(self) -> np.ndarray:
        """1 or 2; 0 where no half set has been drawn: (n,)."""
        return self._table.half_set

    @property
    def pixel_A(self) -> np.ndarray:
        """Size of the image's pixels in Å: (n,)."""
        return np.array([g.pixel_A for g in self._table.optics])[self._table.optics_index]

    @property
    def optics_group(self) -> np.ndarray:
        """Name of each particle's optics group: (n,) text."""
        return np.array([g.name for g in self._table.optics])[self._table.optics_index]

    @cached_property
    def _opened(self) -> tuple[ParticleTable, ImageSource]:
        """The table with the box of every optics group, and the stacks, which were checked."""
        return open_images(self._table)

    def images(self, rows: Any = None) -> Float[np.ndarray, "n y x"]:
        """Read images as they are in their files.

        Parameters
        ----------
        rows
            Which of these particles, as for a selection; None reads all into memory.

        Raises
        ------
        InputError
            If a stack is missing or damaged, or the images differ in size.
        """
        chosen = np.atleast_1d(np.arange(len(self))[slice(None) if rows is None else rows])
        return self._read(chosen)

    @library_call
    def _read(self, rows: np.ndarray) -> np.ndarray:
        if len(rows) == 0:
            raise InputError("there is no image to read", do="select some particles")
        table, source = self._opened
        box_px = np.array([g.box_px for g in table.optics])
        sizes = np.unique(box_px[table.optics_index[rows]])
        if len(sizes) > 1:
            raise InputError(
                f"images of {sizes[0]} and of {sizes[-1]} pixels do not fit into one array",
                where=str(self._table.source),
                do="read the images of one optics_group at a time",
            )
        return source.read(rows).numpy()

    @library_call
    def turned(self, rotation: Any) -> "Particles":
        """Return these particles with poses for an object that is turned; all else stays.

        Parameters
        ----------
        rotation
            (3, 3), active on object coordinates: the map becomes ``V(Rᵀ x)``, and a pose ``A Rᵀ``.

        Raises
        ------
        InputError
            If there are no poses, or priors of angles that would have to be turned, too.
        """
        turn = torch.as_tensor(np.asarray(rotation), dtype=torch.float64)
        table = turned_poses(self._table, turn)
        columns = dict(self._block.columns)
        for i, label in enumerate(_ANGLES):
            columns[label] = table.euler_rad[:, i] / DEG
        block = replace(self._block, columns=columns)
        return Particles(table, self._optics, block)

    @library_call
    def write(self, path: str | os.PathLike[str]) -> None:
        """Write a STAR file with all columns as they were read, replacing one that is there.

        Names of images stay where they lead to the stack from the new file's folder or the working
        folder; others become absolute.

        Raises
        ------
        InputError
            If the folder does not exist, or there is no particle to write.
        """
        target = Path(path)
        check_output_file(target, overwrite=True)
        self._write(target)

    def _write(self, path: Path, *, absolute: bool = False) -> None:
        if len(self) == 0:
            raise InputError("no particles are selected", where="particles", do="select some")
        names = image_names(path, self._table, absolute=absolute)
        columns = {**self._block.columns, "rlnImageName": names}
        write_star(path, {"optics": self._optics, "particles": columns})


@library_call
def read_particles(
    path: str | os.PathLike[str],
    *,
    ctf: bool = True,
    image_root: str | os.PathLike[str] | None = None,
) -> Particles:
    """Read a particle file of any known format (``docs/formats.md``), or of a run.

    Images stay in their stacks until they are asked for.

    Parameters
    ----------
    ctf
        Whether the images have contrast transfer, so that its columns must be there.
    image_root
        Folder that the stacks were moved to: the longest end of a stack's name that is there is
        taken.

    Raises
    ------
    InputError
        If anything that refinement needs is missing or malformed.

    Examples
    --------
    >>> import cryorefine as cr
    >>> cr.read_particles("particles.star")
    <Particles: 120 of particles.star, without poses>
    """
    root = None if image_root is None else Path(image_root)
    table = read_table(Path(path), ctf=ctf, image_root=root)
    optics, block = _columns(Path(path), table)
    return Particles(table, optics, block)


def _columns(path: Path, table: ParticleTable) -> tuple[Mapping[str, np.ndarray], StarBlock]:
    """Return the columns of a file as they are written in it, or those that RELION would have."""
    if not table.foreign_format:
        blocks = read_star(path)
        if "optics" in blocks and "particles" in blocks:
            return blocks["optics"].columns, blocks["particles"]
    optics, particles = relion_blocks(path, table)
    texts = {
        label: column if column.dtype.kind == "S" else np.char.encode(column.astype("U"), "utf-8")
        for label, column in particles.items()
    }
    return optics, StarBlock("particles", texts, path=path)
