"""Physical envelopes of the contrast transfer as particle files name them."""

import numpy as np

from cryorefine.errors import InputError
from cryorefine.io.star import StarBlock
from cryorefine.optics.group import Envelope

__all__ = ["ENVELOPE_LABELS", "read_envelope"]

ENVELOPE_LABELS = {
    "rlnChromaticAberration": "chromatic_mm",
    "rlnEnergyLoss": "energy_loss_eV",
    "rlnLensStability": "lens_stability_ppm",
    "rlnConvergenceCone": "convergence_mrad",
    "rlnLongitudinalDisplacement": "longitudinal_A",
    "rlnTransversalDisplacement": "transversal_A",
}
"""Labels of RELION's dictionary, in its units, which Xmipp exports too; and what they are here."""


def read_envelope(
    optics: StarBlock, row: int, particles: StarBlock, members: np.ndarray
) -> Envelope:
    """Return the envelope of an optics group.

    Columns stand in ``data_optics``, or in ``data_particles`` where files of older conventions have
    them; there all particles of a group must have one value.

    Parameters
    ----------
    row
        Of the group in ``optics``.
    members
        (m,) rows of its particles.

    Raises
    ------
    InputError
        If particles of the group differ, naming the first that does.
    """
    values = {}
    for label, name in ENVELOPE_LABELS.items():
        if label in optics:
            values[name] = float(optics.floats(label)[row])
        elif label in particles and len(members):
            column = particles.floats(label)[members]
            differs = np.flatnonzero(column != column[0])
            if len(differs):
                first = int(members[differs[0]])
                raise InputError(
                    f"'{particles.shown(first, label)}' differs from that of other particles in "
                    "its optics group",
                    where=particles.where(first, label),
                    do="give these particles an optics group of their own, or leave the column out",
                )
            values[name] = float(column[0])
    return Envelope(**values)
