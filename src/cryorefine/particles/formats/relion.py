"""Particle metadata of RELION: ``data_optics`` and ``data_particles``, or one block up to 3.0."""

import json
import math
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np

from cryorefine.errors import InputError
from cryorefine.io.star import StarBlock, read_star, write_star
from cryorefine.optics.group import OpticsGroup
from cryorefine.particles.formats.envelope import read_envelope
from cryorefine.particles.formats.image_files import find_stack, image_names
from cryorefine.particles.formats.plausible import (
    LONGEST_ZERNIKE,
    ZERNIKE,
    check_earlier,
    check_magnification,
    check_ranges,
    require_bounded_envelope,
)
from cryorefine.particles.formats.read_options import ReadOptions
from cryorefine.particles.formats.relion_30 import upgraded
from cryorefine.particles.formats.remarks import hint, remarks_on
from cryorefine.particles.table import ParticleTable
from cryorefine.units import DEG

__all__ = ["read_relion", "relion_blocks", "table_from_blocks", "write_relion"]

_CTF = ("rlnDefocusU", "rlnDefocusV", "rlnDefocusAngle")
_MICROSCOPE = ("rlnVoltage", "rlnSphericalAberration", "rlnAmplitudeContrast")
_CTF_VALUES = {*_CTF, "rlnPhaseShift", "rlnCtfPhaseShift", "rlnCtfBfactor", "rlnCtfScalefactor"}
_ANGLES = ("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi")
_ORIGIN = ("rlnOriginXAngst", "rlnOriginYAngst")
_LAST_ASCII = 127  # code of a character
_MAX_DIGITS = 18  # of an image number, to fit into int64
_ASSIGNED = "cryorefineIsAssigned"
_INVERTED = "cryorefineImagesAreInverted"
_MAGNIFICATION = ("rlnMagMat00", "rlnMagMat01", "rlnMagMat10", "rlnMagMat11")
_PREMULTIPLIED, _FLIPPED = "rlnCtfDataAreCtfPremultiplied", "rlnCtfDataArePhaseFlipped"
_KNOWN_OPTICS = {
    "rlnOpticsGroup",
    "rlnOpticsGroupName",
    "rlnVoltage",
    "rlnSphericalAberration",
    "rlnAmplitudeContrast",
    "rlnImagePixelSize",
    "rlnImageSize",
    "rlnImageDimensionality",
    "rlnBeamTiltX",
    "rlnBeamTiltY",
    "rlnOddZernike",
    "rlnEvenZernike",
    _PREMULTIPLIED,
    _FLIPPED,
    *_MAGNIFICATION,
}
_KNOWN_PARTICLES = {
    "rlnImageName",
    "rlnMicrographName",
    "rlnOpticsGroup",
    "rlnRandomSubset",
    *_CTF_VALUES,
    *_ANGLES,
    *_ORIGIN,
}


def read_relion(
    path: Path,
    *,
    ctf: bool = True,
    ignored: frozenset[str] = frozenset(),
    image_root: Path | None = None,
) -> ParticleTable:
    """Read a particle STAR file of RELION: 3.1, 4 or 5, or one block of 3.0 and before.

    Parameters
    ----------
    ctf, ignored, image_root
        As in :class:`~cryorefine.particles.formats.read_options.ReadOptions`.

    Raises
    ------
    InputError
        If anything that refinement needs is missing, malformed, or out of the range that
        :mod:`~cryorefine.particles.formats.plausible` gives for it.
    """
    path = Path(path)
    particles, optics, others = _read_blocks(path)
    table = table_from_blocks(particles, optics, ReadOptions(ctf, ignored, image_root))
    return replace(table, extra_blocks={name: dict(b.columns) for name, b in others.items()})


def table_from_blocks(
    particles: StarBlock, optics_block: StarBlock, options: ReadOptions
) -> ParticleTable:
    """Return the table that two blocks of RELION's labels make: every format's values pass here.

    Raises
    ------
    InputError
        As :func:`read_relion`.
    """
    path, ctf, ignored = particles.path, options.ctf, options.ignored
    if ctf:
        _require_ctf(particles, optics_block)
    check_ranges(particles, optics_block, ctf=ctf)
    n = len(particles)
    optics, optics_index = _read_optics(optics_block, particles, ctf)
    if ctf:
        require_bounded_envelope(particles, np.array([g.pixel_A for g in optics])[optics_index])
    stacks, stack_index, image_index, names = _read_images(particles, options.image_root)
    micrographs, micrograph_index = _read_micrographs(particles)
    has_pose, is_unassigned = _read_assigned(particles)
    earlier = _read_earlier(particles, ignored)

    def numbers(label: str, default: float) -> np.ndarray:
        return particles.floats(label) if label in particles else np.full(n, default)

    phase = "rlnPhaseShift" if "rlnPhaseShift" in particles else "rlnCtfPhaseShift"
    use = numbers if ctf else (lambda _label, default: np.full(n, default))
    return ParticleTable(
        stacks=stacks,
        stack_index=stack_index,
        image_index=image_index,
        optics=optics,
        optics_index=optics_index,
        micrographs=micrographs,
        micrograph_index=micrograph_index,
        euler_rad=np.stack([numbers(c, 0.0) for c in _ANGLES], -1) * DEG,
        shift_A=np.stack([numbers(c, 0.0) for c in _ORIGIN], -1),
        has_pose=has_pose,
        defocus_u_A=use("rlnDefocusU", 0.0),
        defocus_v_A=use("rlnDefocusV", 0.0),
        defocus_angle_rad=use("rlnDefocusAngle", 0.0) * DEG,
        phase_shift_rad=use(phase, 0.0) * DEG,
        bfactor_A2=use("rlnCtfBfactor", 0.0),
        ctf_scale=use("rlnCtfScalefactor", 1.0),
        half_set=_read_half_sets(particles),
        names=names,
        extra={k: v for k, v in particles.columns.items() if _is_extra(k, _KNOWN_PARTICLES, ctf)},
        extra_optics={
            k: v for k, v in optics_block.columns.items() if _is_extra(k, _KNOWN_OPTICS, True)
        },
        earlier=earlier,
        source=path,
        lines=particles.lines[:n],
        is_unassigned=is_unassigned,
        remarks=remarks_on(particles, optics_block, _KNOWN_PARTICLES, _KNOWN_OPTICS),
        is_inverted=_read_contrast(particles),
        unread=tuple(
            label
            for label in particles.columns
            if not _is_extra(label, _KNOWN_PARTICLES, True)
            and label not in {*_KNOWN_PARTICLES, *earlier, _ASSIGNED, _INVERTED}
        ),
    )


def _read_blocks(path: Path) -> tuple[StarBlock, StarBlock, dict[str, StarBlock]]:
    """Return the blocks of particles, of optics, and all others; refuse a file without particles.

    A block of particles alone is one of RELION 3.0 or before.
    """
    blocks = read_star(path)
    names = [name for name, block in blocks.items() if "rlnImageName" in block]
    name = "particles" if "particles" in blocks else names[0] if len(names) == 1 else ""
    if name not in blocks:
        raise InputError(
            "no block data_particles, nor another with a column _rlnImageName",
            where=str(path),
            do="give the particles' file, not that of micrographs, a model or an optimiser",
        )
    particles = blocks[name]
    if len(particles) == 0:
        raise InputError(f"data_{name} has no rows", where=str(path), do="select some particles")
    if "rlnImageName" not in particles:
        raise InputError(
            f"column _rlnImageName is missing{hint(particles, ['rlnImageName'])}",
            where=str(path),
            do="extract the particles first",
        )
    others = {k: b for k, b in blocks.items() if k not in (name, "optics")}
    if "optics" in blocks:
        return particles, blocks["optics"], others
    return *upgraded(particles), others


def _require_ctf(particles: StarBlock, optics: StarBlock) -> None:
    """Refuse a file that lacks a column of the CTF."""
    missing = [particles.named(c) for c in _CTF if c not in particles]
    missing += [optics.named(c) for c in _MICROSCOPE if c not in optics]
    if missing:
        raise InputError(
            f"CTF columns are missing: {', '.join(missing)}"
            f"{hint(particles, _CTF)}{hint(optics, _MICROSCOPE)}",
            where=str(particles.path),
            do="estimate the CTF, or say --no-ctf if the images have none",
        )


def _read_assigned(particles: StarBlock) -> tuple[bool, np.ndarray]:
    """Tell whether the file has poses, and which rows have none: (n,), or (0,) if unmarked."""
    if not all(c in particles for c in _ANGLES):
        return False, np.zeros(0, bool)
    if _ASSIGNED not in particles:
        return True, np.zeros(0, bool)
    # Where another program has found a pose since, it left the mark as it was.
    angles = np.stack([particles.floats(c) for c in _ANGLES])
    is_unassigned = (particles.integers(_ASSIGNED) == 0) & ~angles.any(0)
    return not is_unassigned.all(), is_unassigned


def _read_earlier(particles: StarBlock, ignored: frozenset[str]) -> dict[str, np.ndarray]:
    """Return cryorefine's own columns of numbers; those that are computed with must be sound."""
    marks = (_ASSIGNED, _INVERTED)
    labels = [c for c in particles.columns if c.startswith("cryorefine") and c not in marks]
    labels = [label for label in labels if label not in ignored]
    check_earlier(particles, labels)
    earlier = {}
    for label in labels:
        # One that is no number, such as a reason, is not worth refusing a file for.
        with suppress(InputError):
            earlier[label] = particles.floats(label).astype(np.float32)
    return earlier


def _is_extra(label: str, known: set[str], ctf: bool) -> bool:
    """Tell whether a column travels as it is: unknown, or CTF values we were told to ignore."""
    if label.startswith("cryorefine") or label in ("rlnOriginX", "rlnOriginY"):
        # Columns of an earlier run are read apart; shifts in pixels beside those in ångströms would
        # be stale in the output.
        return False
    return label not in known or (not ctf and label in _CTF_VALUES)


def _coefficients(block: StarBlock, label: str, row: int) -> tuple[float, ...]:
    if label not in block:
        return ()
    try:
        found = json.loads(str(block.text(label)[row]))
        if not isinstance(found, list) or not all(isinstance(v, int | float) for v in found):
            raise ValueError
        values = tuple(float(v) for v in found)
        if not all(math.isfinite(v) for v in values):
            raise ValueError
    except (ValueError, OverflowError, RecursionError):
        raise InputError(
            f"'{block.shown(row, label)}' is not a list of numbers such as [0.1,0.2]",
            where=block.where(row, label),
            do="correct the value",
        ) from None
    if len(values) > LONGEST_ZERNIKE or not all(ZERNIKE.low <= v <= ZERNIKE.high for v in values):
        raise InputError(
            f"'{block.shown(row, label)}' has {len(values)} coefficients up to "
            f"{max(map(abs, values)):g}",
            where=block.where(row, label),
            do=f"give at most {LONGEST_ZERNIKE}, in the range {ZERNIKE}",
        )
    return values


def _read_optics(
    block: StarBlock, particles: StarBlock, ctf: bool
) -> tuple[tuple[OpticsGroup, ...], np.ndarray]:
    """Return all optics groups, and which of them each particle belongs to."""
    if len(block) == 0:
        raise InputError("data_optics has no rows", where=str(block.path), do="restore the block")
    numbers = block.integers("rlnOpticsGroup")
    if "rlnImageDimensionality" in block and (block.integers("rlnImageDimensionality") != 2).any():
        raise InputError(
            "only 2D images can be refined", where=str(block.path), do="give single-particle images"
        )
    of_particle = _group_of_particles(particles, numbers)
    groups = []
    for row, number in enumerate(numbers):
        if (numbers[:row] == number).any():
            raise InputError(
                f"optics group {number} is defined twice",
                where=block.where(row, "rlnOpticsGroup"),
                do="keep one row; images of another pixel size or box need a group of their own",
            )
        group = _read_group(block, row, int(number), ctf)
        if ctf:
            members = np.flatnonzero(of_particle == row)
            group = replace(group, envelope=read_envelope(block, row, particles, members))
        groups.append(group)
    return tuple(groups), of_particle


def _read_group(block: StarBlock, row: int, number: int, ctf: bool) -> OpticsGroup:
    """Return the optics group of a row."""

    def value(label: str, default: float) -> float:
        return float(block.floats(label)[row]) if label in block else default

    pixel_A = value("rlnImagePixelSize", 0.0)
    box_px = int(block.integers("rlnImageSize")[row]) if "rlnImageSize" in block else 0
    if pixel_A <= 0:
        raise InputError(
            f"no positive pixel size{hint(block, ['rlnImagePixelSize'])}",
            where=f"{block.path}, optics group {number}, column _rlnImagePixelSize",
            do="add the column with the pixel size of the images in ångströms",
        )
    magnification = tuple(
        value(label, d) for label, d in zip(_MAGNIFICATION, (1, 0, 0, 1), strict=True)
    )
    check_magnification(magnification, f"{block.path}, optics group {number}, columns _rlnMagMat..")
    name = str(block.text("rlnOpticsGroupName")[row]) if "rlnOpticsGroupName" in block else ""
    return OpticsGroup(
        name=name or f"opticsGroup{number}",
        pixel_A=pixel_A,
        box_px=box_px,
        voltage_kV=value("rlnVoltage", 300.0),
        cs_mm=value("rlnSphericalAberration", 2.7),
        amplitude_contrast=value("rlnAmplitudeContrast", 0.1),
        beam_tilt_mrad=(value("rlnBeamTiltX", 0.0), value("rlnBeamTiltY", 0.0)),
        odd_zernike=_coefficients(block, "rlnOddZernike", row),
        even_zernike=_coefficients(block, "rlnEvenZernike", row),
        magnification=magnification,  # type: ignore[arg-type]
        has_ctf=ctf,
        correction=_correction(block, row) if ctf else "none",
    )


def _group_of_particles(particles: StarBlock, numbers: np.ndarray) -> np.ndarray:
    """Return the row of each particle's optics group, from the groups' numbers."""
    n = len(numbers)
    of_particle = (
        particles.integers("rlnOpticsGroup")
        if "rlnOpticsGroup" in particles or n > 1
        else np.full(len(particles), numbers[0])
    )
    order = np.argsort(numbers)
    position = np.minimum(np.searchsorted(numbers[order], of_particle), n - 1)
    index = order[position]
    unknown = numbers[index] != of_particle
    if unknown.any():
        row = int(np.argmax(unknown))
        raise InputError(
            f"optics group {of_particle[row]} is not in data_optics",
            where=particles.where(row, "rlnOpticsGroup"),
            do="add the group or correct the number",
        )
    return index.astype(np.int32)


def _correction(block: StarBlock, row: int) -> Literal["none", "phase_flipped", "premultiplied"]:
    """Tell what the file says has been done to a group's images; multiplied ones win."""
    if _PREMULTIPLIED in block and block.floats(_PREMULTIPLIED)[row] != 0:
        return "premultiplied"
    if _FLIPPED in block and block.floats(_FLIPPED)[row] != 0:
        return "phase_flipped"
    return "none"


def _read_images(
    particles: StarBlock, root: Path | None
) -> tuple[tuple[Path, ...], np.ndarray, np.ndarray, np.ndarray]:
    names = particles.text("rlnImageName")
    plain = _plain(particles, "rlnImageName")
    mark = np.array("@", plain.dtype.kind)
    at = np.char.partition(plain, mark)
    number = at[:, 0]
    is_number = np.char.isdigit if plain.dtype.kind == "S" else np.char.isdecimal
    bad = (at[:, 1] != mark) | ~is_number(number) | (np.char.str_len(number) > _MAX_DIGITS)
    if bad.any():
        row = int(np.argmax(bad))
        raise InputError(
            f"'{names[row]}' is not of the form 000001@stack.mrcs",
            where=particles.where(row, "rlnImageName"),
            do="correct the name",
        )
    image_index = number.astype(np.int64) - 1
    if (image_index < 0).any():
        row = int(np.argmax(image_index < 0))
        raise InputError(
            f"'{names[row]}': images are counted from 1",
            where=particles.where(row, "rlnImageName"),
            do="correct the number",
        )
    unique, name_index = _distinct(at[:, 2])
    for i, name in enumerate(unique):
        if "\0" in name:
            row = int(np.argmax(name_index == i))
            raise InputError(
                f"'{names[row]}' holds a NUL, which is in no file's name",
                where=particles.where(row, "rlnImageName"),
                do="correct the name",
            )
    found = [find_stack(str(u), particles.path, root) for u in unique]
    # One file under two names is one stack: its images must be known for the same.
    real = [os.path.realpath(p) for p in found]
    _, first, stack_of_name = np.unique(real, return_index=True, return_inverse=True)
    stacks = tuple(found[i] for i in first)
    return stacks, stack_of_name[name_index].astype(np.int32), image_index, names


def _read_contrast(particles: StarBlock) -> bool:
    """Tell whether cryorefine wrote that particles are black in the images."""
    return _INVERTED in particles and bool(particles.floats(_INVERTED).all())


def _read_micrographs(particles: StarBlock) -> tuple[tuple[str, ...], np.ndarray]:
    if "rlnMicrographName" not in particles:
        return (), np.arange(len(particles), dtype=np.int64)
    unique, index = _distinct(_plain(particles, "rlnMicrographName"))
    return tuple(str(u) for u in unique), index.astype(np.int64)


def _plain(block: StarBlock, label: str) -> np.ndarray:
    """Return a column of words as bytes where all are ASCII, which is quicker, else as text."""
    column = block.columns[label]
    is_bytes = column.dtype.kind == "S"
    if is_bytes and not (np.ascontiguousarray(column).view(np.uint8) > _LAST_ASCII).any():
        return column
    return block.text(label)


def _distinct(words: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return words in their order, once each, as text, and which of them each entry is.

    Neighbours are mostly alike: only where they differ are words compared with all others.
    """
    starts = np.flatnonzero(np.append(True, words[1:] != words[:-1]))
    unique, index = np.unique(words[starts], return_inverse=True)
    if unique.dtype.kind == "S":
        unique = np.char.decode(unique, "ascii")
    return unique, np.repeat(index.reshape(-1), np.diff(np.append(starts, len(words))))


def _read_half_sets(particles: StarBlock) -> np.ndarray:
    if "rlnRandomSubset" not in particles:
        return np.zeros(len(particles), np.int8)
    halves = particles.integers("rlnRandomSubset")
    bad = (halves < 0) | (halves > 2)
    if bad.any():
        row = int(np.argmax(bad))
        raise InputError(
            f"half set {halves[row]} is not 1 or 2",
            where=particles.where(row, "rlnRandomSubset"),
            do="correct the value, or remove the column to have halves drawn anew",
        )
    return halves.astype(np.int8)


def write_relion(
    path: Path,
    table: ParticleTable,
    *,
    quality: Mapping[str, np.ndarray] | None = None,
) -> None:
    """Write a RELION 3.1 particle STAR file, atomically.

    Image names stay as they were read where they lead to the stack from the working folder or
    from ``path``'s folder; others become absolute. Unknown columns come back unchanged.

    Parameters
    ----------
    quality
        Further columns, label without underscore to values, written last.
    """
    path = Path(path)
    optics, particles = relion_blocks(path, table)
    particles.update(quality or {})
    others = {name: columns for name, columns in table.extra_blocks.items() if columns}
    write_star(path, {**others, "optics": optics, "particles": particles})


def relion_blocks(
    path: Path | None, table: ParticleTable
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Return the columns of ``data_optics`` and of ``data_particles``, by label.

    Parameters
    ----------
    path
        Of the file that they are for: names of images lead from there. None: without them, which
        take more memory than all numbers.
    """
    return _optics_columns(table), _particle_columns(path, table)


def _optics_columns(table: ParticleTable) -> dict[str, np.ndarray]:
    groups = table.optics
    n_groups = len(groups)
    optics: dict[str, np.ndarray] = {
        "rlnOpticsGroupName": np.array([g.name for g in groups]),
        "rlnOpticsGroup": np.arange(1, n_groups + 1),
        "rlnVoltage": np.array([g.voltage_kV for g in groups]),
        "rlnSphericalAberration": np.array([g.cs_mm for g in groups]),
        "rlnAmplitudeContrast": np.array([g.amplitude_contrast for g in groups]),
        "rlnImagePixelSize": np.array([g.pixel_A for g in groups]),
        "rlnImageSize": np.array([g.box_px for g in groups]),
        "rlnImageDimensionality": np.full(n_groups, 2),
    }
    if not optics["rlnImageSize"].all():  # of a file that has none, before the stacks are opened
        del optics["rlnImageSize"]
    if any(any(g.beam_tilt_mrad) for g in groups):
        optics["rlnBeamTiltX"] = np.array([g.beam_tilt_mrad[0] for g in groups])
        optics["rlnBeamTiltY"] = np.array([g.beam_tilt_mrad[1] for g in groups])
    for label, attribute in (("rlnOddZernike", "odd_zernike"), ("rlnEvenZernike", "even_zernike")):
        if any(getattr(g, attribute) for g in groups):
            optics[label] = np.array(
                ["[" + ",".join(f"{c:.9g}" for c in getattr(g, attribute)) + "]" for g in groups]
            )
    if any(not g.is_magnification_isotropic for g in groups):
        for i, label in enumerate(_MAGNIFICATION):
            optics[label] = np.array([g.magnification[i] for g in groups])
    for label, state in ((_PREMULTIPLIED, "premultiplied"), (_FLIPPED, "phase_flipped")):
        if any(g.correction == state for g in groups):
            optics[label] = np.array([int(g.correction == state) for g in groups])
    optics.update(table.extra_optics)
    return optics


def _particle_columns(path: Path | None, table: ParticleTable) -> dict[str, np.ndarray]:
    particles: dict[str, np.ndarray] = {}
    if path is not None:
        particles["rlnImageName"] = image_names(path, table)
    if table.micrographs:
        particles["rlnMicrographName"] = np.array(table.micrographs)[table.micrograph_index]
    particles["rlnOpticsGroup"] = table.optics_index.astype(np.int64) + 1
    if table.optics[0].has_ctf:
        particles["rlnDefocusU"] = table.defocus_u_A
        particles["rlnDefocusV"] = table.defocus_v_A
        particles["rlnDefocusAngle"] = table.defocus_angle_rad / DEG
        particles["rlnPhaseShift"] = table.phase_shift_rad / DEG
        particles["rlnCtfBfactor"] = table.bfactor_A2
        particles["rlnCtfScalefactor"] = table.ctf_scale
    if table.has_pose:
        for i, label in enumerate(_ANGLES):
            particles[label] = table.euler_rad[:, i] / DEG
        for i, label in enumerate(_ORIGIN):
            particles[label] = table.shift_A[:, i]
        if len(table.is_unassigned):
            particles[_ASSIGNED] = (~table.is_unassigned).astype(np.int64)
    if (table.half_set > 0).any():
        particles["rlnRandomSubset"] = table.half_set.astype(np.int64)
    if table.is_inverted:
        particles[_INVERTED] = np.ones(len(table), np.int64)
    particles.update(table.extra)
    return particles
