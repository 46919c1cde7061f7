"""Particle files of RELION 3.0 and before: one block, with shifts in pixels."""

import numpy as np

from cryorefine.io.star import StarBlock
from cryorefine.particles.formats.foreign import ForeignBlock, as_optics_groups

__all__ = ["ONE_BLOCK", "upgraded"]

_UM_TO_A = 1e4
"""Ångströms of a micrometre: the unit of ``rlnDetectorPixelSize``."""

_PIXEL = ("rlnDetectorPixelSize", "rlnMagnification")
_ORIGINS = {"rlnOriginX": "rlnOriginXAngst", "rlnOriginY": "rlnOriginYAngst"}

ONE_BLOCK = (
    "rlnVoltage", "rlnSphericalAberration", "rlnAmplitudeContrast", "rlnBeamTiltX", "rlnBeamTiltY",
    "rlnImagePixelSize", "rlnImageSize", "rlnCtfDataAreCtfPremultiplied",
    "rlnCtfDataArePhaseFlipped",
)  # fmt: skip
"""Labels of a particle's row that belong to optics groups since RELION 3.1."""


def upgraded(block: StarBlock) -> tuple[StarBlock, StarBlock]:
    """Return the particles and the optics groups of RELION 3.1 that a single block stands for.

    Particles that share all of :data:`ONE_BLOCK` are one group. The pixel size is that of the
    detector over the magnification, and ``rlnPixelSize`` where these are missing; shifts in pixels
    become ångströms.

    Raises
    ------
    InputError
        If one of these numbers is none: names line and column.
    """
    columns = dict(block.columns)
    own = {new: f"_{old}" for old, new in _ORIGINS.items() if old in block}
    if all(label in columns for label in _PIXEL):
        detector_um, magnification = (block.floats(label) for label in _PIXEL)
        with np.errstate(divide="ignore", invalid="ignore"):
            pixel_A = np.nan_to_num(detector_um * _UM_TO_A / magnification, posinf=0.0)
        columns["rlnImagePixelSize"] = pixel_A
        own["rlnImagePixelSize"] = " over ".join(f"_{label}" for label in _PIXEL)
        for label in _PIXEL:
            del columns[label]
    elif "rlnPixelSize" in columns and "rlnImagePixelSize" not in columns:
        columns["rlnImagePixelSize"] = block.floats("rlnPixelSize")
        own["rlnImagePixelSize"] = "_rlnPixelSize"
    for label in ONE_BLOCK:
        if label in block and label in columns:
            columns[label] = block.floats(label)
    for old, new in _ORIGINS.items():
        if old in columns and new not in columns and "rlnImagePixelSize" in columns:
            columns[new] = block.floats(old) * np.asarray(columns["rlnImagePixelSize"])
            del columns[old]
    columns.pop("rlnOpticsGroup", None)
    particles = ForeignBlock("particles", columns, block.lines, block.path, own=own)
    return particles, as_optics_groups(particles, ONE_BLOCK)
