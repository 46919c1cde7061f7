"""What a particle file holds, for Python programs."""

import os
from pathlib import Path

from cryorefine.api.boundary import library_call
from cryorefine.formats.inspection import Inspection, inspect_particles

__all__ = ["Inspection", "inspect"]


@library_call
def inspect(
    particles: str | os.PathLike[str],
    *,
    ctf: bool = True,
    image_root: str | os.PathLike[str] | None = None,
    scan: bool = False,
) -> Inspection:
    """Look at a particle file and the headers of its stacks, without refining anything.

    Nothing is raised for what is wrong with them: it is among ``errors`` of what is returned.

    Parameters
    ----------
    ctf
        Whether the images have contrast transfer: without, its values may be missing.
    image_root
        Folder that the stacks were moved to.
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
    root = None if image_root is None else Path(image_root)
    return inspect_particles(Path(particles), ctf=ctf, image_root=root, scan=scan)
