"""Particles of Xmipp and Scipion: ``.xmd`` tables, with ``.ctfparam`` files they refer to."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np

from cryorefine.errors import InputError
from cryorefine.formats.columns import Column, in_units_of
from cryorefine.formats.losses import losses, without_unassigned
from cryorefine.formats.protocol import Reading
from cryorefine.io.mrc import read_stack_header
from cryorefine.io.star import StarBlock, StarForm, read_star, write_star
from cryorefine.particles.formats.foreign import ForeignBlock, as_optics_groups
from cryorefine.particles.formats.image_files import find_stack
from cryorefine.particles.formats.read_options import ReadOptions
from cryorefine.particles.formats.relion import relion_blocks, table_from_blocks
from cryorefine.particles.table import ParticleTable

__all__ = ["XmippFormat", "without_block"]

_FORM = StarForm(first_line="# XMIPP_STAR_1 * ", version="", is_numbered=False)
_BLOCK = "Particles"
_ITEM = "xmippItemId"
"""Column of a STAR file that takes the particles' itemId along, so that they find back."""

_ORIGIN = ("rlnOriginXAngst", "rlnOriginYAngst")
_FLIPPED = "rlnCtfDataArePhaseFlipped"
_OF_GROUP = (
    "rlnVoltage", "rlnSphericalAberration", "rlnAmplitudeContrast", "rlnImagePixelSize", _FLIPPED,
    "rlnChromaticAberration", "rlnEnergyLoss", "rlnLensStability", "rlnConvergenceCone",
    "rlnLongitudinalDisplacement", "rlnTransversalDisplacement",
)  # fmt: skip
_HALF_TURN_DEG = 180.0  # by which the tilt of a mirrored pose differs


def without_block(path: Path) -> Path:
    """Return the file of ``block@file``; a path that is there, or has no block, as it is."""
    return _block_and_file(path)[1]


def _block_and_file(path: Path) -> tuple[str, Path]:
    block, at, rest = str(path).partition("@")
    if not at or not rest or "/" in block or os.path.exists(path):
        return "", path
    return block, Path(rest)


class XmippFormat:
    """Metadata of Xmipp."""

    name = "xmipp"
    title = "Xmipp metadata (.xmd)"
    suffixes = (".xmd",)
    columns = (
        Column("image", ("rlnImageName",), convention="number@stack, from 1"),
        Column("itemId", (_ITEM,), convention="joins tables"),
        Column("enabled", convention="-1: the row is left out"),
        Column("micrograph", ("rlnMicrographName",)),
        Column("xcoor", ("rlnCoordinateX",), "pixels of the micrograph", 1.0),
        Column("ycoor", ("rlnCoordinateY",), "pixels of the micrograph", 1.0),
        Column("angleRot", ("rlnAngleRot",), "°", 1.0),
        Column("angleTilt", ("rlnAngleTilt",), "°", 1.0),
        Column("anglePsi", ("rlnAnglePsi",), "°", 1.0),
        Column("shiftX", ("rlnOriginXAngst",), "px", convention="same sign"),
        Column("shiftY", ("rlnOriginYAngst",), "px", convention="same sign"),
        Column("flip", convention="1: tilt + 180°, -psi, -shiftX; never written"),
        Column("samplingRate", ("rlnImagePixelSize",), "Å", convention="read if next is missing"),
        Column("ctfSamplingRate", ("rlnImagePixelSize",), "Å", 1.0),
        Column("ctfModel", convention="file that has the columns of the CTF"),
        Column("ctfVoltage", ("rlnVoltage",), "kV", 1.0),
        Column("ctfSphericalAberration", ("rlnSphericalAberration",), "mm", 1.0),
        Column("ctfQ0", ("rlnAmplitudeContrast",), "", 1.0),
        Column("ctfK", ("rlnCtfScalefactor",), "", 1.0),
        Column("ctfDefocusU", ("rlnDefocusU",), "Å", 1.0),
        Column("ctfDefocusV", ("rlnDefocusV",), "Å", 1.0, "U where it is missing"),
        Column("ctfDefocusAngle", ("rlnDefocusAngle",), "°", 1.0),
        Column("ctfVPPphaseshift", ("rlnPhaseShift",), "°", 1.0, "as Scipion writes it"),
        Column("ctfPhaseFlipped", (_FLIPPED,), "", 1.0),
        Column("ctfChromaticAberration", ("rlnChromaticAberration",), "mm", 1.0),
        Column("ctfEnergyLoss", ("rlnEnergyLoss",), "eV", 1.0),
        Column("ctfLensStability", ("rlnLensStability",), "ppm", 1.0),
        Column("ctfConvergenceCone", ("rlnConvergenceCone",), "mrad", 1.0),
        Column("ctfLongitudinalDisplacement", ("rlnLongitudinalDisplacement",), "Å", 1.0),
        Column("ctfTransversalDisplacement", ("rlnTransversalDisplacement",), "Å", 1.0),
    )

    def recognises(self, path: Path, head: bytes) -> bool:
        """Tell whether the first line is Xmipp's."""
        return head.lstrip().startswith(b"# XMIPP_STAR_1")

    def files(self, path: Path) -> tuple[Path, ...]:
        """Return the file itself."""
        return (path,)

    def read(self, path: Path, options: ReadOptions) -> Reading:
        """Read a block, that of ``block@file`` or the first; unknown columns are kept.

        Rows that are not enabled are left out.
        """
        wanted, file = _block_and_file(path)
        block, others = _chosen_block(file, wanted)
        block, n_off = _enabled(block)
        with_ctf, models, said = _with_ctf_files(block)
        columns, not_read = self._as_relion(with_ctf, options)
        own = {label: f"_{c.label}" for c in self.columns for label in c.relion}
        particles = ForeignBlock(
            "particles", columns, block.lines, file, own=own, ending=block.ending
        )
        table = table_from_blocks(particles, as_optics_groups(particles, _OF_GROUP), options)
        known = {column.label for column in self.columns}
        foreign = {k: v for k, v in block.columns.items() if k not in known}
        if n_off:
            said.append(f"{n_off} particles that are not enabled are left out")
        if others:
            said.append(f"further blocks are not read: {', '.join(others)}")
        if foreign:
            not_read.append(f"columns that are kept for .xmd alone: {', '.join(sorted(foreign))}")
        table = replace(
            table, foreign=foreign, foreign_format=self.name, companions=models,
            remarks=(*table.remarks, *(f"{path}: {text}" for text in said)),
        )  # fmt: skip
        return Reading(table, (*said, *not_read))

    def _as_relion(
        self, block: StarBlock, options: ReadOptions
    ) -> tuple[dict[str, np.ndarray], list[str]]:
        """Return columns by RELION's labels, and what is not understood."""
        columns: dict[str, np.ndarray] = {}
        not_read = []
        for column in self.columns:
            if column.scale and column.label in block:
                columns[column.relion[0]] = block.floats(column.label)
        for label, ours in (("micrograph", "rlnMicrographName"), ("itemId", _ITEM)):
            if label in block:
                columns[ours] = block.columns[label]
        columns["rlnImageName"] = _numbered(block)
        if "rlnDefocusU" in columns and "rlnDefocusV" not in columns:
            columns["rlnDefocusV"] = columns["rlnDefocusU"]
            columns.setdefault("rlnDefocusAngle", np.zeros(len(block)))
        for label in ("rlnCoordinateX", "rlnCoordinateY"):
            if label in columns:  # a column that is carried along as it is
                columns[label] = columns[label].astype("S")
        pixel_A = self._pixel(block, columns, options)
        if pixel_A is not None:
            columns["rlnImagePixelSize"] = pixel_A
            for label, ours in (("shiftX", _ORIGIN[0]), ("shiftY", _ORIGIN[1])):
                if label in block:
                    columns[ours] = block.floats(label) * pixel_A
        if "flip" in block and "rlnAngleRot" in columns:
            is_flipped = block.floats("flip") > 0
            for label, sign, plus in (
                ("rlnAngleTilt", 1.0, _HALF_TURN_DEG), ("rlnAnglePsi", -1.0, 0.0),
                (_ORIGIN[0], -1.0, 0.0),
            ):  # fmt: skip
                if label in columns:
                    turned = sign * columns[label] + plus
                    columns[label] = np.where(is_flipped, turned, columns[label])
        if "scale" in block and (block.floats("scale") != 1).any():
            not_read.append("column scale is not 1 for all, and is not used")
        return columns, not_read

    def _pixel(
        self, block: StarBlock, columns: dict[str, np.ndarray], options: ReadOptions
    ) -> np.ndarray | None:
        """Return each image's pixel size, of the table or else of the stack's header."""
        if "rlnImagePixelSize" in columns:
            return columns["rlnImagePixelSize"]
        if "samplingRate" in block:
            return block.floats("samplingRate")
        stacks = np.char.partition(columns["rlnImageName"], b"@")[:, 2]
        names, index = np.unique(stacks, return_inverse=True)
        sizes = np.zeros(len(names))
        for i, name in enumerate(names):
            stack = find_stack(name.decode("utf-8", "replace"), block.path, options.image_root)
            try:
                sizes[i] = read_stack_header(stack).pixel_A
            except InputError:
                return None
        return sizes[index.reshape(-1)] if (sizes > 0).all() else None

    def write(self, path: Path, table: ParticleTable) -> tuple[str, ...]:
        """Write a block ``Particles``, with the CTF in each row and no flips."""
        optics, particles = relion_blocks(path, table)
        values = {k: np.asarray(v)[table.optics_index] for k, v in optics.items()}
        coordinates = {k: v for k, v in table.extra.items() if k.startswith("rlnCoordinate")}
        try:
            numbers = {k: v.astype(np.float64) for k, v in coordinates.items()}
        except ValueError:
            numbers = {}
        values = values | particles | numbers
        for label in coordinates.keys() - numbers.keys():
            values.pop(label)
        columns: dict[str, np.ndarray] = {"image": particles["rlnImageName"]}
        columns["itemId"] = table.extra.get(_ITEM, np.arange(1, len(table) + 1))
        columns["enabled"] = np.ones(len(table), np.int64)
        if table.micrographs:
            columns["micrograph"] = particles["rlnMicrographName"]
        made = in_units_of(self.columns, values)
        if not table.optics[0].has_ctf:
            made.pop("ctfK", None)
        columns.update(made)
        if table.has_pose:
            for label in ("angleRot", "angleTilt", "anglePsi"):
                columns[label] = without_unassigned(table, columns[label])
            for i, label in enumerate(("shiftX", "shiftY")):
                shift_A = without_unassigned(table, table.shift_A[:, i])
                columns[label] = shift_A / values["rlnImagePixelSize"]
        if "ctfPhaseFlipped" in columns:
            columns["ctfPhaseFlipped"] = columns["ctfPhaseFlipped"].astype(np.int64)
        if table.foreign_format == self.name:
            columns.update(table.foreign)
        write_star(path, {_BLOCK: columns}, _FORM)
        held = ("poses", "ctf", "phase_shift", "ctf_scale", "phase_flipped", "micrographs")
        kept = (_ITEM, *numbers, *_OF_GROUP)
        return losses(table, held, format_name=self.name, labels=kept)


def _chosen_block(path: Path, wanted: str) -> tuple[StarBlock, list[str]]:
    """Return the block of a name, or the first that has images; and the names of the others."""
    blocks = read_star(path)
    if wanted and wanted not in blocks:
        raise InputError(
            f"there is no block '{wanted}'", where=str(path), do=f"name one of {', '.join(blocks)}"
        )
    with_images = [name for name, block in blocks.items() if "image" in block]
    name = wanted or next(iter(with_images), "")
    if name not in blocks or "image" not in blocks[name]:
        raise InputError(
            "there is no column _image", where=str(path), do="give the particles' table"
        )
    if len(blocks[name]) == 0:
        raise InputError(f"data_{name} has no rows", where=str(path), do="select some particles")
    return blocks[name], [other for other in blocks if other != name]


def _enabled(block: StarBlock) -> tuple[StarBlock, int]:
    """Return a block's rows that are enabled, and how many are not."""
    if "enabled" not in block:
        return block, 0
    rows = np.flatnonzero(block.floats("enabled") > 0)
    if len(rows) == 0:
        raise InputError("no particle is enabled", where=str(block.path), do="enable some")
    columns = {label: column[rows] for label, column in block.columns.items()}
    lines = block.lines[rows] if len(block.lines) == len(block) else block.lines
    return replace(block, columns=columns, lines=lines), len(block) - len(rows)


def _numbered(block: StarBlock) -> np.ndarray:
    """Return the images with numbers; one without is the first, and only one, of its file."""
    names = block.columns["image"]
    if names.dtype.kind != "S":
        names = np.char.encode(block.text("image"), "utf-8")
    # A suffix such as :mrcs says how to read a file of another suffix.
    for suffix in (b":mrcs", b":mrc"):
        ends = np.char.endswith(names, suffix)
        cut = np.char.replace(names, suffix, b"")
        names = np.where(ends, cut, names)
    has_number = np.char.find(names, b"@") >= 0
    return np.where(has_number, names, np.char.add(b"1@", names))


def _with_ctf_files(block: StarBlock) -> tuple[StarBlock, tuple[Path, ...], list[str]]:
    """Return a block with the columns of the CTF that files of ``ctfModel`` have.

    Returns
    -------
    block, files, remarks
        The files that were read, and what a user should hear of them.
    """
    if "ctfModel" not in block or "ctfDefocusU" in block:
        return block, (), []
    names, index = np.unique(block.columns["ctfModel"], return_inverse=True)
    tables, models = [], []
    for name in names:
        text = name.decode("utf-8", "replace")
        model = find_stack(text, block.path) if "\0" not in text else Path()
        try:
            blocks = read_star(model)
        except InputError as error:
            row = int(np.argmax(index.reshape(-1) == len(tables)))
            raise InputError(
                error.what, where=f"{error.where} ({block.where(row, 'ctfModel')})", do=error.do
            ) from None
        tables.append(next(iter(blocks.values())))
        models.append(model)
    shared = [
        label
        for label in (tables[0].columns if tables else ())
        if label.startswith("ctf") and label not in block and all(label in t for t in tables)
    ]
    columns = dict(block.columns)
    for label in shared:
        values = np.array([t.columns[label][0] if len(t) else b"" for t in tables])
        columns[label] = values[index.reshape(-1)]
    said = [
        f"{model}: the file ends in its last value, without a line break: was it copied whole?"
        for model, table in zip(models, tables, strict=True)
        if table.ending == "in a row"
    ]
    return replace(block, columns=columns), tuple(models), said
