"""RELION's STAR files as one of the formats: 3.0 to 5 are read, and 3.1's form is written."""

import re
from contextlib import suppress
from pathlib import Path

import numpy as np

from cryorefine.errors import InputError
from cryorefine.formats.columns import Column
from cryorefine.formats.losses import losses
from cryorefine.formats.protocol import Reading
from cryorefine.formats.stack_boxes import with_boxes
from cryorefine.particles.formats.read_options import ReadOptions
from cryorefine.particles.formats.relion import read_relion, write_relion
from cryorefine.particles.table import ParticleTable

__all__ = ["RelionFormat"]

_LABEL = re.compile(rb"^[ \t]*_rln[A-Z]", re.MULTILINE)

_CONTRAST = "that particles are black, for programs other than cryorefine"


def _same(label: str, unit: str = "", convention: str = "") -> Column:
    return Column(label, (label,), unit, 1.0, convention)


class RelionFormat:
    """STAR files of RELION."""

    name = "relion"
    title = "RELION STAR (3.0 to 5)"
    suffixes = (".star",)
    columns = (
        _same("rlnImageName", convention="number@stack, from 1"),
        _same("rlnMicrographName"),
        _same("rlnOpticsGroup", convention="from 1; row of data_optics"),
        _same("rlnOpticsGroupName"),
        _same("rlnVoltage", "kV"),
        _same("rlnSphericalAberration", "mm"),
        _same("rlnAmplitudeContrast"),
        _same("rlnImagePixelSize", "Å"),
        _same("rlnImageSize", "px"),
        _same("rlnDefocusU", "Å", "positive for underfocus"),
        _same("rlnDefocusV", "Å"),
        _same("rlnDefocusAngle", "°", "from x towards y"),
        _same("rlnPhaseShift", "°"),
        _same("rlnCtfBfactor", "Å²", "amplitudes fall as exp(-B s²/4)"),
        _same("rlnCtfScalefactor"),
        _same("rlnBeamTiltX", "mrad"),
        _same("rlnBeamTiltY", "mrad"),
        _same("rlnOddZernike", "rad"),
        _same("rlnEvenZernike", "rad"),
        _same("rlnMagMat00", convention="sampled at M s where the image has s"),
        _same("rlnMagMat01"),
        _same("rlnMagMat10"),
        _same("rlnMagMat11"),
        _same("rlnAngleRot", "°", "ZYZ"),
        _same("rlnAngleTilt", "°"),
        _same("rlnAnglePsi", "°"),
        _same("rlnOriginXAngst", "Å", "moves the content"),
        _same("rlnOriginYAngst", "Å"),
        _same("rlnRandomSubset", convention="1 and 2"),
        _same("rlnCtfDataArePhaseFlipped"),
        _same("rlnCtfDataAreCtfPremultiplied"),
    )

    def recognises(self, path: Path, head: bytes) -> bool:
        """Tell whether there is a label of RELION's."""
        return _LABEL.search(head) is not None

    def files(self, path: Path) -> tuple[Path, ...]:
        """Return the file itself."""
        return (path,)

    def read(self, path: Path, options: ReadOptions) -> Reading:
        """Read a file; unknown columns and blocks are kept as they are."""
        table = read_relion(
            path, ctf=options.ctf, ignored=options.ignored, image_root=options.image_root
        )
        unread = [f"columns that are not kept: {', '.join(table.unread)}"] if table.unread else []
        return Reading(table, tuple(unread))

    def write(self, path: Path, table: ParticleTable) -> tuple[str, ...]:
        """Write RELION 3.1's form, which holds everything but columns of other formats."""
        with suppress(InputError):  # a box that no file tells is left out
            table = with_boxes(table)
        earlier = {k: np.asarray(v) for k, v in table.earlier.items()}
        write_relion(path, table, quality=earlier)
        held = ("poses", "unassigned", "half_sets", "ctf", "phase_shift", "bfactor", "ctf_scale",
                "beam_tilt", "odd_zernike", "even_zernike", "magnification", "phase_flipped",
                "premultiplied", "groups", "group_names", "micrographs")  # fmt: skip
        lost = losses(table, (*held, "contrast"), format_name=self.name)
        return (*lost, *([_CONTRAST] if table.is_inverted else []))
