"""A valid set of a few small particles, to be damaged in one place: text, images and maps."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from tests.builders import loop, optics_columns, particle_columns, write_mrc

__all__ = ["BOX_PX", "N_PARTICLES", "PIXELS_OFFSET", "SmallSet", "valid_set"]

BOX_PX, N_PARTICLES, PIXEL_A = 24, 20, 5.0
PIXELS_OFFSET = 1024  # of the first pixel in its file


@dataclass(frozen=True)
class SmallSet:
    """What the files of a set hold.

    Attributes
    ----------
    optics, particles
        Columns of the blocks, as text.
    images, reference, mask
        Pixels and voxels.
    """

    optics: dict[str, list[str]]
    particles: dict[str, list[str]]
    images: np.ndarray
    reference: np.ndarray
    mask: np.ndarray = field(repr=False)

    def with_value(self, name: str, label: str, row: int, value: str) -> "SmallSet":
        """Return the set with another value in one row of a column of the block of that name."""
        columns = {k: list(v) for k, v in getattr(self, name).items()}
        columns[label][row] = value
        return replace(self, **{name: columns})

    def text(self) -> str:
        """Return the STAR file."""
        blocks = {"optics": self.optics, "particles": self.particles}
        return "\n".join(loop(name, columns) for name, columns in blocks.items())

    def write(self, folder: Path) -> Path:
        """Write all files; returns the STAR file."""
        folder.mkdir(parents=True, exist_ok=True)
        write_mrc(folder / "stack.mrcs", self.images, pixel_A=PIXEL_A)
        write_mrc(folder / "reference.mrc", self.reference, pixel_A=PIXEL_A)
        write_mrc(folder / "mask.mrc", self.mask, pixel_A=PIXEL_A)
        star = folder / "particles.star"
        star.write_text(self.text())
        return star


def valid_set() -> SmallSet:
    """Return the set as it should be: noise with something in the middle, poses of all kinds."""
    random = np.random.default_rng(7)
    axis = np.arange(BOX_PX) - BOX_PX // 2
    z, y, x = np.meshgrid(axis, axis, axis, indexing="ij")
    blobs = [(4, 0, 2), (-3, 3, 0), (0, -4, -3), (2, 2, 4)]
    density = np.zeros(x.shape)
    for a, b, c in blobs:
        density += np.exp(-((x - a) ** 2 + (y - b) ** 2 + (z - c) ** 2) / 6.0)
    images = random.normal(size=(N_PARTICLES, BOX_PX, BOX_PX))
    images += density.sum(0)
    mask = np.clip(10.0 - np.sqrt(x**2.0 + y**2 + z**2), 0, 1)
    n = N_PARTICLES
    optics = optics_columns(
        1, rlnImagePixelSize=PIXEL_A, rlnImageSize=BOX_PX, rlnBeamTiltX=0.1, rlnBeamTiltY=-0.1,
        rlnOddZernike="[0.01,0,0.02]", rlnEvenZernike="[0,0.1,0,0.1]", rlnMagMat00=1.001,
        rlnMagMat01=0.0, rlnMagMat10=0.0, rlnMagMat11=0.999,
    )  # fmt: skip
    angles = random.uniform(0, 180, (n, 3)).round(3)
    particles = particle_columns(
        n, rlnPhaseShift=0.0, rlnCtfBfactor=10.0, rlnCtfScalefactor=1.0,
        rlnRandomSubset=[1 + i % 2 for i in range(n)], rlnAngleRot=list(angles[:, 0]),
        rlnAngleTilt=list(angles[:, 1]), rlnAnglePsi=list(angles[:, 2]),
        rlnOriginXAngst=1.5, rlnOriginYAngst=-2.5,
    )  # fmt: skip

    def texts(columns: Mapping[str, Sequence[object]]) -> dict[str, list[str]]:
        return {label: [str(value) for value in values] for label, values in columns.items()}

    return SmallSet(
        texts(optics),
        texts(particles),
        images.astype(np.float32),
        density.astype(np.float32),
        mask.astype(np.float32),
    )
