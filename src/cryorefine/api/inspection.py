"""What a particle file holds, for Python programs."""

import os
from pathlib import Path

from cryorefine.api.boundary import library_call
from cryorefine.particles.inspection import Inspection, inspect_particles

__all__ = ["Inspection", "inspect"]


@library_call
def inspect(
    particles: str | os.PathLike[str], *, ctf: bool = True, scan: bool = False
) -> Inspection:
    """Look at a particle file and the headers of its stacks, without refining anything.

    Nothing is raised for what is wrong with them: it is among ``errors`` of what is returned.

    Parameters
    ----------
    ctf
        Whether the images have contrast transfer: without, its values may be missing.
    scan
        Whether to read all images, too, for NaN and images of one grey value.

    Examples
    --------
    >>> import cryorefine as cr
    >>> found = cr.inspect("truth_particles.star", scan=True)
    >>> found.n_particles, found.optics[0].box_px, found.pixels.n_not_finite
    (120, 32, 0)
    >>> found.exit_code
    0
    """
    return inspect_particles(Path(particles), ctf=ctf, scan=scan)
