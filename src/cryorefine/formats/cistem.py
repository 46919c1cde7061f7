"""Particles of cisTEM: its ``.star`` files."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np

from cryorefine.errors import InputError
from cryorefine.formats.columns import TO_DEG, Column, in_units_of
from cryorefine.formats.losses import losses, without_unassigned
from cryorefine.formats.protocol import Reading
from cryorefine.io.star import StarBlock, StarForm, read_star, write_star
from cryorefine.particles.formats.foreign import ForeignBlock, as_optics_groups
from cryorefine.particles.formats.read_options import ReadOptions
from cryorefine.particles.formats.relion import relion_blocks, table_from_blocks
from cryorefine.particles.table import ParticleTable

__all__ = ["CistemFormat"]

_FORM = StarForm(first_line="# Written by cryorefine", version="")
_LABEL = re.compile(rb"^[ \t]*_cisTEM[A-Z]", re.MULTILINE)
_OF_GROUP = (
    "rlnVoltage", "rlnSphericalAberration", "rlnAmplitudeContrast", "rlnImagePixelSize",
)  # fmt: skip
_TILT = ("cisTEMBeamTiltX", "cisTEMBeamTiltY")
_SUFFIXES = (".mrc", ".mrcs")
_ALL = 100.0  # percent: the occupancy of particles that are all of one class


class CistemFormat:
    """STAR files of cisTEM."""

    name = "cistem"
    title = "cisTEM (.star)"
    suffixes = (".star",)
    columns = (
        Column("cisTEMPositionInStack", ("rlnImageName",), convention="from 1"),
        Column("cisTEMStackFilename", ("rlnImageName",), convention="else the file's own name"),
        Column("cisTEMOriginalImageFilename", ("rlnMicrographName",)),
        Column("cisTEMAnglePsi", ("rlnAnglePsi",), "°", 1.0),
        Column("cisTEMAngleTheta", ("rlnAngleTilt",), "°", 1.0),
        Column("cisTEMAnglePhi", ("rlnAngleRot",), "°", 1.0),
        Column("cisTEMXShift", ("rlnOriginXAngst",), "Å", -1.0, "opposite sign"),
        Column("cisTEMYShift", ("rlnOriginYAngst",), "Å", -1.0, "opposite sign"),
        Column("cisTEMDefocus1", ("rlnDefocusU",), "Å", 1.0),
        Column("cisTEMDefocus2", ("rlnDefocusV",), "Å", 1.0),
        Column("cisTEMDefocusAngle", ("rlnDefocusAngle",), "°", 1.0),
        Column("cisTEMPhaseShift", ("rlnPhaseShift",), "rad", TO_DEG),
        Column("cisTEMImageActivity", convention="negative: the row is left out"),
        Column("cisTEMOccupancy", unit="%"),
        Column("cisTEMPixelSize", ("rlnImagePixelSize",), "Å", 1.0),
        Column("cisTEMMicroscopeVoltagekV", ("rlnVoltage",), "kV", 1.0),
        Column("cisTEMMicroscopeCsMM", ("rlnSphericalAberration",), "mm", 1.0),
        Column("cisTEMAmplitudeContrast", ("rlnAmplitudeContrast",), "", 1.0),
        Column("cisTEMAssignedSubset", ("rlnRandomSubset",), "", 1.0, "1 and 2"),
    )

    def recognises(self, path: Path, head: bytes) -> bool:
        """Tell whether there is a label of cisTEM's."""
        return _LABEL.search(head) is not None

    def files(self, path: Path) -> tuple[Path, ...]:
        """Return the file itself."""
        return (path,)

    def read(self, path: Path, options: ReadOptions) -> Reading:
        """Read a file; rows that are not active are left out, and unknown columns are kept."""
        block, n_off = _active(_only_block(path))
        columns = {
            c.relion[0]: block.floats(c.label) * c.scale
            for c in self.columns
            if c.scale and c.label in block
        }
        columns["rlnImageName"] = _names(block)
        if "cisTEMOriginalImageFilename" in block:
            columns["rlnMicrographName"] = block.columns["cisTEMOriginalImageFilename"]
        subsets = columns.get("rlnRandomSubset")
        if subsets is not None and (subsets == subsets[0]).all():
            del columns["rlnRandomSubset"]  # none was drawn
        own = {label: f"_{c.label}" for c in self.columns for label in c.relion}
        particles = ForeignBlock(
            "particles", columns, block.lines, path, own=own, ending=block.ending
        )
        table = table_from_blocks(particles, as_optics_groups(particles, _OF_GROUP), options)
        known = {column.label for column in self.columns}
        foreign = {k: v for k, v in block.columns.items() if k not in known or k in _KEPT}
        said = [f"{n_off} particles that are not active are left out"] if n_off else []
        if any(label in block and block.floats(label).any() for label in _TILT):
            said.append("beam tilts are not used: the sign of cisTEM's has not been tried")
        rest = sorted(foreign.keys() - set(_KEPT))
        not_read = [f"columns that are kept for cisTEM alone: {', '.join(rest)}"] if rest else []
        table = replace(
            table, foreign=foreign, foreign_format=self.name,
            remarks=(*table.remarks, *(f"{path}: {text}" for text in said)),
        )  # fmt: skip
        return Reading(table, (*said, *not_read))

    def write(self, path: Path, table: ParticleTable) -> tuple[str, ...]:
        """Write a file whose rows name their stacks."""
        optics, particles = relion_blocks(path, table)
        values = {k: np.asarray(v)[table.optics_index] for k, v in optics.items()} | particles
        names = np.char.partition(particles["rlnImageName"], "@")
        columns: dict[str, np.ndarray] = {"cisTEMPositionInStack": table.image_index + 1}
        made = in_units_of(self.columns, values)
        for label, column in made.items():
            is_pose = label.startswith(("cisTEMAngle", "cisTEMXShift", "cisTEMYShift"))
            columns[label] = without_unassigned(table, column) if is_pose else column
        if "cisTEMAssignedSubset" in columns:
            columns["cisTEMAssignedSubset"] = columns["cisTEMAssignedSubset"].astype(np.int64)
        columns["cisTEMImageActivity"] = np.ones(len(table), np.int64)
        columns["cisTEMOccupancy"] = np.full(len(table), _ALL)
        columns["cisTEMStackFilename"] = names[:, 2]
        if table.micrographs:
            columns["cisTEMOriginalImageFilename"] = particles["rlnMicrographName"]
        if table.foreign_format == self.name:
            columns.update(table.foreign)
        write_star(path, {"": columns}, _FORM)
        held = ["poses", "ctf", "phase_shift", "micrographs"]
        if len(np.unique(table.half_set)) > 1:  # where all are in one, none is read
            held.append("half_sets")
        return losses(table, held, format_name=self.name)


_KEPT = ("cisTEMImageActivity", "cisTEMOccupancy")
"""Columns that are read or written, and come back as they were."""


def _only_block(path: Path) -> StarBlock:
    """Return the block that has cisTEM's columns."""
    found = [b for b in read_star(path).values() if "cisTEMPositionInStack" in b]
    if not found:
        raise InputError(
            "there is no column _cisTEMPositionInStack", where=str(path), do="add the column"
        )
    if len(found[0]) == 0:
        raise InputError("has no rows", where=str(path), do="select some particles")
    return found[0]


def _active(block: StarBlock) -> tuple[StarBlock, int]:
    """Return a block's rows that are active, and how many are not."""
    if "cisTEMImageActivity" not in block:
        return block, 0
    rows = np.flatnonzero(block.floats("cisTEMImageActivity") >= 0)
    if len(rows) == 0:
        raise InputError("no particle is active", where=str(block.path), do="activate some")
    columns = {label: column[rows] for label, column in block.columns.items()}
    lines = block.lines[rows] if len(block.lines) == len(block) else block.lines
    return replace(block, columns=columns, lines=lines), len(block) - len(rows)


def _names(block: StarBlock) -> np.ndarray:
    """Return the images as RELION names them."""
    number = np.char.zfill(block.integers("cisTEMPositionInStack").astype("S20"), 6)
    if "cisTEMStackFilename" in block:
        stack = block.columns["cisTEMStackFilename"]
    else:
        beside = [block.path.with_suffix(suffix) for suffix in _SUFFIXES]
        found = next((p for p in beside if p.exists()), None)
        if found is None:
            raise InputError(
                "there is no column _cisTEMStackFilename, and no stack of this name beside it",
                where=str(block.path),
                do=f"put the stack there as {beside[0].name}, or add the column",
            )
        stack = np.full(len(block), found.name.encode())
    return np.char.add(np.char.add(number, np.array(b"@")), stack)
