"""Particles of cryoSPARC: ``.cs`` tables with their passthrough files, and ``.csg`` groups."""

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch

from cryorefine.errors import InputError
from cryorefine.formats.columns import TO_DEG, Column, in_relion_units, in_units_of
from cryorefine.formats.cryosparc_files import NUMPY_MAGIC, STREAM_MAGIC, read_result
from cryorefine.formats.losses import losses, without_unassigned
from cryorefine.formats.protocol import Reading
from cryorefine.formats.stack_boxes import with_boxes
from cryorefine.geometry.rotation import (
    euler_from_matrix,
    matrix_from_euler,
    matrix_from_rotvec,
    rotvec_from_matrix,
)
from cryorefine.io.atomic import atomic_path, write_text
from cryorefine.particles.formats.foreign import ForeignBlock, as_optics_groups
from cryorefine.particles.formats.image_files import image_names
from cryorefine.particles.formats.read_options import ReadOptions
from cryorefine.particles.formats.relion import relion_blocks, table_from_blocks
from cryorefine.particles.table import ParticleTable
from cryorefine.units import DEG, MM_TO_A, MRAD

__all__ = ["CryosparcFormat"]

UID = "cryosparcUid"
"""Column of a STAR file that takes the particles' uid along, so that they find back."""

_ANGLES: tuple[str, ...] = ("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi")
_ORIGIN: tuple[str, ...] = ("rlnOriginXAngst", "rlnOriginYAngst")
_TILT: tuple[str, ...] = ("rlnBeamTiltX", "rlnBeamTiltY")
_OF_GROUP = (
    "rlnVoltage", "rlnSphericalAberration", "rlnAmplitudeContrast", "rlnImagePixelSize",
    "rlnImageSize", *_TILT,
)  # fmt: skip

_GROUP = "exposureGroup"
_UID_DIGITS = 20  # of 2^64
_NUMBER_DIGITS = 6  # RELION pads numbers of images to as many

_UNCLEAR = ("ctf/shift_A", "ctf/trefoil_A", "ctf/tetra_A", "ctf/anisomag")
"""Fields of the optics whose conventions are not published: told of where they are not 0."""


class CryosparcFormat:
    """Tables of cryoSPARC."""

    name = "cryosparc"
    title = "cryoSPARC (.cs, .csg)"
    suffixes = (".cs", ".csg")
    columns = (
        Column("uid", (UID,), convention="joins the files of a job"),
        Column("blob/path", ("rlnImageName",), convention="stack"),
        Column("blob/idx", ("rlnImageName",), convention="from 0"),
        Column("blob/shape", ("rlnImageSize",), "px", convention="(y, x)"),
        Column("blob/psize_A", ("rlnImagePixelSize",), "Å", 1.0),
        Column("blob/sign", convention="-1: particles are black in the images"),
        Column("location/micrograph_path", ("rlnMicrographName",)),
        Column("ctf/exp_group_id", ("rlnOpticsGroup",), convention="a group for each"),
        Column("ctf/accel_kv", ("rlnVoltage",), "kV", 1.0),
        Column("ctf/cs_mm", ("rlnSphericalAberration",), "mm", 1.0),
        Column("ctf/amp_contrast", ("rlnAmplitudeContrast",), "", 1.0),
        Column("ctf/df1_A", ("rlnDefocusU",), "Å", 1.0),
        Column("ctf/df2_A", ("rlnDefocusV",), "Å", 1.0),
        Column("ctf/df_angle_rad", ("rlnDefocusAngle",), "rad", TO_DEG),
        Column("ctf/phase_shift_rad", ("rlnPhaseShift",), "rad", TO_DEG),
        Column("ctf/bfactor", ("rlnCtfBfactor",), "Å²", 1.0),
        Column("ctf/scale", ("rlnCtfScalefactor",), "", 1.0),
        Column("ctf/tilt_A", _TILT, "Å", convention="Cs times the sine of the tilt"),
        Column(
            "alignments3D/pose", _ANGLES, "rad",
            convention="vector of the inverse rotation",
        ),
        Column(
            "alignments3D/shift", _ORIGIN, "px of psize_A",
            convention="same sign",
        ),
        Column("alignments3D/psize_A", unit="Å"),
        Column("alignments3D/split", ("rlnRandomSubset",), convention="0 and 1"),
    )  # fmt: skip

    def recognises(self, path: Path, head: bytes) -> bool:
        """Tell whether it is a numpy file, cryoSPARC's stream, or a group that names tables."""
        is_group = _is_group(path) and b"metafile:" in head
        return head.startswith((NUMPY_MAGIC, *STREAM_MAGIC)) or is_group

    def files(self, path: Path) -> tuple[Path, ...]:
        """Return the file, and the table that a group names."""
        return (path, path.with_suffix(".cs")) if _is_group(path) else (path,)

    def read(self, path: Path, options: ReadOptions) -> Reading:
        """Read a table with what belongs to it; unknown fields are kept as they are."""
        with np.errstate(invalid="ignore", over="ignore"):  # numbers are checked by name
            return self._read(path, options)

    def _read(self, path: Path, options: ReadOptions) -> Reading:
        fields, companions, remarks = read_result(path)
        _require_images(fields, path)
        _check_shapes(fields, path)
        particles = ForeignBlock(
            "particles", _particle_columns(fields, self.columns), path=path, own=_own(self.columns)
        )
        names = None
        if "ctf/exp_group_id" in fields:
            names = np.char.add("exposureGroup", fields["ctf/exp_group_id"].astype(np.str_))
        optics = as_optics_groups(particles, _OF_GROUP, names)
        table = table_from_blocks(particles, optics, options)
        unclear = [
            f"{name} is not 0, and is not used: its convention is not published"
            for name in _UNCLEAR
            if name in fields and fields[name].any()
        ]
        known = {column.label for column in self.columns}
        rest = sorted(name for name in fields if name not in known and name not in _UNCLEAR)
        remarks += [f"{path}: {text}" for text in unclear]
        if "alignments3D/split" in fields and "rlnRandomSubset" not in particles:
            remarks.append(f"{path}: all particles are in one half set, so that none is read")
        is_inverted = _sign(fields, path) < 0
        if is_inverted:
            remarks.append(f"{path}: particles are black (blob/sign -1): images are inverted")
        table = replace(
            table,
            is_inverted=is_inverted,
            foreign={name: values for name, values in fields.items() if name != "uid"},
            foreign_format=self.name,
            remarks=(*table.remarks, *remarks),
            companions=tuple(companions),
        )
        not_read = [f"fields that are kept for .cs alone: {', '.join(rest)}"] if rest else []
        return Reading(table, (*unclear, *not_read))

    def write(self, path: Path, table: ParticleTable) -> tuple[str, ...]:
        """Write a table, and the group that names it where the path ends in ``.csg``.

        Fields of another ``.cs`` file that the particles came from come back as they were.
        """
        table = with_boxes(table)
        fields = dict(table.foreign) if table.foreign_format == self.name else {}
        fields.update(_fields(path, table, self.columns))
        target = self.files(path)[-1]
        _write_fields(target, fields)
        if _is_group(path):
            write_text(path, _group_text(target.name, fields, len(table)))
        held = {"poses", "half_sets", "ctf", "phase_shift", "bfactor", "ctf_scale", "beam_tilt",
                "groups", "micrographs", "contrast"}  # fmt: skip
        if all(g.name.startswith(_GROUP) for g in table.optics):
            held.add("group_names")
        if not _is_split(table):
            held.discard("half_sets")
        if any(any(g.beam_tilt_mrad) and g.cs_mm == 0 for g in table.optics):
            held.discard("beam_tilt")  # it is written as the coma that it makes, which is none
        return losses(table, held, format_name=self.name, labels=(UID,))


def _is_group(path: Path) -> bool:
    return path.suffix.lower() == ".csg"


def _own(columns: tuple[Column, ...]) -> dict[str, str]:
    """Return cryoSPARC's names by RELION's labels."""
    return {label: column.label for column in columns for label in column.relion}


def _require_images(fields: dict[str, np.ndarray], path: Path) -> None:
    missing = [name for name in ("blob/path", "blob/idx") if name not in fields]
    if missing:
        raise InputError(
            f"there is no field {' and '.join(missing)}, which say where the images are",
            where=str(path),
            do="put the job's passthrough file beside it, or give its .csg",
        )
    if len(fields["blob/idx"]) == 0:
        raise InputError("has no particles", where=str(path), do="select some")


_WIDTHS = {
    "blob/shape": 2, "ctf/tilt_A": 2, "alignments3D/pose": 3, "alignments3D/shift": 2,
}  # fmt: skip
"""Numbers in each entry of a field; fields that are not here have one."""


def _check_shapes(fields: dict[str, np.ndarray], path: Path) -> None:
    """Refuse fields that have another number of values, or words where numbers are."""
    words, whole = ("blob/path", "location/micrograph_path"), ("uid", "blob/idx")
    for column in CryosparcFormat.columns:
        values = fields.get(column.label)
        if values is None:
            continue
        width = _WIDTHS.get(column.label, 1)
        fits = values.shape[1:] in ((), (1,)) if width == 1 else values.shape[1:] == (width,)
        kinds = "SU" if column.label in words else "iu" if column.label in whole else "fiub"
        if not fits or values.dtype.kind not in kinds:
            raise InputError(
                f"the field {column.label} holds {values.dtype.str} of shape {values.shape[1:]}",
                where=str(path),
                do="give a .cs of particles as cryoSPARC writes it",
            )
        if width == 1:
            fields[column.label] = values.reshape(-1)


def _sign(fields: dict[str, np.ndarray], path: Path) -> int:
    """Return the sign that makes particles white; all must have one."""
    if "blob/sign" not in fields:
        return 1
    signs = np.sign(fields["blob/sign"])
    if (signs != signs[0]).any():
        raise InputError(
            "blob/sign differs between particles",
            where=str(path),
            do="give particles that are black and those that are white apart from each other",
        )
    return -1 if signs[0] < 0 else 1


def _particle_columns(
    fields: dict[str, np.ndarray], columns: tuple[Column, ...]
) -> dict[str, np.ndarray]:
    """Return what is read by RELION's labels."""
    found = in_relion_units(columns, fields)
    found["rlnImageName"] = _names(fields)
    if "blob/shape" in fields:
        found["rlnImageSize"] = fields["blob/shape"][:, 1].astype(np.float64)
    if "location/micrograph_path" in fields:
        found["rlnMicrographName"] = _words(fields["location/micrograph_path"])
    if "uid" in fields:
        found[UID] = np.char.encode(fields["uid"].reshape(-1).astype(np.str_), "ascii")
    if "ctf/tilt_A" in fields and "ctf/cs_mm" in fields:
        cs_A = fields["ctf/cs_mm"].astype(np.float64) * MM_TO_A
        with np.errstate(divide="ignore", invalid="ignore"):
            tilt = np.arcsin(fields["ctf/tilt_A"] / cs_A[:, None]) / MRAD
        # Without spherical aberration a tilt makes no coma, and the quotient is no number.
        tilt = np.where(fields["ctf/tilt_A"] == 0, 0.0, tilt)
        found.update(zip(_TILT, tilt.T, strict=True))
    if "alignments3D/pose" in fields:
        found.update(_poses(fields))
    if "alignments3D/split" in fields:
        split = fields["alignments3D/split"].astype(np.float64)
        if (split != split[0]).any():  # where all are in one half, none was drawn
            found["rlnRandomSubset"] = split + 1
    return found


def _poses(fields: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    rotvec = torch.from_numpy(fields["alignments3D/pose"].astype(np.float64))
    is_finite = rotvec.isfinite().all(-1)
    matrix = matrix_from_rotvec(torch.where(is_finite[:, None], rotvec, 0.0)).transpose(-1, -2)
    euler = euler_from_matrix(matrix).numpy() / DEG
    euler[~is_finite.numpy()] = np.nan  # refused below, by its name
    found = dict(zip(_ANGLES, euler.T, strict=True))
    if "alignments3D/shift" in fields:
        pixel = fields.get("alignments3D/psize_A", fields.get("blob/psize_A"))
        if pixel is not None:
            shift_A = fields["alignments3D/shift"] * pixel.astype(np.float64)[:, None]
            found.update(zip(_ORIGIN, shift_A.T, strict=True))
    return found


def _words(column: np.ndarray) -> np.ndarray:
    """Return byte strings without the mark of what a job exported."""
    if column.dtype.kind == "U":
        column = np.char.encode(column, "utf-8", "replace")
    return np.char.lstrip(column, b">")


def _names(fields: dict[str, np.ndarray]) -> np.ndarray:
    """Return the images as RELION names them: counted from 1."""
    number = np.char.zfill((fields["blob/idx"].astype(np.int64) + 1).astype("S20"), _NUMBER_DIGITS)
    at = np.array(b"@")
    return np.char.add(np.char.add(number, at), _words(fields["blob/path"]))


def _fields(path: Path, table: ParticleTable, columns: tuple[Column, ...]) -> dict[str, np.ndarray]:
    """Return the fields that say what a table holds."""
    optics, particles = relion_blocks(None, table)
    values = {k: np.asarray(v)[table.optics_index] for k, v in optics.items()} | particles
    single = in_units_of(columns, values)
    stacks, first = np.unique(table.stack_index, return_index=True)
    names = np.char.partition(image_names(path, table.select(first)), "@")[:, 2]
    of_stack = np.char.encode(names, "utf-8")  # once for each: those of all rows take gigabytes
    fields: dict[str, np.ndarray] = {
        "uid": _uids(table),
        "blob/path": of_stack[np.searchsorted(stacks, table.stack_index)],
        "blob/idx": table.image_index.astype("<u4"),
        "blob/shape": np.repeat(values["rlnImageSize"].astype("<u4")[:, None], 2, axis=1),
        "blob/sign": np.full(len(table), -1.0 if table.is_inverted else 1.0, "<f4"),
        "ctf/exp_group_id": _group_ids(table),
        **{name: column.astype("<f4") for name, column in single.items()},
    }
    if table.micrographs:
        names = np.char.encode(np.array(table.micrographs), "utf-8")
        fields["location/micrograph_path"] = names[table.micrograph_index]
    tilt = np.array([g.beam_tilt_mrad for g in table.optics]) * MRAD
    cs_A = np.array([g.cs_mm for g in table.optics]) * MM_TO_A
    fields["ctf/tilt_A"] = (np.sin(tilt) * cs_A[:, None])[table.optics_index].astype("<f4")
    if table.has_pose:
        matrix = matrix_from_euler(torch.from_numpy(table.euler_rad)).transpose(-1, -2)
        pixel_A = np.array([g.pixel_A for g in table.optics])[table.optics_index]
        shift_A = without_unassigned(table, table.shift_A)
        fields["alignments3D/pose"] = without_unassigned(
            table, rotvec_from_matrix(matrix).numpy()
        ).astype("<f4")
        fields["alignments3D/shift"] = (shift_A / pixel_A[:, None]).astype("<f4")
        fields["alignments3D/psize_A"] = pixel_A.astype("<f4")
    if _is_split(table):
        fields["alignments3D/split"] = (table.half_set - 1).astype("<u4")
    return fields


def _is_split(table: ParticleTable) -> bool:
    """Tell whether every particle is in one of two half sets: the field knows nothing else."""
    return set(np.unique(table.half_set).tolist()) == {1, 2}


def _group_ids(table: ParticleTable) -> np.ndarray:
    """Return a number for each optics group: that of the exposure group it was, if all were one."""
    numbers = [g.name.removeprefix(_GROUP) for g in table.optics]
    if all(n.isdecimal() and len(n) < 10 for n in numbers) and len(set(numbers)) == len(numbers):
        ids = np.array([int(n) for n in numbers])
    else:
        ids = np.arange(1, len(table.optics) + 1)
    return ids[table.optics_index].astype("<u4")


def _uids(table: ParticleTable) -> np.ndarray:
    """Return the uid of each particle: the one it came with, or one made of where its image is."""
    kept = table.extra.get(UID)
    if kept is not None:
        words = kept.tolist()
        if all(w.isdigit() and len(w) <= _UID_DIGITS and int(w) < 2**64 for w in words):
            uid = np.array([int(w) for w in words], "<u8")
            if len(np.unique(uid)) == len(uid):
                return uid
    seen: dict[bytes, int] = {}
    uids = np.empty(len(table), "<u8")
    for row, name in enumerate(table.names.tolist()):
        key = str(name).encode("utf-8", "surrogateescape")
        seen[key] = seen.get(key, 0) + 1  # an image may be there twice, a uid not
        digest = hashlib.blake2b(key + b"|%d" % seen[key], digest_size=8).digest()
        uids[row] = int.from_bytes(digest, "little")
    return uids


def _write_fields(path: Path, fields: dict[str, np.ndarray]) -> None:
    dtype = [(name, v.dtype.str, v.shape[1:]) for name, v in fields.items()]
    rows = np.empty(len(fields["uid"]), dtype)
    for name, values in fields.items():
        rows[name] = values
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        np.save(_Plain(file), rows, allow_pickle=False)


class _Plain:
    """A file that numpy leaves to Python to write.

    To one that it knows it writes itself, and its error on a full disk does not say what it is.
    """

    def __init__(self, file: BinaryIO) -> None:
        self.write = file.write


def _group_text(name: str, fields: dict[str, np.ndarray], n: int) -> str:
    """Return a ``.csg`` that cryoSPARC imports as a result group of particles."""
    lines = ["group:", "  description: Particles", "  name: particles", "  title: Particles",
             "  type: particle", "results:"]  # fmt: skip
    for slot in dict.fromkeys(f.partition("/")[0] for f in fields if "/" in f):
        lines += [f"  {slot}:", f"    metafile: '>{name}'", f"    num_items: {n}",
                  f"    type: particle.{slot}"]  # fmt: skip
    return "\n".join([*lines, "version: v4.0.0", ""])
