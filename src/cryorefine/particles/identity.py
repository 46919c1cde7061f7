"""What tells that two images show the same particle, beside the file that they are in."""

import numpy as np
from scipy.spatial import KDTree

from cryorefine.particles.table import ParticleTable

__all__ = ["SAME_PLACE_PX", "coordinates_px", "file_names", "nearest_places", "stack_names"]

_COORDINATES = ("rlnCoordinateX", "rlnCoordinateY")

SAME_PLACE_PX = 1.0
"""Distance of coordinates, in pixels of the micrograph, that are one place: programs round them.
Particles that are picked apart lie farther from each other by far."""


def coordinates_px(table: ParticleTable) -> np.ndarray:
    """Return where each particle was picked in its micrograph: (n, 2), NaN where that is unknown.

    In pixels of the micrograph that it was picked in, which extracting it anew does not change.
    """
    if not all(label in table.extra for label in _COORDINATES):
        return np.full((len(table), 2), np.nan)
    try:
        return np.stack([table.extra[label].astype(np.float64) for label in _COORDINATES], -1)
    except ValueError:  # words among them
        return np.full((len(table), 2), np.nan)


def stack_names(table: ParticleTable) -> np.ndarray:
    """Return the name of each stack as the particle file writes it."""
    _, first = np.unique(table.stack_index, return_index=True)
    names = np.full(len(table.stacks), "", np.object_)
    written = [str(name).partition("@")[2] for name in table.names[first]]
    names[table.stack_index[first]] = written
    return names.astype(np.str_)


def file_names(names: np.ndarray) -> np.ndarray:
    """Return the last parts of paths."""
    return np.array([str(name).rpartition("/")[2] for name in names], np.str_)


def nearest_places(
    micrograph: np.ndarray, place_px: np.ndarray, of: tuple[np.ndarray, np.ndarray]
) -> np.ndarray:
    """Return for each place the known one that is the same, -1 where there is none.

    Parameters
    ----------
    micrograph, place_px
        (n,) numbers of micrographs, -1 where there is none, and (n, 2) coordinates.
    of
        The same of the known places. None of them is found twice.
    """
    known_micrograph, known_px = of
    found = np.full(len(micrograph), -1)
    mine = np.flatnonzero((known_micrograph >= 0) & np.isfinite(known_px).all(-1))
    theirs = np.flatnonzero((micrograph >= 0) & np.isfinite(place_px).all(-1))
    if not len(mine) or not len(theirs):
        return found
    extent = 4 * SAME_PLACE_PX + np.abs(known_px[mine]).max() + np.abs(place_px[theirs]).max()

    def apart(number: np.ndarray, places: np.ndarray) -> np.ndarray:
        """Return points of which those of different micrographs are far from each other."""
        return np.concatenate([number[:, None] * extent, places], -1)

    tree = KDTree(apart(known_micrograph[mine], known_px[mine]))
    points = apart(micrograph[theirs], place_px[theirs])
    distance, index = map(np.asarray, tree.query(points, distance_upper_bound=SAME_PLACE_PX))
    order = np.argsort(distance, kind="stable")
    order = order[np.isfinite(distance[order])]
    _, first = np.unique(index[order], return_index=True)  # the nearest of each
    found[theirs[order[first]]] = mine[index[order[first]]]
    return found
