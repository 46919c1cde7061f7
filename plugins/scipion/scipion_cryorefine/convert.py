"""Scipion's sets as STAR files of cryorefine, and its results as attributes of Scipion's items.

A pose in Scipion is a 4 x 4 matrix M = [E' | E' s; 0 1] with the transpose E' of the rotation E,
which takes the volume to the image, and the shift s in pixels. E is RELION's matrix of rot, tilt
and psi, and s times the sampling rate is ``rlnOriginXAngst`` and ``YAngst``: no sign changes.
"""

import math
import os
from typing import Any, Dict, Iterable, List, Tuple

import numpy as np
from pwem import ALIGN_PROJ
from pwem.emlib.image import ImageHandler
from pwem.objects import SetOfParticles, Transform
from pyworkflow.object import Float, Integer

from .star import Block, lines_by_id, read_blocks, words_of, write_block

__all__ = [
    "Results",
    "angles_and_shift",
    "as_mrc",
    "matrix_of",
    "set_result",
    "write_particles",
]

IMAGE_ID = "rlnImageId"
"""Column with the identity of Scipion's item: unknown to cryorefine, which carries it along."""

PREFIXES = ("_rln", "_cryorefine")
"""Attributes of items that are columns of a STAR file."""

XMIPP = {
    "maxCC": "cryorefineMaxCC",
    "maxCCPerc": "cryorefineMaxCCPercentile",
    "cost": "cryorefineCost",
    "costPerc": "cryorefineCostPercentile",
    "weight": "cryorefineWeight",
    "weightSSNR": "cryorefineWeightSsnr",
    "weightContinuous2": "cryorefineWeightCost",
    "weightJumper": "cryorefineWeightStability",
    "weightCC": "cryorefineWeightCC",
    "corrIdx": "cryorefineCorrelationIndex",
    "corrMask": "cryorefineCorrelationMask",
    "corrWeight": "cryorefineCorrelationWeight",
    "imedValue": "cryorefineImed",
    "angleDiff": "cryorefineAngleDiffDeg",
    "angleDiff2": "cryorefineAngleDiff2Deg",
    "shiftDiff": "cryorefineShiftDiffA",
    "shiftDiff2": "cryorefineShiftDiff2A",
    "angleTemp": "cryorefineAngularTemperatureDeg",
    "angleRot": "rlnAngleRot",
    "angleTilt": "rlnAngleTilt",
    "anglePsi": "rlnAnglePsi",
    "continuousA": "cryorefineGreyScale",
    "continuousB": "cryorefineGreyOffset",
    "ctfDefocusChange": "cryorefineDefocusChange",
}
"""Names that viewers and filters of Scipion know from HighRes, and the columns that have them."""


def matrix_of(angles_deg: Iterable[float], shift_px: Iterable[float]) -> np.ndarray:
    """Return Scipion's matrix (4, 4) of rot, tilt and psi in degrees, and a shift (x, y)."""
    rot, tilt, psi = np.radians(np.asarray(list(angles_deg), dtype=float))

    def about_z(angle: float) -> np.ndarray:
        c, s = math.cos(angle), math.sin(angle)
        return np.array([[c, s, 0.0], [-s, c, 0.0], [0.0, 0.0, 1.0]])

    c, s = math.cos(tilt), math.sin(tilt)
    about_y = np.array([[c, 0.0, -s], [0.0, 1.0, 0.0], [s, 0.0, c]])
    rotation = about_z(psi) @ about_y @ about_z(rot)
    matrix = np.eye(4)
    matrix[:3, :3] = rotation.T
    matrix[:3, 3] = rotation.T @ np.array([*shift_px, 0.0])
    return matrix


def angles_and_shift(matrix: np.ndarray) -> Tuple[List[float], List[float]]:
    """Return rot, tilt and psi in degrees, and the shift (x, y) in pixels, of Scipion's matrix.

    Raises
    ------
    ValueError
        If the matrix mirrors the image, which no pose does.
    """
    rotation = np.asarray(matrix)[:3, :3].T
    if np.linalg.det(rotation) < 0:
        raise ValueError("the pose of a particle is a mirror image; cryorefine has no such poses")
    shift = rotation @ np.asarray(matrix)[:3, 3]
    sine = math.hypot(rotation[2, 0], rotation[2, 1])
    tilt = math.atan2(sine, rotation[2, 2])
    if sine > 1e-9:  # what rounding leaves of a view from above, where rot is free
        rot = math.atan2(rotation[2, 1], rotation[2, 0])
        psi = math.atan2(rotation[1, 2], -rotation[0, 2])
    else:
        rot, psi = 0.0, math.atan2(rotation[0, 1], rotation[1, 1])
    return [math.degrees(a) for a in (rot, tilt, psi)], [float(shift[0]), float(shift[1])]


# ------------------------------------------------------------------ to cryorefine


def _number(value: float) -> str:
    return f"{value:.10g}"


class _Optics:
    """Optics groups: those that RELION's plugin keeps in the set, else one an acquisition."""

    def __init__(self, images: SetOfParticles) -> None:
        acquisition = images.getAcquisition()
        text = getattr(acquisition, "opticsGroupInfo", None)
        self.kept = {}
        if text is not None and text.get():
            self.kept = read_blocks(str(text.get()).splitlines())
        self.pixel_A = images.getSamplingRate()
        self.box_px = images.getXDim()
        self.of_set = acquisition
        self.numbers: Dict[Tuple[float, float, float], int] = {}

    def group_of(self, item: Any) -> int:
        """Return the number of an item's optics group."""
        if self.kept:
            number = getattr(item, "_rlnOpticsGroup", None)
            return int(number.get()) if number is not None and number.get() else 1
        own = item.getAcquisition() if item.hasAcquisition() else None
        used = own if own is not None and own.getVoltage() is not None else self.of_set
        key = (used.getVoltage(), used.getSphericalAberration(), used.getAmplitudeContrast())
        return self.numbers.setdefault(key, len(self.numbers) + 1)

    def block(self) -> Block:
        """Return the table of optics groups, with pixel and box of the set."""
        own = {
            "rlnImagePixelSize": _number(self.pixel_A),
            "rlnImageSize": str(self.box_px),
            "rlnImageDimensionality": "2",
        }
        if self.kept:
            table = next(iter(self.kept.values()))
            columns = [c for c in table.columns if c not in own]
            rows = [[r[c] for c in columns] for r in table.records()]
        else:
            columns = [
                "rlnOpticsGroupName", "rlnOpticsGroup", "rlnVoltage", "rlnSphericalAberration",
                "rlnAmplitudeContrast",
            ]  # fmt: skip
            rows = [
                [f"opticsGroup{n}", str(n), *map(_number, key)] for key, n in self.numbers.items()
            ]
        return Block([*columns, *own], [[*row, *own.values()] for row in rows])


def _micrograph(item: Any) -> str:
    coordinate = item.getCoordinate() if item.hasCoordinate() else None
    name = coordinate.getMicName() if coordinate is not None else None
    kept = getattr(item, "_rlnMicrographName", None)
    if not name and kept is not None:
        name = kept.get()
    if name:
        return str(name)
    number = item.getMicId()
    return f"micrograph_{number:06d}" if number else ""


def _columns(images: SetOfParticles, item: Any) -> List[str]:
    """Return the columns that a set has, as its first item shows."""
    columns = ["rlnImageName", IMAGE_ID, "rlnOpticsGroup"]
    if _micrograph(item):
        columns.append("rlnMicrographName")
    if item.hasCoordinate():
        columns += ["rlnCoordinateX", "rlnCoordinateY"]
    if images.hasCTF():
        columns += ["rlnDefocusU", "rlnDefocusV", "rlnDefocusAngle", "rlnPhaseShift"]
    if images.getAlignment() == ALIGN_PROJ:
        columns += [
            "rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi", "rlnOriginXAngst", "rlnOriginYAngst",
        ]  # fmt: skip
    kept = [name[1:] for name, _ in item.getAttributes() if name.startswith(PREFIXES)]
    return [*columns, *(name for name in kept if name not in columns)]


def _values(item: Any, folder: str, optics: _Optics, location: Tuple[int, str]) -> Dict[str, str]:
    """Return an item's values by column."""
    index, name = location
    path = os.path.relpath(name, folder)
    values = {
        "rlnImageName": f"{index or 1:06d}@{path}",
        IMAGE_ID: str(item.getObjId()),
        "rlnOpticsGroup": str(optics.group_of(item)),
        "rlnMicrographName": _micrograph(item) or "none",
    }
    if item.hasCoordinate():
        x, y = item.getCoordinate().getPosition()
        values.update(rlnCoordinateX=_number(x), rlnCoordinateY=_number(y))
    if item.hasCTF():
        ctf = item.getCTF()
        values.update(
            rlnDefocusU=_number(ctf.getDefocusU()),
            rlnDefocusV=_number(ctf.getDefocusV()),
            rlnDefocusAngle=_number(ctf.getDefocusAngle()),
            rlnPhaseShift=_number(ctf.getPhaseShift() if ctf.hasPhaseShift() else 0.0),
        )
    if item.hasTransform():
        angles, shift = angles_and_shift(item.getTransform().getMatrix())
        names = ("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi")
        values.update({n: _number(a) for n, a in zip(names, angles)})
        names = ("rlnOriginXAngst", "rlnOriginYAngst")
        values.update({n: _number(s * optics.pixel_A) for n, s in zip(names, shift)})
    for name, attribute in item.getAttributes():
        if name.startswith(PREFIXES) and attribute.get() is not None:
            # The columns above are the item's own: they may be newer than what was read once.
            values.setdefault(name[1:], str(attribute.get()))
    return values


def write_particles(images: SetOfParticles, path: str) -> int:
    """Write a set as a STAR file of RELION 3.1, and return the number of its particles.

    Images that are neither MRC nor MRCS are copied to a stack beside the file. Everything that
    earlier runs of cryorefine, or the plugin of RELION, left in the items is written back.
    """
    folder = os.path.dirname(path)
    optics = _Optics(images)
    first = images.getFirstItem()
    columns = _columns(images, first)
    is_readable = os.path.splitext(first.getFileName())[1] in (".mrc", ".mrcs")
    stack = os.path.splitext(path)[0] + ".mrcs"
    if not is_readable:
        images.writeStack(stack)
    rows = []
    for number, item in enumerate(images.iterItems(orderBy="id", direction="ASC"), 1):
        location = item.getLocation() if is_readable else (number, stack)
        values = _values(item, folder, optics, location)
        rows.append([values.get(column, "0") for column in columns])
    with open(path, "w") as file:
        write_block(file, "optics", optics.block())
        write_block(file, "particles", Block(columns, rows))
    return len(rows)


def as_mrc(volume: Any, folder: str) -> str:
    """Return the path of a volume as an MRC file: its own, or that of a copy in a folder."""
    index, name = volume.getLocation()
    if not index and os.path.splitext(name)[1] in (".mrc", ".map"):
        return name
    stem = os.path.splitext(os.path.basename(name.split(":")[0]))[0]
    path = os.path.join(folder, f"{stem}_{index or 1}.mrc")
    ImageHandler().convert(volume, path)
    return path


# ------------------------------------------------------------------ from cryorefine


class Results:
    """Rows of a run's ``particles.star`` by the identity of Scipion's items."""

    def __init__(self, path: str) -> None:
        with open(path) as file:
            self.columns, self._lines = lines_by_id(file, "particles", IMAGE_ID)

    def __len__(self) -> int:
        return len(self._lines)

    def of(self, identity: int) -> Dict[str, str]:
        """Return the values of an item by column; empty if the run has set it aside."""
        line = self._lines.get(identity)
        return {} if line is None else dict(zip(self.columns, words_of(line)))


def set_result(item: Any, values: Dict[str, str], pixel_A: float) -> None:
    """Give an item the pose, CTF and all columns of cryorefine that a run found for it."""
    angles = [float(values[f"rlnAngle{name}"]) for name in ("Rot", "Tilt", "Psi")]
    shift = [float(values[f"rlnOrigin{axis}Angst"]) / pixel_A for axis in "XY"]
    item.setTransform(Transform(matrix=matrix_of(angles, shift)))
    if item.hasCTF() and "rlnDefocusU" in values:
        names = ("rlnDefocusU", "rlnDefocusV", "rlnDefocusAngle")
        item.getCTF().setStandardDefocus(*(float(values[name]) for name in names))
    for name, text in values.items():
        if name.startswith("cryorefine"):
            setattr(item, f"_{name}", Float(float(text)))
    if "rlnRandomSubset" in values:
        item._rlnRandomSubset = Integer(int(values["rlnRandomSubset"]))
    item._xmipp_shiftX = Float(shift[0])
    item._xmipp_shiftY = Float(shift[1])
    axes = [float(values.get(f"cryorefineMagnification{axis}", 1.0)) for axis in ("XX", "YY")]
    item._xmipp_scale = Float(math.sqrt(axes[0] * axes[1]))
    for name, column in XMIPP.items():
        if column in values:
            setattr(item, f"_xmipp_{name}", Float(float(values[column])))
