"""Particles of cryoDRGN: poses and CTF as pickles of arrays, in the order of an image list."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from cryorefine.errors import InputError
from cryorefine.formats.columns import Column, in_relion_units, in_units_of
from cryorefine.formats.losses import losses, without_unassigned
from cryorefine.formats.numpy_pickle import read_arrays, write_arrays
from cryorefine.formats.protocol import Reading
from cryorefine.formats.stack_boxes import with_boxes
from cryorefine.geometry.rotation import euler_from_matrix, matrix_from_euler
from cryorefine.io.mrc import read_stack_header
from cryorefine.io.star import StarForm, read_star, write_star
from cryorefine.io.unreadable import require_no_pipe, unreadable
from cryorefine.particles.formats.foreign import ForeignBlock, as_optics_groups
from cryorefine.particles.formats.image_files import find_stack, image_names
from cryorefine.particles.formats.read_options import ReadOptions
from cryorefine.particles.formats.relion import relion_blocks, table_from_blocks
from cryorefine.particles.table import ParticleTable
from cryorefine.units import DEG

__all__ = ["CryodrgnFormat"]

_POSES, _CTF, _IMAGES = "poses", "ctf", "particles"
_LISTS = (".star", ".txt", ".mrcs", ".mrc")
_PICKLE = 0x80
"""First byte of a pickle of protocol 2 or later; the second is the protocol."""

_PROTOCOLS = 5  # the latest

_ANGLES: tuple[str, ...] = ("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi")
_ORIGIN: tuple[str, ...] = ("rlnOriginXAngst", "rlnOriginYAngst")
_OF_GROUP = (
    "rlnImageSize", "rlnImagePixelSize", "rlnVoltage", "rlnSphericalAberration",
    "rlnAmplitudeContrast",
)  # fmt: skip
_ROTATION_ERROR = 1e-3
"""By which products of a matrix's rows may differ from those of a rotation: single precision, and
the rounding of programs that write six digits."""


class CryodrgnFormat:
    """Pickles of cryoDRGN: ``poses.pkl``, beside it ``ctf.pkl`` and the list of images.

    The list is ``particles.star``, ``.txt``, ``.mrcs`` or ``.mrc``. Where the file of the poses has
    another name that ends so, the others have names that begin alike: ``run1_poses.pkl``,
    ``run1_ctf.pkl`` and ``run1_particles.star``.
    """

    name = "cryodrgn"
    title = "cryoDRGN (poses.pkl)"
    suffixes = (".pkl",)
    columns = (
        Column("poses[0]", _ANGLES, convention="RELION's matrix"),
        Column("poses[1]", _ORIGIN, "box sides", convention="same sign"),
        Column("ctf[:, 0]", ("rlnImageSize",), "px", 1.0),
        Column("ctf[:, 1]", ("rlnImagePixelSize",), "Å", 1.0),
        Column("ctf[:, 2]", ("rlnDefocusU",), "Å", 1.0),
        Column("ctf[:, 3]", ("rlnDefocusV",), "Å", 1.0),
        Column("ctf[:, 4]", ("rlnDefocusAngle",), "°", 1.0),
        Column("ctf[:, 5]", ("rlnVoltage",), "kV", 1.0),
        Column("ctf[:, 6]", ("rlnSphericalAberration",), "mm", 1.0),
        Column("ctf[:, 7]", ("rlnAmplitudeContrast",), "", 1.0),
        Column("ctf[:, 8]", ("rlnPhaseShift",), "°", 1.0),
        Column("particles", ("rlnImageName",), convention="a row for each pose"),
    )

    def recognises(self, path: Path, head: bytes) -> bool:
        """Tell whether it is a pickle."""
        return len(head) > 1 and head[0] == _PICKLE and head[1] <= _PROTOCOLS

    def files(self, path: Path) -> tuple[Path, ...]:
        """Return all files of a set, that of the poses first."""
        return (path, _beside(path, _CTF), _beside(path, _IMAGES).with_suffix(".star"))

    def read(self, path: Path, options: ReadOptions) -> Reading:
        """Read poses, CTF and the names of images; nothing of a pickle is executed."""
        rotations, shifts = _read_poses(path)
        listed = _image_list(path)
        names = _image_names(listed, path, len(rotations), options)
        columns: dict[str, np.ndarray] = {"rlnImageName": names}
        ctf_file, companions = _beside(path, _CTF), [listed]
        if ctf_file.exists():
            companions.append(ctf_file)
            columns |= self._ctf_columns(ctf_file, len(rotations))
        else:
            columns |= _sampling(names, path, options)
        euler = euler_from_matrix(torch.from_numpy(rotations)).numpy() / DEG
        columns |= dict(zip(_ANGLES, euler.T, strict=True))
        box_A = columns["rlnImageSize"] * columns["rlnImagePixelSize"]
        columns |= dict(zip(_ORIGIN, (shifts * box_A[:, None]).T, strict=True))
        own = {label: c.label for c in self.columns for label in c.relion}
        particles = ForeignBlock("particles", columns, path=path, own=own)
        table = table_from_blocks(particles, as_optics_groups(particles, _OF_GROUP), options)
        return Reading(replace(table, foreign_format=self.name, companions=tuple(companions)))

    def _ctf_columns(self, path: Path, n: int) -> dict[str, np.ndarray]:
        arrays = read_arrays(path)
        width = sum(c.label.startswith("ctf[") for c in self.columns)
        if len(arrays) != 1 or arrays[0].shape != (n, width):
            raise InputError(
                f"holds {' and '.join(str(a.shape) for a in arrays)}, and there are {n} poses",
                where=str(path),
                do=f"give an array of {n} × {width}, as cryoDRGN's parse_ctf_star writes it",
            )
        values = {f"ctf[:, {i}]": arrays[0][:, i] for i in range(width)}
        return in_relion_units(self.columns, values)

    def write(self, path: Path, table: ParticleTable) -> tuple[str, ...]:
        """Write poses, CTF and a STAR file that lists the images."""
        if not table.has_pose:
            raise InputError(
                "has no poses, and cryoDRGN needs one for each image",
                where=str(table.source),
                do="refine the particles first",
            )
        table = with_boxes(table)
        poses_file, ctf_file, list_file = self.files(path)
        optics, particles = relion_blocks(path, table)
        values = {k: np.asarray(v)[table.optics_index] for k, v in optics.items()} | particles
        rotations = matrix_from_euler(
            torch.from_numpy(without_unassigned(table, table.euler_rad))
        ).numpy()
        box_A = np.array([g.box_A for g in table.optics])[table.optics_index]
        shifts = without_unassigned(table, table.shift_A) / box_A[:, None]
        write_arrays(poses_file, (rotations.astype(np.float32), shifts.astype(np.float32)))
        if table.optics[0].has_ctf:
            made = in_units_of(self.columns, values)
            order = [c.label for c in self.columns if c.label.startswith("ctf[")]
            ctf = np.stack([made[label] for label in order], -1)
            write_arrays(ctf_file, ctf.astype(np.float32))
        write_star(
            list_file, {"": {"rlnImageName": image_names(list_file, table)}}, StarForm(version="")
        )
        return losses(table, ("poses", "ctf", "phase_shift"), format_name=self.name)


def _beside(path: Path, what: str) -> Path:
    """Return the file of a set that belongs to its poses."""
    stem = path.stem
    if not stem.endswith(_POSES):
        raise InputError(
            "is not called poses.pkl, nor anything that ends so",
            where=str(path),
            do="name the file of the poses poses.pkl, with ctf.pkl and particles.star beside it",
        )
    return path.with_name(stem.removesuffix(_POSES) + what + path.suffix)


def _read_poses(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return rotation matrices (n, 3, 3) and shifts (n, 2) in sides of the box."""
    _beside(path, _CTF)
    arrays = read_arrays(path)
    shapes = " and ".join(str(a.shape) for a in arrays) or "nothing"
    n = arrays[0].shape[0] if arrays and arrays[0].ndim else 0
    fits = len(arrays) in (1, 2) and arrays[0].shape == (n, 3, 3) and n > 0
    if not fits or (len(arrays) > 1 and arrays[1].shape != (n, 2)):
        raise InputError(
            f"holds arrays of {shapes}",
            where=str(path),
            do="give rotations (n, 3, 3) and translations (n, 2), as cryoDRGN writes them",
        )
    rotations = arrays[0]
    shifts = arrays[1] if len(arrays) > 1 else np.zeros((n, 2))
    products = rotations @ rotations.transpose(0, 2, 1)
    with np.errstate(invalid="ignore"):
        is_rotation = np.abs(products - np.eye(3)).max((1, 2)) < _ROTATION_ERROR
        is_rotation &= np.linalg.det(np.nan_to_num(rotations, posinf=0.0, neginf=0.0)) > 0
    for bad, what in (
        (~is_rotation, "is no rotation"),
        (~(np.abs(shifts) <= 1).all(-1), "has a shift of more than the box (in pixels?)"),
    ):
        if bad.any():
            raise InputError(
                f"the pose of particle {int(np.argmax(bad)) + 1} {what}",
                where=str(path),
                do="write the poses again with this version's cryoDRGN",
            )
    return rotations, shifts


def _image_list(path: Path) -> Path:
    """Return the file beside the poses that lists the images."""
    start = _beside(path, _IMAGES)
    found = next((p for s in _LISTS if (p := start.with_suffix(s)).exists()), None)
    if found is None:
        raise InputError(
            f"there is no list of the images beside it: {start.stem}.star, .txt or .mrcs",
            where=str(path),
            do="put the list or the stack there, or a link to it",
        )
    return found


def _image_names(found: Path, path: Path, n: int, options: ReadOptions) -> np.ndarray:
    """Return the names of the images of a list, as many as there are poses."""
    if found.suffix == ".star":
        blocks = [b for b in read_star(found).values() if "rlnImageName" in b]
        names = blocks[0].columns["rlnImageName"] if blocks else np.zeros(0, "S1")
    else:
        names = _of_stacks(found, options)
    if len(names) != n:
        raise InputError(
            f"{len(names)} images, and {path.name} has {n} poses",
            where=str(found),
            do="give the list that the poses were made for",
        )
    return names


def _of_stacks(listed: Path, options: ReadOptions) -> np.ndarray:
    """Return the names of all images of a stack, or of those that a text lists."""
    if listed.suffix == ".txt":
        require_no_pipe(listed)
        try:
            lines = listed.read_text("utf-8", "replace").split("\n")
        except OSError as error:
            raise unreadable(listed, error) from None
        stacks = [line.strip() for line in lines if line.strip()]
    else:
        stacks = [listed.name]
    if any("\0" in name for name in stacks):
        raise InputError("names a file with a NUL", where=str(listed), do="correct the name")
    counts = [read_stack_header(find_stack(s, listed, options.image_root)).n_images for s in stacks]
    named = [f"{i + 1:06d}@{s}" for s, k in zip(stacks, counts, strict=True) for i in range(k)]
    return np.array([name.encode("utf-8", "surrogateescape") for name in named] or [b""])[
        : len(named)
    ]


def _sampling(names: np.ndarray, path: Path, options: ReadOptions) -> dict[str, np.ndarray]:
    """Return box and pixel size from the stacks' headers, where there is no CTF that has them."""
    stacks, index = np.unique(np.char.partition(names, b"@")[:, 2], return_inverse=True)
    headers = [
        read_stack_header(find_stack(s.decode("utf-8", "replace"), path, options.image_root))
        for s in stacks
    ]
    index = index.reshape(-1)
    return {
        "rlnImageSize": np.array([float(h.size_yx_px[1]) for h in headers])[index],
        "rlnImagePixelSize": np.array([h.pixel_A for h in headers])[index],
    }
