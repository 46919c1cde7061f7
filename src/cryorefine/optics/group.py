"""An optics group: everything that a set of images shares about its microscope."""

import math
from dataclasses import dataclass, field, replace
from typing import Literal

from cryorefine.units import electron_wavelength_A

__all__ = ["Envelope", "OpticsGroup"]


@dataclass(frozen=True)
class Envelope:
    """Physical envelope of the contrast transfer, as Xmipp parametrises it; zeros mean none.

    Attributes
    ----------
    chromatic_mm
        Chromatic aberration coefficient Ca.
    energy_loss_eV
        Energy spread of the beam.
    lens_stability_ppm
        Relative instability of the lens current.
    convergence_mrad
        Half angle of the illumination cone.
    longitudinal_A, transversal_A
        Displacements of the specimen along the beam and across it.
    """

    chromatic_mm: float = 0.0
    energy_loss_eV: float = 0.0
    lens_stability_ppm: float = 0.0
    convergence_mrad: float = 0.0
    longitudinal_A: float = 0.0
    transversal_A: float = 0.0


@dataclass(frozen=True)
class OpticsGroup:
    """Constants of one optics group.

    Attributes
    ----------
    name
        As in the input file.
    pixel_A, box_px
        Sampling and side of the group's images.
    voltage_kV, cs_mm, amplitude_contrast
        Acceleration voltage, spherical aberration, fraction of amplitude contrast (0 to 1).
    beam_tilt_mrad
        (x, y), RELION's sign: the image's phase gains ``-2π Cs λ² |s|² (s·tilt)``.
    odd_zernike, even_zernike
        Coefficients in RELION's order, radians, for polynomials of s in 1/Å.
    magnification
        2×2 matrix M by rows: the object is sampled at M s where the image has s.
    has_ctf
        False for images without contrast transfer (none of the CTF columns was given).
    has_envelope
        Whether the envelope, and the particles' B-factors, damp the transfer.
    correction
        What has been done to the images: nothing, signs of the CTF made positive, or multiplied
        by the CTF.
    """

    name: str
    pixel_A: float
    box_px: int
    voltage_kV: float = 300.0
    cs_mm: float = 2.7
    amplitude_contrast: float = 0.1
    beam_tilt_mrad: tuple[float, float] = (0.0, 0.0)
    odd_zernike: tuple[float, ...] = ()
    even_zernike: tuple[float, ...] = ()
    magnification: tuple[float, float, float, float] = (1.0, 0.0, 0.0, 1.0)
    envelope: Envelope = field(default_factory=Envelope)
    has_ctf: bool = True
    has_envelope: bool = True
    correction: Literal["none", "phase_flipped", "premultiplied"] = "none"

    @property
    def without_odd_part(self) -> "OpticsGroup":
        """What the contrast transfer is computed from: no name, no antisymmetric aberrations.

        Groups of which this is equal have one contrast transfer, whatever their beam tilts.
        """
        return replace(self, name="", beam_tilt_mrad=(0.0, 0.0), odd_zernike=())

    @property
    def wavelength_A(self) -> float:
        """Electron wavelength in ångströms."""
        return electron_wavelength_A(self.voltage_kV)

    @property
    def box_A(self) -> float:
        """Side of the images in ångströms."""
        return self.pixel_A * self.box_px

    @property
    def largest_stretch(self) -> float:
        """Factor by which the magnification lengthens frequencies at most, at least 1."""
        a, b, c, d = self.magnification
        # The larger singular value of a 2 x 2 matrix.
        return max(1.0, (math.hypot(a + d, b - c) + math.hypot(a - d, b + c)) / 2)

    @property
    def has_odd_aberration(self) -> bool:
        """Whether images carry phases that differ between s and -s."""
        return any(self.odd_zernike) or any(self.beam_tilt_mrad)

    @property
    def is_magnification_isotropic(self) -> bool:
        """Whether the magnification matrix is the identity."""
        return all(
            math.isclose(a, b, abs_tol=1e-9)
            for a, b in zip(self.magnification, (1.0, 0.0, 0.0, 1.0), strict=True)
        )
