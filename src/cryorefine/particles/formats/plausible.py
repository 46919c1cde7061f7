"""What the numbers of a particle file can be: whoever wrote others was not right.

The limits are generous. They keep out what no microscope does and single precision cannot hold, so
that a damaged row is named where it is read and does not empty a map.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cryorefine.errors import InputError
from cryorefine.io.star import StarBlock

__all__ = [
    "LONGEST_ZERNIKE",
    "ZERNIKE",
    "Range",
    "check_earlier",
    "check_magnification",
    "check_ranges",
    "refuse_rows",
    "require_bounded_envelope",
]


@dataclass(frozen=True)
class Range:
    """Values from ``low`` to ``high``, both included."""

    low: float
    high: float
    unit: str = ""

    def __str__(self) -> str:
        """Return the range as a message shows it."""
        return f"{self.low:g} to {self.high:g} {self.unit}".rstrip()


_DEFOCUS = Range(-1e6, 1e6, "Å")
"""100 µm: ten times what tomograms and phase plates are taken at. Phases in single precision are
good to a thousandth of a turn up to there."""

_ANGLE = Range(-1e6, 1e6, "°")
"""Angles may have been added up over many turns; more than 2,700 are no angle."""

_PHASE = Range(-1e4, 1e4, "°")
"""Phase plates give up to 180°."""

_SCALE = Range(-100.0, 100.0)
"""About 1 among the particles of a set. It counts squared: one of 100 weighs as much as 10,000."""

_BFACTOR = Range(-1e4, 1e6, "Å²")
"""Images of more show nothing beyond 500 Å; see also :data:`_MAX_GAIN`."""

_ORIGIN = Range(-1e5, 1e5, "Å")
"""10 µm: more than the side of a micrograph."""

_VOLTAGE = Range(0.1, 5000.0, "kV")
"""From the slowest electrons that images were ever taken with to beyond the fastest."""

_CS = Range(-100.0, 100.0, "mm")
"""Lenses have 0 to 8 mm, corrected ones a little on both sides of 0."""

_CONTRAST = Range(0.0, 1.0)
"""A fraction: its arc sine is a phase."""

_PIXEL = Range(0.05, 100.0, "Å")
"""Detectors of single particles: 0.2 to 10 Å; a box of coarser pixels holds no detail."""

_BOX = Range(1, 65536, "px")
"""Beyond the largest detectors."""

_TILT = Range(-100.0, 100.0, "mrad")
"""Beam tilts are below 5 mrad; 100 mrad is an electron beside the aperture."""

_MATRIX = Range(-2.0, 2.0)
"""Near the identity: anisotropic magnification is a few percent."""

ZERNIKE = Range(-1e6, 1e6)
"""Radians at 1 Å: 5 mm of spherical aberration at 100 kV has 4,000."""

LONGEST_ZERNIKE = 121
"""Coefficients up to the 20th order, of which programs fit 3 to 8."""

_CHROMATIC = Range(0.0, 100.0, "mm")
"""Lenses have 1 to 5 mm."""

_ENERGY_SPREAD = Range(0.0, 1000.0, "eV")
"""Guns have 0.3 to 2 eV; some files give what a filter lets through, a hundred times that."""

_LENS_STABILITY = Range(0.0, 1000.0, "ppm")
"""Supplies have 0.1 to 2 ppm."""

_CONE = Range(0.0, 100.0, "mrad")
"""Illumination is parallel to 0.1 mrad; as for the beam's tilt."""

_DISPLACEMENT = Range(0.0, 1e4, "Å")
"""1 µm: the whole specimen."""

_MAX_GAIN = 1e9
"""By what a negative B-factor may raise amplitudes at the image's Nyquist frequency: squares of
more, times an image's coefficients, do not fit into single precision."""

_STRETCH = 2.0
"""By what a magnification matrix may lengthen or shorten: it would be the wrong pixel size."""

_ENVELOPE = {
    "rlnChromaticAberration": _CHROMATIC,
    "rlnEnergyLoss": _ENERGY_SPREAD,
    "rlnLensStability": _LENS_STABILITY,
    "rlnConvergenceCone": _CONE,
    **dict.fromkeys(("rlnLongitudinalDisplacement", "rlnTransversalDisplacement"), _DISPLACEMENT),
}
_OPTICS = {
    "rlnVoltage": _VOLTAGE,
    "rlnSphericalAberration": _CS,
    "rlnAmplitudeContrast": _CONTRAST,
    "rlnImagePixelSize": _PIXEL,
    "rlnImageSize": _BOX,
    "rlnBeamTiltX": _TILT,
    "rlnBeamTiltY": _TILT,
    **_ENVELOPE,
    **dict.fromkeys(("rlnMagMat00", "rlnMagMat01", "rlnMagMat10", "rlnMagMat11"), _MATRIX),
}
_POSES = {
    **dict.fromkeys(("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi"), _ANGLE),
    **dict.fromkeys(("rlnOriginXAngst", "rlnOriginYAngst"), _ORIGIN),
}
_TRANSFER = {
    **dict.fromkeys(("rlnDefocusU", "rlnDefocusV"), _DEFOCUS),
    "rlnDefocusAngle": _ANGLE,
    **dict.fromkeys(("rlnPhaseShift", "rlnCtfPhaseShift"), _PHASE),
    "rlnCtfBfactor": _BFACTOR,
    "rlnCtfScalefactor": _SCALE,
    **_ENVELOPE,
}
_WEIGHT = Range(0.0, 1e6)
"""About 1 among the particles of a half; one of a million is the half by itself."""

_GREY_SCALE = Range(1e-3, 1e3)
"""About 1 among the particles of a half, and refined by less than 100 %; the images are divided by
it in effect."""

_GREY_OFFSET = Range(-1e3, 1e3)
"""Standard deviations of the background: as far as ``--max-grey-offset`` goes."""

_OWN_AXIS, _OWN_SHEAR = Range(0.8, 1.25), Range(-0.2, 0.2)
"""Twice what ``--max-magnification-change-percent`` lets a particle be magnified by."""

_EARLIER = {
    "cryorefineWeight": _WEIGHT,
    "cryorefineGreyScale": _GREY_SCALE,
    "cryorefineGreyOffset": _GREY_OFFSET,
    "cryorefineMagnificationXX": _OWN_AXIS,
    "cryorefineMagnificationYY": _OWN_AXIS,
    "cryorefineMagnificationXY": _OWN_SHEAR,
}
_SHOWN_ROWS = 5  # in a message; it says how many more there are


def check_ranges(particles: StarBlock, optics: StarBlock, *, ctf: bool) -> None:
    """Refuse numbers of the columns that are used which are not in their range.

    Parameters
    ----------
    ctf
        Whether the images have contrast transfer: the particles' columns of it are used then.

    Raises
    ------
    InputError
        Naming the first row, the column, the value, the range, and all rows that are so.
    """
    _check_block(optics, _OPTICS)
    _check_block(particles, {**_POSES, **(_TRANSFER if ctf else {})})


def check_earlier(particles: StarBlock, labels: list[str]) -> None:
    """Refuse numbers of an earlier run's columns that are computed with; errors as above."""
    _check_block(particles, {name: r for name, r in _EARLIER.items() if name in labels})


def _check_block(block: StarBlock, ranges: dict[str, Range]) -> None:
    for label, limits in ranges.items():
        if label in block:
            values = block.floats(label)
            bad = (values < limits.low) | (values > limits.high)
            refuse_rows(block, label, bad, f"is not in the range {limits}")


def refuse_rows(block: StarBlock, label: str, bad: np.ndarray, what: str) -> None:
    """Refuse a block if values of a column are bad.

    Parameters
    ----------
    bad
        (n,) bool, by row.
    what
        What is wrong with a value, as the end of a sentence that begins with it.
    """
    rows = np.flatnonzero(bad)
    if len(rows) == 0:
        return
    first = int(rows[0])
    others = ""
    if len(rows) > 1:
        shown = ", ".join(_place(block, int(row)) for row in rows[1 : _SHOWN_ROWS + 1])
        more = len(rows) - _SHOWN_ROWS - 1
        others = f"; so are those of {shown}" + (f" and {more} more rows" if more > 0 else "")
    raise InputError(
        f"'{block.shown(first, label)}' {what}{others}",
        where=block.where(first, label),
        do="correct the values or remove the rows"
        if others
        else "correct the value or remove the row",
    )


def _place(block: StarBlock, row: int) -> str:
    return f"line {int(block.lines[row])}" if row < len(block.lines) else f"row {row + 1}"


def require_bounded_envelope(particles: StarBlock, pixel_A: np.ndarray) -> None:
    """Refuse B-factors that would raise amplitudes beyond what can be computed with.

    Parameters
    ----------
    pixel_A
        (n,) pixel size of each particle's image.
    """
    label = "rlnCtfBfactor"
    if label not in particles:
        return
    nyquist_per_A = 0.5 / pixel_A
    gain = np.exp(np.minimum(-particles.floats(label) * nyquist_per_A**2 / 4, 700.0))
    refuse_rows(
        particles, label, gain > _MAX_GAIN, "Å² would raise the finest detail a billionfold"
    )


def check_magnification(matrix: Sequence[float], where: str) -> None:
    """Refuse a magnification matrix (2×2, by rows) that stretches or shrinks beyond reason."""
    a, b, c, d = matrix
    far, near = math.hypot(a + d, b - c), math.hypot(a - d, b + c)
    largest, smallest = (far + near) / 2, abs(far - near) / 2  # singular values
    if largest > _STRETCH or smallest < 1 / _STRETCH:
        raise InputError(
            f"the matrix ({a:g}, {b:g}; {c:g}, {d:g}) magnifies by {smallest:.3g} to {largest:.3g}",
            where=where,
            do="correct it, to a matrix near (1, 0; 0, 1)",
        )
