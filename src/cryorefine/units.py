"""Physical constants and the few unit conversions that happen at the edges."""

import math

__all__ = ["DEG", "MM_TO_A", "MRAD", "electron_wavelength_A"]

DEG = math.pi / 180.0
"""Radians per degree."""

MRAD = 1e-3
"""Radians per milliradian."""

MM_TO_A = 1e7
"""Ångströms per millimetre."""


def electron_wavelength_A(voltage_kV: float) -> float:
    """Return the relativistic electron wavelength.

    Parameters
    ----------
    voltage_kV
        Accelerating voltage in kilovolts; 300 kV gives 0.0196876 Å.

    Returns
    -------
    Wavelength in ångströms.

    References
    ----------
    .. [1] Reimer & Kohl (2008) Transmission Electron Microscopy, 5th ed., eq. 2.5.
    """
    voltage_V = voltage_kV * 1e3
    return 12.2643247 / math.sqrt(voltage_V * (1.0 + 0.978466e-6 * voltage_V))
